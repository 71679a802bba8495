"""Tensors in a temporary file, for more of them than memory holds."""

import tempfile
import weakref
from collections import defaultdict

import torch
from torch import Tensor

from kdq.errors import UserError


class SpillFile:
    """A temporary file without a name; tensors that are no longer needed make room for others of their size."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self.file.close)
        self.size = 0
        self.free: dict[int, list[int]] = defaultdict(list)
        """Offsets of the free places, by their size in bytes."""

    def write(self, tensor: Tensor) -> "Spilled":
        """Return a place in the file that holds the tensor. Raises UserError if the disk is full."""
        places = self.free[tensor.nbytes]
        offset = places.pop() if places else self.size
        dense = tensor.detach().cpu().clone()  # without gaps, and in the tensor's order of dimensions
        try:
            self.file.seek(offset)
            self.file.write(_bytes(dense))
            self.file.flush()
        except OSError as error:
            raise UserError(
                f"values of the calibration images cannot be written to {tempfile.gettempdir()} ({error.strerror}); "
                "set TMPDIR to a folder with more room, or give fewer images"
            ) from error
        self.size = max(self.size, offset + tensor.nbytes)
        return Spilled(self, offset, torch.empty_like(dense, device="meta"))


class Spilled:
    """A tensor in a SpillFile; its place is free again when nothing refers to it."""

    def __init__(self, file: SpillFile, offset: int, like: Tensor) -> None:
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
        self.file.free[self.like.nbytes].append(self.offset)


def _bytes(dense: Tensor) -> memoryview:
    """Return the memory of a tensor without gaps."""
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data
