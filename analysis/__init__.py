"""Reads what a study logged to MLflow: points, front, best configuration. `python -m analysis --help`."""
