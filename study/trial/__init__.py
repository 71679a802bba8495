"""One trial: its description, its events, and the worker that runs it."""
