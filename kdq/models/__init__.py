"""Classifiers: architectures, checkpoints, the graph of their layers, their accuracy."""
