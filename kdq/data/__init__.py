"""Data sets: where they come from, how they are split, and the augmented views of their images."""
