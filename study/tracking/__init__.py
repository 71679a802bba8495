"""The study's runs in MLflow."""
