"""The packed file, whose payload is exactly the bits that are counted."""
