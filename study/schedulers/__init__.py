"""Early stopping: which trials go on from a rung."""
