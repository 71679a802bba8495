"""Post-training quantization: alphabets, calibration streams, solvers, whole models."""
