"""Points, fronts, tables and figures. Imports neither torch, ray nor mlflow."""
