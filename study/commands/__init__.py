"""What the command line does: run, dry run, extend, prune."""
