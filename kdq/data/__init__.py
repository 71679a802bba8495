"""Data sets: sources, splits and augmented views of their images."""
