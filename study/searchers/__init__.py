"""Searchers: a grid, a random draw, or one of Optuna's samplers."""
