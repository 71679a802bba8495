"""What every scheduler and searcher must keep: the checks that our tests and `python -m kdq check-plugin` run."""
