"""Spaces and workloads: YAML documents that define what is searched, and on what."""
