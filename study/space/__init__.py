"""Spaces and workloads: the YAML documents that say what is searched, and on what."""
