"""The compression core: distill a student, quantize it, count its bits. PyTorch only."""
