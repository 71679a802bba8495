"""Memory that is free in the process, but not yet for the system."""

import ctypes
from collections.abc import Callable
from functools import cache
from mmap import PAGESIZE
from pathlib import Path

GAPS = 2**28
"""Bytes by which resident memory may grow before free memory is returned, which makes what uses it next slower."""


class Heap:
    """The C library's heap, in which temporary tensors of up to 32 MB leave gaps, the more the longer they come and go.

    Where glibc is not the C library, its methods do nothing.
    """

    def __init__(self) -> None:
        self.resident = resident_bytes()
        """Resident memory at its lowest since free memory was last returned."""

    def return_gaps(self) -> None:
        """Return free memory to the system, if resident memory has grown by more than GAPS."""
        resident, trim = resident_bytes(), _malloc_trim()
        if trim is not None and resident > self.resident + GAPS:
            trim(0)
            self.resident = resident_bytes()
        else:
            self.resident = min(self.resident, resident)


def resident_bytes() -> int:
    """Return the resident memory of this process, 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE
    except OSError:
        return 0


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # another C library, or Windows
        return None
    return found
