"""Time limits of requests to the API servers of Kubernetes and Kubeflow Pipelines."""

TIMEOUT_SECONDS = (10, 60)
"""To connect, and to wait for an answer."""
