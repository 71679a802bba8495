"""Benchmarks, each a command that prints a table with the machine, the versions, n and medians."""
