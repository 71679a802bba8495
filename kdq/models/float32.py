"""Float32 that is float32 everywhere.

By default PyTorch lets the convolutions of an Ampere or newer GPU round their float32 inputs to TF32, whose mantissa
has 10 bits instead of 23; a program may allow the same of matrix products (`torch.set_float32_matmul_precision`), on
CPUs too, or ask for another type by autocast. Evaluation, quantization and trainings of precision `float32` must not
depend on that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

_lock = Lock()
_inside = 0
_restore: Callable[[], None] | None = None


@contextmanager
def exact_float32() -> Iterator[None]:
    """Compute convolutions and matrix products of float32 in float32: a context, or a decorator.

    The settings are the process's: threads may be inside together, and the last that leaves restores them.
    """
    global _inside, _restore
    with _lock:
        if not _inside:
            _restore = _settings()
            torch.backends.cudnn.allow_tf32 = False
            torch.set_float32_matmul_precision("highest")
            for operator in _operators():
                operator.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _restore is not None:
                _restore()


@contextmanager
def without_autocast() -> Iterator[None]:
    """Ignore an autocast that the caller is in: a context, or a decorator.

    Not for a training step in bf16: the autocast of the step would keep its copies of the weights after it.
    """
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


def _settings() -> Callable[[], None]:
    """Return a function that restores the settings as they are now."""
    allowed, precision, operators = _is_tf32_allowed(), _matmul_precision(), _operators()
    own = [operator.fp32_precision for operator in operators]

    def restore() -> None:
        torch.backends.cudnn.allow_tf32 = allowed
        if precision is not None:
            torch.set_float32_matmul_precision(precision)
        for operator, value in zip(operators, own, strict=True):
            operator.fp32_precision = value

    return restore


def _is_tf32_allowed() -> bool:
    cudnn = torch.backends.cudnn
    # Since 2.9 PyTorch has a flag for each operator; once a program has set one, the one for all may be unreadable.
    return bool(cudnn.conv.fp32_precision == "tf32" if hasattr(cudnn, "conv") else cudnn.allow_tf32)


def _matmul_precision() -> str | None:
    """Return the setting for all devices, None if a program has set that of one, which makes this one unreadable."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


def _operators() -> list[Any]:
    """Return the operators that have settings of their own, which they do since PyTorch 2.9."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    if not hasattr(mkldnn, "matmul"):
        return []
    return [backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
