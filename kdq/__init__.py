"""The compression core: distill a student, quantize it by GPFQ, count its bits. PyTorch only."""
