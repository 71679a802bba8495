"""Which precision is chosen, by what the hardware has."""

from pathlib import Path

import pytest
import torch

from kdq.distill import precision
from kdq.distill.precision import AMD, Choice, choose
from kdq.distill.recipe import PRECISIONS

INTEL = "GenuineIntel"


def has(
    monkeypatch: pytest.MonkeyPatch, *, amx: bool, bf16: bool, allowed: bool = True, vendor: str | None = AMD
) -> None:
    for name, answer in {
        "_is_amx_tile_supported": amx,
        "_init_amx": amx and allowed,
        "_is_avx512_bf16_supported": bf16,
    }.items():
        monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer)
    monkeypatch.setattr(precision, "_vendor", lambda: vendor)


NEITHER = Choice("float32", "this processor has neither AMX nor AVX-512 BF16")
AMX = Choice("bf16", "this processor has AMX")
ON_AMD = Choice("bf16", "this AMD processor has AVX-512 BF16")
ELSEWHERE = Choice("float32", "this processor has no AMX, and AVX-512 BF16 alone is known to be faster on AMD only")


@pytest.mark.parametrize(
    ("amx", "bf16", "allowed", "vendor", "choice"),
    [
        (True, True, True, INTEL, AMX),
        (True, True, False, INTEL, ELSEWHERE),
        (False, True, True, INTEL, ELSEWHERE),
        (False, True, True, None, ELSEWHERE),
        (False, True, True, AMD, ON_AMD),
        (True, False, False, INTEL, NEITHER),
        (False, False, True, AMD, NEITHER),
    ],
)
def test_a_processor_is_judged_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, amx: bool, bf16: bool, allowed: bool, vendor: str | None, choice: Choice
) -> None:
    has(monkeypatch, amx=amx, bf16=bf16, allowed=allowed, vendor=vendor)
    assert choose("cpu") == choice


@pytest.mark.parametrize(
    ("text", "vendor"),
    [
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\n", AMD),
        ("processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) Xeon(R)\n", INTEL),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", None),
        (None, None),
    ],
)
def test_the_vendor_is_that_of_the_first_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None, vendor: str | None
) -> None:
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(precision, "CPUINFO", file)
    assert precision._vendor() == vendor


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_that_emulates_bf16_trains_in_float32(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    has(monkeypatch, amx=True, bf16=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert choose("cuda").precision == ("bf16" if native else "float32")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("cuda").precision == "float32"


def test_this_machine_always_chooses_alike() -> None:
    first = choose("cpu")
    assert first.precision in PRECISIONS
    assert choose("cpu") == first
