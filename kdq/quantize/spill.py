"""Tensors in temporary files, for more of them than memory holds."""

import tempfile
import weakref
from contextlib import suppress
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from kdq.errors import UserError


class Spill:
    """Tensors on disk: those that nothing refers to any more make room for others."""

    def __init__(self) -> None:
        self.files: WeakValueDictionary[int, _File] = WeakValueDictionary()
        """By the bytes of the tensors that they hold, while they hold any."""

    def write(self, tensor: Tensor) -> "Spilled":
        """Return the tensor as it is on disk. Raises UserError if the disk is full."""
        file = self.files.get(tensor.nbytes)
        if file is None:
            file = self.files[tensor.nbytes] = _File()
        return file.write(tensor)


class _File:
    """A temporary file without a name, of tensors of one size."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.size = 0
        self.free: list[int] = []
        """Offsets of the places that no tensor has any more."""

    def write(self, tensor: Tensor) -> "Spilled":
        """Return a place that holds the tensor."""
        offset = self.free.pop() if self.free else self.size
        dense = tensor.detach().cpu().clone()  # without gaps, and in the tensor's order of dimensions
        try:
            self.file.seek(offset)
            self.file.write(_bytes(dense))
            self.file.flush()
        except OSError as error:
            with suppress(OSError):  # what is still in its buffer cannot be written either
                self.file.close()
            raise UserError(
                f"values of the calibration images cannot be written to {tempfile.gettempdir()} ({error.strerror}); "
                "set TMPDIR to a folder with more room, or give fewer images"
            ) from error
        self.size = max(self.size, offset + tensor.nbytes)
        return Spilled(self, offset, torch.empty_like(dense, device="meta"))


class Spilled:
    """A tensor in a file; its place is free again when nothing refers to it."""

    def __init__(self, file: _File, offset: int, like: Tensor) -> None:
        self.file = file
        self.offset = offset
        self.like = like
        """A tensor of the same shape, strides and dtype on the meta device."""

    def read(self) -> Tensor:
        """Return the tensor, on the CPU."""
        tensor = torch.empty_like(self.like, device="cpu")
        self.file.file.seek(self.offset)
        self.file.file.readinto(_bytes(tensor))
        return tensor

    def __del__(self) -> None:
        self.file.free.append(self.offset)


def _bytes(dense: Tensor) -> memoryview:
    """Return the memory of a tensor without gaps."""
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data
