"""Distillation: losses, methods, the training loop, teachers and the cache of their logits."""
