"""A browser's way past MLflow's login: the link that a person gets in the terminal."""

import requests


def log_in(page, services: dict[str, str]) -> None:
    """Open a new link of MLflow in `page` (playwright's), and wait until MLflow's own page has taken its place."""
    uri, token = services["MLFLOW_TRACKING_URI"], services["MLFLOW_TRACKING_TOKEN"]
    code = requests.post(f"{uri}/login/code", headers={"Authorization": f"Bearer {token}"}, timeout=20)
    code.raise_for_status()
    page.goto(f"{uri}/login#{code.text}")
    page.get_by_text("Model registry", exact=True).first.wait_for()
