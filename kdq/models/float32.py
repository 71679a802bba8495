"""Float32 that is float32 on a GPU too.

By default PyTorch lets the convolutions of an Ampere or newer GPU round their float32 inputs to TF32, whose mantissa
has 10 bits instead of 23. Evaluation, quantization and trainings of precision `float32` must not depend on that. Matrix
products are float32 by default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import torch

_lock = Lock()
_inside = 0
_allowed = False


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute convolutions of float32 in float32: a context, or a decorator.

    The flag is one of the process: threads may be inside together, and the last that leaves restores it.
    """
    global _inside, _allowed
    with _lock:
        if not _inside:
            _allowed = _is_tf32_allowed()
            torch.backends.cudnn.allow_tf32 = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                torch.backends.cudnn.allow_tf32 = _allowed


def _is_tf32_allowed() -> bool:
    cudnn = torch.backends.cudnn
    # Since 2.9 PyTorch has a flag for each operator; once a program has set one, the one for all may be unreadable.
    return bool(cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32)
