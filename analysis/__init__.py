"""Analyses a study from MLflow: points, front, best configuration, replays. See `python -m analysis --help`."""
