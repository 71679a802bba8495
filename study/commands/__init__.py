"""The commands of the command line: run, dry run, extend, prune."""
