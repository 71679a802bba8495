"""The one verb: quantize(model, calibration images, configuration) -> quantized model and report."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdq.alphabet import FLOAT_BITS, Alphabet, check_bits
from kdq.calibrate import Moments, Stream, matrix, outputs, patches, unmatrix
from kdq.errors import UserError, unknown
from kdq.graph import PREFIX, Network, Site, check_finite, fold, layer, network
from kdq.models import Classifier
from kdq.quantizers import NEED_FLOAT_INPUTS, QUANTIZERS, Problem

CALIBRATION_IMAGES = 512
"""Enough: more images change the accuracy by less than another choice of them."""


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """How to quantize.

    bits: the width of every layer, 1 to 8, or 32 for float; or a mapping that names each layer's, by the
    names of `layer_names`. method: a name in QUANTIZERS.
    """

    bits: int | Mapping[str, int] = 4
    method: str = "gpfq"

    def __post_init__(self) -> None:
        if isinstance(self.bits, Mapping):
            for name, bits in self.bits.items():
                check_bits(bits, f"bits[{name!r}]")
        else:
            check_bits(self.bits)
        if self.method not in QUANTIZERS:
            raise unknown("quantization method", self.method, QUANTIZERS)

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """The width of each of the layers. Raises UserError for a mapping that does not name just these."""
        if not isinstance(self.bits, Mapping):
            return dict.fromkeys(names, self.bits)
        for name in self.bits:
            if name not in names:
                raise unknown("layer in bits", name, names)
        if missing := [name for name in names if name not in self.bits]:
            raise UserError(
                f"bits names no width for {', '.join(missing)}: must name every layer; 32 leaves one in float"
            )
        return {name: self.bits[name] for name in names}


@dataclass(frozen=True, slots=True)
class QuantizedLayer:
    """A layer as it is stored: its weight is (codes − offset) · scale, one scale an output channel.

    codes: uint8 in the shape of the weight; scale and bias: float16 [output channels].
    """

    bits: int
    codes: Tensor
    scale: Tensor
    bias: Tensor

    def weight(self) -> Tensor:
        """The float32 weight that the model computes with."""
        scale = self.scale.float().view(-1, *[1] * (self.codes.dim() - 1))
        return Alphabet(self.bits).values(self.codes, scale)


@dataclass(frozen=True, slots=True)
class LayerReport:
    """One row of the report.

    error: ‖Y − Ŷ‖ / ‖Y‖ over the calibration images, Y the outputs wanted of the layer less their mean, Ŷ
    those it gives on the inputs it gets; seconds: time spent in the solver.
    """

    name: str
    shape: tuple[int, ...]
    bits: int
    levels: int
    scales: int
    error: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantized model: `model` to run, `layers` to store (float layers are not in it), `report` to read."""

    model: Classifier
    config: QuantizeConfig
    layers: Mapping[str, QuantizedLayer]
    report: tuple[LayerReport, ...]


def layer_names(model: Classifier) -> tuple[str, ...]:
    """The layers that are quantized, in the order they are run."""
    return tuple(site.name.removeprefix(PREFIX) for site in network(fold(model)).sites)


def choose_calibration(images: Tensor, *, seed: int, count: int = CALIBRATION_IMAGES) -> Tensor:
    """`count` images (all, if there are fewer) drawn without replacement by the seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count].sort().values
    return images[chosen.to(images.device)]


def quantize(model: Classifier, calibration_images: Tensor, config: QuantizeConfig) -> Quantized:
    """Quantize every convolution and linear layer; the model given is left as it is.

    calibration_images: uint8 [N, C, H, W] (or float in [0, 1]) on the model's device. Raises UserError for
    widths that do not fit the model, and for NaN in weights or images, with the layer's name.
    """
    return quantize_many(model, calibration_images, [config])[0]


@torch.no_grad()
def quantize_many(model: Classifier, calibration_images: Tensor, configs: Sequence[QuantizeConfig]) -> list[Quantized]:
    """The same as `quantize` for each of the configurations, but what they share is computed once.

    All go through the network together, layer by layer, beside one float stream: a layer is quantized for
    every configuration as soon as its inputs are known, and its quantized outputs are the next one's inputs.
    """
    if len(calibration_images) == 0:
        raise UserError("0 calibration images: must be at least 1; 512 are enough")
    folded = fold(model)
    plan = network(folded)
    for key, value in folded.state_dict().items():
        module = key.removeprefix(PREFIX).rpartition(".")
        check_finite(value, f"layer {module[0]}: its {module[2]}")
    jobs = [_Job(plan, folded, calibration_images, config) for config in configs]
    working = [job for job in jobs if job.quantizes]
    source = Stream(plan, folded, calibration_images)
    for site in plan.sites if working else ():
        for job, observed in zip(working, _observe(site, source, working), strict=True):
            job.quantize(site, observed)
    return [Quantized(job.model, job.config, job.layers, tuple(job.report)) for job in jobs]


class _Job:
    """One configuration on its way through the network."""

    def __init__(self, plan: Network, folded: Classifier, images: Tensor, config: QuantizeConfig) -> None:
        self.config = config
        self.widths = config.widths([site.name.removeprefix(PREFIX) for site in plan.sites])
        self.quantizes = any(bits != FLOAT_BITS for bits in self.widths.values())
        self.model = copy.deepcopy(folded)
        self.stream = Stream(plan, self.model, images)
        self.layers: dict[str, QuantizedLayer] = {}
        self.report: list[LayerReport] = []

    def quantize(self, site: Site, moments: Moments) -> None:
        """Quantize one layer of the job's model, if it is to be."""
        started = time.perf_counter()
        name = site.name.removeprefix(PREFIX)
        bits = self.widths[name]
        if bits == FLOAT_BITS:
            return
        module = layer(self.model, site.name)
        assert module.bias is not None
        W = matrix(module.weight.double(), module)
        problem = Problem(W, module.bias.double().view(W.shape[:2]), moments, Alphabet(bits))
        solution = QUANTIZERS[self.config.method](problem)
        bias = solution.bias.flatten().half()
        check_finite(bias, f"layer {name}: its bias in float16")
        stored = QuantizedLayer(bits, unmatrix(solution.codes, module), solution.scale.flatten().half(), bias)
        module.weight.data, module.bias.data = stored.weight(), stored.bias.float()
        self.layers[name] = stored
        error = moments.relative_error(matrix(module.weight.double(), module))
        seconds = time.perf_counter() - started
        shape = tuple(module.weight.shape)
        self.report.append(LayerReport(name, shape, bits, 1 << bits, shape[0], error, seconds))


def _observe(site: Site, source: Stream, jobs: Sequence[_Job]) -> list[Moments]:
    """The moments of one layer for each job, with all streams run up to it."""
    module = layer(source.model, site.name)
    totals: list[Moments | None] = [None] * len(jobs)
    for index in range(len(source.batches)):
        if any(job.config.method in NEED_FLOAT_INPUTS for job in jobs):
            X = patches(source.advance(index, site.position)[site.source], module)
        values = source.advance(index, site.position + 1)
        outputs_float = values[source.network.nodes[site.position]]
        for number, job in enumerate(jobs):
            reached = job.stream.advance(index, site.position)
            wanted = outputs_float
            if site.partner is not None and reached[site.partner].shape == wanted.shape:
                wanted = wanted + (values[site.partner] - reached[site.partner])
            x = X if job.config.method in NEED_FLOAT_INPUTS else None
            batch = Moments.of(patches(reached[site.source], module), outputs(wanted, module), x)
            totals[number] = batch.plus(totals[number])
    moments = [total for total in totals if total is not None]
    for total in moments:
        check_finite(total.G, f"layer {site.name.removeprefix(PREFIX)}: its inputs from the calibration images")
    return moments
