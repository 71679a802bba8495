"""What every member of a table must keep: the checks that our tests and `python -m kdq check-plugin` run."""
