"""Distillation: losses, methods, the training loop, and where the teacher's logits come from."""
