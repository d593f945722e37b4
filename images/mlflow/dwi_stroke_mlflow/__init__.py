"""MLflow's server with a login and with all artifacts in one place: mlflow server --app-name dwi-stroke.

MLflow finds it by the entry point in `dwi_stroke_mlflow.dist-info` if PYTHONPATH holds the parent of this folder. A
laptop and the image mlflow use the same code, which imports nothing else from this repository.
"""
