"""Figures of the command line, each drawn from a table."""
