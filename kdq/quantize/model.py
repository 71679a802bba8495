"""Whole models: quantize(model, calibration images, configuration) -> quantized model and report."""

import copy
import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from kdq.models.classifier import Classifier
from kdq.models.graph import PREFIX, Network, Site, check_finite, fold, layer, network
from kdq.quantize.activations import InputQuantizer, InputRange, attach, find_range
from kdq.quantize.algorithms import Problem, Solution
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.config import CALIBRATION_IMAGES, DTYPES, QuantizeConfig
from kdq.quantize.gram import GramStatistics
from kdq.quantize.layout import matrix, outputs, patches, unmatrix
from kdq.quantize.result import LayerReport, Quantized, QuantizedLayer
from kdq.quantize.stream import Stream
from kdq.store.stage import digest


def layer_names(model: Classifier) -> tuple[str, ...]:
    """Return the names of the layers to be quantized, in execution order."""
    return tuple(site.name.removeprefix(PREFIX) for site in network(fold(model)).sites)


def choose_calibration(images: Tensor, *, seed: int, count: int = CALIBRATION_IMAGES) -> Tensor:
    """Draw `count` images (all, if there are fewer) without replacement, determined by the seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count].sort().values
    return images[chosen.to(images.device)]


def quantize(model: Classifier, calibration_images: Tensor, config: QuantizeConfig) -> Quantized:
    """Quantize every convolution and linear layer of a copy of the model.

    calibration_images: uint8 [N, C, H, W] (or float in [0, 1]) on the model's device. Raises UserError for
    widths that do not fit the model, and, naming the layer, for NaN in weights or images.
    """
    return quantize_many(model, calibration_images, [config])[0]


@torch.no_grad()
def quantize_many(model: Classifier, calibration_images: Tensor, configs: Sequence[QuantizeConfig]) -> list[Quantized]:
    """Quantize the model by each of the configurations, computing once what they share.

    All advance through the network together, layer by layer, beside one float stream: a layer is quantized for
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
        inputs = [job.find_inputs(site) for job in working]
        for job, observed, found in zip(working, _observe(site, source, working, inputs), inputs, strict=True):
            job.quantize(site, observed, found)
    return [Quantized(job.model, job.config, job.layers, tuple(job.report)) for job in jobs]


class _Job:
    """The state of one configuration while the network is quantized layer by layer."""

    def __init__(self, plan: Network, folded: Classifier, images: Tensor, config: QuantizeConfig) -> None:
        self.config = config
        self.widths = config.allocation.by_layer([site.name.removeprefix(PREFIX) for site in plan.sites])
        self.quantizes = any(bits != FLOAT_BITS for bits in self.widths.values())
        self.model = copy.deepcopy(folded)
        self.stream = Stream(plan, self.model, images)
        self.layers: dict[str, QuantizedLayer] = {}
        self.report: list[LayerReport] = []

    def find_inputs(self, site: Site) -> InputRange | None:
        """Return the levels of the inputs of a layer, None if they stay in float."""
        bits = self.config.activation_bits
        if bits is None or self.widths[_name(site)] == FLOAT_BITS:
            return None

        def batches() -> Iterator[Tensor]:
            for index in range(len(self.stream.batches)):
                values: Tensor = self.stream.advance(index, site.position)[site.source]
                check_finite(values, f"layer {_name(site)}: its inputs from the calibration images")
                yield values

        return find_range(batches, bits)

    def quantize(self, site: Site, statistics: GramStatistics, inputs: InputRange | None) -> None:
        """Quantize one layer of the job's model, unless it stays in float."""
        started = time.perf_counter()
        bits = self.widths[_name(site)]
        if bits == FLOAT_BITS:
            return
        module = layer(self.model, site.name)
        solution, alphabet = self._solve(site, bits, statistics)
        check_finite(solution.bias, f"layer {_name(site)}: its bias")
        dtype = DTYPES[self.config.stored]
        if solution.bias.abs().max() > torch.finfo(dtype).max:
            dtype = torch.float32  # as in a barely trained model; the larger size counts
        scale, bias = (t.flatten().to(dtype) for t in (solution.scale, solution.bias))
        zero_point = None if solution.zero_point is None else solution.zero_point.flatten()
        stored = QuantizedLayer(alphabet, unmatrix(solution.codes, module), scale, bias, inputs, zero_point)
        assert module.bias is not None
        module.weight.data, module.bias.data = stored.weight(), stored.bias.float()
        if inputs is not None:
            attach(module, inputs)
        self.layers[_name(site)] = stored
        error = statistics.relative_error(matrix(module.weight.double(), module))
        self.report.append(_describe(_name(site), stored, error, time.perf_counter() - started))

    def _solve(self, site: Site, bits: int, statistics: GramStatistics) -> tuple[Solution, Alphabet]:
        module, config = layer(self.model, site.name), self.config
        assert module.bias is not None
        W = matrix(module.weight.double(), module)
        problem = Problem(
            W,
            module.bias.double().view(W.shape[:2]),
            statistics,
            config.quantizer.alphabet(bits, config.parameters),
            config.parameters,
            DTYPES[config.stored],
            torch.Generator().manual_seed(int(digest(f"{config.seed}/{_name(site)}")[:15], 16)),
        )
        return config.quantizer.solve(problem), problem.alphabet


def _name(site: Site) -> str:
    return site.name.removeprefix(PREFIX)


def _describe(name: str, layer: QuantizedLayer, error: float, seconds: float) -> LayerReport:
    weight = layer.weight()
    return LayerReport(
        name=name,
        shape=tuple(weight.shape),
        bits=layer.alphabet.bits,
        levels=layer.alphabet.levels,
        scales=layer.scale.numel(),
        error=error,
        nonzero=weight.count_nonzero().item() / weight.numel(),
        seconds=seconds,
    )


def _observe(
    site: Site, source: Stream, jobs: Sequence[_Job], inputs: Sequence[InputRange | None]
) -> list[GramStatistics]:
    """Advance all streams to one layer; return its statistics for each job, on the inputs as it will receive them."""
    module = layer(source.model, site.name)
    totals: list[GramStatistics | None] = [None] * len(jobs)
    rounding = [None if found is None else InputQuantizer(found).to(source.model.mean.device) for found in inputs]
    need_float_inputs = any(job.config.quantizer.needs_float_inputs for job in jobs)
    for index in range(len(source.batches)):
        if need_float_inputs:
            X = patches(source.advance(index, site.position)[site.source], module)
        values = source.advance(index, site.position + 1)
        outputs_float = values[source.network.nodes[site.position]]
        for number, job in enumerate(jobs):
            reached = job.stream.advance(index, site.position)
            wanted = outputs_float
            if site.partner is not None and reached[site.partner].shape == wanted.shape:
                wanted = wanted + (values[site.partner] - reached[site.partner])
            seen = reached[site.source] if (rounded := rounding[number]) is None else rounded(reached[site.source])
            x = X if job.config.quantizer.needs_float_inputs else None
            rows = patches(seen, module), outputs(wanted, module), x
            batch = GramStatistics.of(*rows, dtype=DTYPES[job.config.accumulate])
            totals[number] = batch.plus(totals[number])
    statistics = [total for total in totals if total is not None]
    for total in statistics:
        check_finite(total.G, f"layer {_name(site)}: its inputs from the calibration images")
    return statistics
