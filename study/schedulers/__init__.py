"""Schedulers for early stopping: which trials continue after a rung."""
