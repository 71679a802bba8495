"""Post-training quantization: alphabets, the calibration streams, the solvers, whole models."""
