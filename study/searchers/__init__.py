"""What is tried next: a grid, a random draw, or one of Optuna's samplers."""
