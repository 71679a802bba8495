"""Which precision trains faster here: bf16 where the hardware has instructions for it, else float32.

The choice depends on what the processor or the GPU has, not on a measurement, so one machine always chooses alike.
`benchmarks/instructions.py` shows on any machine whether the choice is right, docs/results/README.md on which it was.
"""

from pathlib import Path
from typing import NamedTuple

import torch

AMD = "AuthenticAMD"
"""AVX-512 BF16 alone trains faster on AMD processors; on an Intel one it was slower than float32."""
CPUINFO = Path("/proc/cpuinfo")


class Choice(NamedTuple):
    """A precision of PRECISIONS, and the property of the hardware that decided for it, as a clause."""

    precision: str
    reason: str


def choose(device: str) -> Choice:
    """Return the faster precision of the forward and backward passes on a device type, `cpu` or `cuda`, here.

    Without such instructions bf16 is emulated: on a CPU it then takes 2 to 14 times as long as float32.
    """
    if device == "cuda":
        return _of_gpu()
    if _has_amx():
        return Choice("bf16", "this processor has AMX")
    if not torch.cpu._is_avx512_bf16_supported():
        return Choice("float32", "this processor has neither AMX nor AVX-512 BF16")
    if _vendor() == AMD:
        return Choice("bf16", "this AMD processor has AVX-512 BF16")
    return Choice("float32", "this processor has no AMX, and AVX-512 BF16 alone is known to be faster on AMD only")


def _has_amx() -> bool:
    """Return whether the processor has AMX, and the operating system lets this process use it."""
    return torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()


def _vendor() -> str | None:
    """Return the processor's vendor as Linux names it, None on other systems."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), None)


def _of_gpu() -> Choice:
    if not torch.cuda.is_available():
        return Choice("float32", "this machine has no GPU that could be asked for bf16")
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Choice("bf16", "this GPU computes in bf16")
    return Choice("float32", "this GPU does not compute in bf16")
