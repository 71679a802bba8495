"""The packed file: exactly the bits that are counted."""
