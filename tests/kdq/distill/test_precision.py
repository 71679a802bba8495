"""Which precision is chosen, by what the hardware has."""

import pytest
import torch

from kdq.distill.precision import choose
from kdq.distill.recipe import PRECISIONS


def has(monkeypatch: pytest.MonkeyPatch, *, amx: bool, bf16: bool, allowed: bool = True) -> None:
    for name, answer in {
        "_is_amx_tile_supported": amx,
        "_init_amx": amx and allowed,
        "_is_avx512_bf16_supported": bf16,
    }.items():
        monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer)


@pytest.mark.parametrize(
    ("amx", "bf16", "allowed", "precision", "reason"),
    [
        (True, True, True, "bf16", "this processor has AMX"),
        (True, True, False, "bf16", "this processor has AVX-512 BF16"),
        (False, True, True, "bf16", "this processor has AVX-512 BF16"),
        (True, False, False, "float32", "this processor has neither AMX nor AVX-512 BF16"),
        (False, False, True, "float32", "this processor has neither AMX nor AVX-512 BF16"),
    ],
)
def test_a_processor_is_judged_by_its_instructions(
    monkeypatch: pytest.MonkeyPatch, amx: bool, bf16: bool, allowed: bool, precision: str, reason: str
) -> None:
    has(monkeypatch, amx=amx, bf16=bf16, allowed=allowed)
    assert choose("cpu") == (precision, reason)


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
