"""Free memory of the heap goes back to the system, where the C library can return it."""

import subprocess
import sys

import pytest

from kdq.quantize.heap import Heap, _malloc_trim

GAPS = """
import torch
from kdq.quantize.heap import Heap, resident_bytes

torch.empty(2**22).fill_(1)  # 16 MB, which the library maps: from then on it takes smaller ones from the heap
heap, kept, gaps = Heap(), [], []
for _ in range(128):
    gaps.append(torch.ones(2**20))
    kept.append(torch.ones(2**10))
full = resident_bytes()
del gaps
free = resident_bytes()
Heap().return_gaps()  # has not seen memory grow
unseen = resident_bytes()
heap.return_gaps()
print(*((full - resident) / 2**20 for resident in (free, unseen, resident_bytes())))
"""


@pytest.mark.skipif(_malloc_trim() is None, reason="this C library does not return the memory between others")
def test_gaps_go_back_to_the_system() -> None:
    """128 gaps of 4 MB between tensors that stay, in a process of their own."""
    child = subprocess.run([sys.executable, "-c", GAPS], capture_output=True, text=True, check=True)
    free, unseen, after = map(float, child.stdout.split())
    assert max(free, unseen) < 32 < 480 < after


def test_nothing_is_done_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdq.quantize.heap.resident_bytes", lambda: 0)
    heap = Heap()
    heap.return_gaps()
    assert heap.resident == 0
