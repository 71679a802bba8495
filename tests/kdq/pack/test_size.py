from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn

from kdq.models.classifier import Classifier, Normalization, build
from kdq.pack.size import avg_bits, packed_bytes, paper_bits, size_breakdown, total_bits
from kdq.quantize.config import QuantizeConfig
from kdq.quantize.model import layer_names, quantize
from kdq.quantize.result import Quantized

NORMALIZATION = Normalization((0.5,), (0.25,))


def tiny() -> Classifier:
    """A 1 → 2 convolution 3x3, a batch norm, and 2 → 3 linear: 18 + 6 weights, 2 + 3 biases once folded."""

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, bias=False)
            self.norm = nn.BatchNorm2d(2)
            self.out = nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.norm(self.conv(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier("tiny", Tiny(), 3, NORMALIZATION)


def images() -> Tensor:
    return torch.randint(0, 256, (8, 1, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_size_breakdown_by_hand() -> None:
    made = quantize(tiny(), images(), QuantizeConfig({"conv": 3, "out": 32}))
    conv, out = size_breakdown(made)
    # 18 codes of 3 bits are 54 bits, 7 bytes; 2 scales and 2 biases of 16 bits; 6 + 3 floats of 32.
    assert asdict(conv) == {"layer": "conv", "bits": 3, "codes": 56, "scales": 32, "zero_points": 0, "leftovers": 32}
    assert asdict(out) == {"layer": "out", "bits": 32, "codes": 0, "scales": 0, "zero_points": 0, "leftovers": 288}
    assert total_bits(made) == conv.total + out.total == 120 + 288
    assert avg_bits(made) == 408 / 29


def test_size_breakdown_of_the_papers_alphabet_with_quantized_inputs_by_hand() -> None:
    config = QuantizeConfig({"conv": 3, "out": 32}, "gpfq_paper", activation_bits=6, stored="float32")
    made = quantize(tiny(), images(), config)
    conv, out = size_breakdown(made)
    # 18 codes of 9 levels take 4 bits each: 9 bytes; one scale of 32 bits, one of the inputs, 2 biases of 32.
    assert asdict(conv) == {"layer": "conv", "bits": 3, "codes": 72, "scales": 64, "zero_points": 8, "leftovers": 64}
    assert out.total == 288
    assert avg_bits(made) == (72 + 64 + 8 + 64 + 288) / 29


def test_size_breakdown_of_an_asymmetric_grid_by_hand() -> None:
    config = QuantizeConfig({"conv": 3, "out": 5}, "rtn", {"asymmetric": 1}, activation_bits=8)
    conv, out = size_breakdown(quantize(tiny(), images(), config))
    # Two zero points of 3 bits are 6, 1 byte; three of 5 bits are 15, 2 bytes; the inputs' own of 8 bits beside them.
    assert asdict(conv) == {"layer": "conv", "bits": 3, "codes": 56, "scales": 64, "zero_points": 16, "leftovers": 32}
    assert asdict(out) == {"layer": "out", "bits": 5, "codes": 32, "scales": 80, "zero_points": 24, "leftovers": 48}


def test_float_model_has_32_bits_a_parameter() -> None:
    made = quantize(tiny(), images(), QuantizeConfig(32))
    assert avg_bits(made) == 32
    assert total_bits(made) == 32 * 29


def test_packed_bytes_fill_the_last_byte_only() -> None:
    assert [packed_bytes(9, bits) for bits in (1, 2, 3, 5, 8)] == [2, 3, 4, 6, 9]
    assert packed_bytes(0, 3) == 0


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8])
def test_total_is_codes_scales_and_biases_and_nothing_else(bits: int) -> None:
    model = build("resnet8", classes=10, normalization=NORMALIZATION, seed=0)
    made = quantize(model, images(), QuantizeConfig(bits, "rtn"))
    shapes = [row.shape for row in made.report]
    codes = sum(8 * -(-bits * torch.Size(shape).numel() // 8) for shape in shapes)
    assert total_bits(made) == codes + sum(2 * 16 * shape[0] for shape in shapes)
    assert [row.layer for row in size_breakdown(made)] == list(layer_names(model))
    assert bits < avg_bits(made) < bits + 0.6


def test_paper_bits_are_nonzero_weights_times_nominal_bits() -> None:
    made: Quantized = quantize(tiny(), images(), QuantizeConfig({"conv": 2, "out": 32}))
    made.model.net.conv.weight.data[0] = 0
    nonzero = int(made.model.net.conv.weight[1].count_nonzero())
    assert paper_bits(made) == 2 * nonzero + 32 * 6
    assert paper_bits(made) < total_bits(made)


def test_norm_that_does_not_fold_is_counted_as_float() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x).relu()).mean((2, 3))  # type: ignore[no-any-return]

    made = quantize(Classifier("late", Late(), 2, NORMALIZATION), images(), QuantizeConfig(4))
    rows = {row.layer: row for row in size_breakdown(made)}
    assert rows["norm"].total == rows["norm"].leftovers == 4 * 2 * 32  # weight, bias, mean, variance
    assert rows["norm"].bits == 32
