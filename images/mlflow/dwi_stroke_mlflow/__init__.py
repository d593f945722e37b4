"""MLflow's server with a login, and with artifacts in one place alone: mlflow server --app-name dwi-stroke.

MLflow finds it by the entry point in `dwi_stroke_mlflow.dist-info` where PYTHONPATH holds this folder's parent. It is
the same on a laptop and in the image mlflow, and needs nothing of this repository.
"""
