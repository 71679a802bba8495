"""Whole models: quantize(model, calibration images, configuration) -> quantized model and report."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdq.bits import FLOAT_BITS
from kdq.errors import UserError
from kdq.models.classifier import LARGEST_SIDE, Classifier
from kdq.models.coverage import check_coverage
from kdq.models.float32 import exact_float32, without_autocast
from kdq.models.graph import Network, Site, check_finite, fold, layer, network
from kdq.models.images import as_float, as_tensor, check_images
from kdq.models.prepare import PREFIX, Layer, prepare, tensor_name
from kdq.quantize.activations import InputQuantizer, InputRange, attach, find_range
from kdq.quantize.algorithms import Problem, Solution
from kdq.quantize.config import CALIBRATION_IMAGES, DTYPES, QuantizeConfig
from kdq.quantize.gram import GramStatistics
from kdq.quantize.layout import AT_ONCE, matrix, outputs, patches, unmatrix
from kdq.quantize.result import LayerReport, Quantized, QuantizedLayer
from kdq.quantize.stream import Stream, check_stream
from kdq.store.stage import digest

PRECISION = 2.0**-9
"""Relative error that a stored scale or bias may have: half a step at the largest of 8-bit weights."""

PROBE = 8
"""Images on which the logits show whether a larger error matters."""


def layer_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the layers to be quantized, in execution order; see `quantize`."""
    return tuple(site.name.removeprefix(PREFIX) for site in network(fold(model)).sites)


def choose_calibration(images: Tensor, *, seed: int, count: int = CALIBRATION_IMAGES) -> Tensor:
    """Draw `count` images (all, if there are fewer) without replacement, determined by the seed."""
    images = as_tensor(images, "images")
    if count < 1:
        raise UserError(f"count = {count}: must be at least 1; {CALIBRATION_IMAGES} are enough")
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(images), generator=generator)[:count].sort().values
    return images[chosen.to(images.device)]


def quantize(model: nn.Module, calibration_images: Tensor, config: QuantizeConfig) -> Quantized:
    """Quantize every weight of a copy of the model.

    model: a Classifier, bare or in a wrapper such as DataParallel, of any floating-point dtype; the copy is float32.
    calibration_images: uint8, or floating-point in [0, 1], [N, C, H, W]; a tensor or a NumPy array; of the size in the
    model's signature. If it has none, the quantized model is one for images of this size.

    Quantized are the weights of nn.Conv1d, nn.Conv2d and nn.Linear, and of the projections of nn.MultiheadAttention,
    alone or in nn.TransformerEncoder, which become layers of their own (`q_proj`, `k_proj`, `v_proj`, `out_proj`).
    Normalisations, biases, and parameters that are only added to activations or scale their channels stay in float. A
    model with any other parameters is refused: nothing else stays in float in silence (the rule is that of
    `kdq.models.coverage`). A layer that is called more than once is quantized on the inputs of its first call; layers
    that share a weight get one each. With 32 bits everything stays in float, and any model is accepted that can be
    traced, by torch.fx or, for images of one size, by torch.export.

    Raises UserError for such a model, for images that are none, for widths that do not fit the model, and, naming layer
    and tensor, for NaN and infinite values.
    """
    return quantize_many(model, calibration_images, [config])[0]


@torch.no_grad()
@exact_float32()
@without_autocast()
def quantize_many(model: nn.Module, calibration_images: Tensor, configs: Sequence[QuantizeConfig]) -> list[Quantized]:
    """Quantize the model by each of the configurations, computing once what they share.

    All advance through the network together, layer by layer, beside one float stream: a layer is quantized for
    every configuration as soon as its inputs are known, and its quantized outputs are the next one's inputs.
    """
    for config in configs:
        if not isinstance(config, QuantizeConfig):
            raise UserError(f"config = {config!r}: must be a QuantizeConfig, such as QuantizeConfig(bits=4)")
    plan, folded, images = _folded(model, calibration_images)
    jobs = [_Job(plan, folded, images, config) for config in configs]
    working = [job for job in jobs if job.quantizes]
    if working:
        check_coverage(folded, plan)
    source = Stream(plan, folded, images)
    for site in plan.sites if working else ():
        inputs = [job.find_inputs(site) for job in working]
        for job, observed, found in zip(working, _observe(site, source, working, inputs), inputs, strict=True):
            job.quantize(site, observed, found)
    return [Quantized(job.model, job.config, job.layers, tuple(job.report)) for job in jobs]


@torch.no_grad()
@exact_float32()
@without_autocast()
def check_supported(model: nn.Module, images: Tensor) -> None:
    """Raise UserError for a model that `quantize` refuses below 32 bits. Two images are enough."""
    plan, folded, _ = _folded(model, images)
    check_coverage(folded, plan)


def _folded(model: nn.Module, calibration_images: Tensor) -> tuple[Network, Classifier, Tensor]:
    """Return the network of a folded copy, the copy, and the images, all three checked."""
    folded = fold(model, _size(calibration_images))
    size = folded.signature.image_size
    images = check_images(calibration_images, channels=folded.mean.shape[1], size=size, what="calibration images")
    plan = network(folded)
    original = prepare(model)
    for key, value in [*original.state_dict().items(), *folded.state_dict().items()]:
        check_finite(value, tensor_name(key))
    check_stream(plan, folded, original, images)
    return plan, folded, images


class _Job:
    """The state of one configuration while the network is quantized layer by layer."""

    def __init__(self, plan: Network, folded: Classifier, images: Tensor, config: QuantizeConfig) -> None:
        self.config = config
        self.widths = config.allocation.by_layer([site.name.removeprefix(PREFIX) for site in plan.sites])
        self.quantizes = any(bits != FLOAT_BITS for bits in self.widths.values())
        self.model = copy.deepcopy(folded)
        self.stream = Stream(plan, self.model, images)
        self.probe = as_float(images[:PROBE].to(folded.mean.device))
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
        problem, solution = self._solve(site, bits, statistics)
        scale, bias = (t.flatten().to(problem.stored) for t in (solution.scale, solution.bias))
        zero_point = None if solution.zero_point is None else solution.zero_point.flatten()
        codes = unmatrix(solution.codes, module)
        stored = QuantizedLayer(problem.alphabet, codes, scale, bias, inputs, zero_point)
        assert module.bias is not None
        module.weight.data, module.bias.data = stored.weight(), stored.bias.float()
        if inputs is not None:
            attach(module, inputs)
        self.layers[_name(site)] = stored
        error = statistics.relative_error(matrix(module.weight.double(), module))
        self.report.append(_describe(_name(site), stored, error, time.perf_counter() - started))

    def _solve(self, site: Site, bits: int, statistics: GramStatistics) -> tuple[Problem, Solution]:
        """Solve with scales and biases in the dtype asked for, or in float32 if it cannot hold all that matter."""
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
            self._generator(site),
        )
        solution = config.quantizer.solve(problem)
        if problem.stored != torch.float32 and self._loses(site, problem, solution):
            problem = replace(problem, stored=torch.float32, generator=self._generator(site))
            solution = config.quantizer.solve(problem)
        check_finite(solution.bias, f"layer {_name(site)}: its bias")
        return problem, solution

    def _loses(self, site: Site, problem: Problem, solution: Solution) -> bool:
        """Return whether rounding to the dtype in which scales and biases are stored changes the logits.

        Those that keep their value to PRECISION do not. A channel whose scale does not, because it is too small or too
        large, counts as lost, which matters unless the network ignores the channel, as trained networks do with some.
        """
        limits, change = torch.finfo(problem.stored), solution.bias.to(problem.stored) - solution.bias
        least = limits.smallest_normal * limits.eps / 2 / PRECISION  # so far apart are numbers below smallest_normal
        scale = solution.scale.abs()
        lost = ((scale < least) | (scale == limits.max)) & (problem.W != 0).any(-1)
        change = torch.where(change.abs() > PRECISION * solution.bias.abs(), change, 0)
        if not (lost.any() or change.any()):
            return False
        module = layer(self.model, site.name)
        assert module.bias is not None
        given, wanted = (module.weight.data, module.bias.data), self.model(self.probe)
        module.weight.data, module.bias.data = given[0].clone(), given[1] + change.flatten().to(given[1])
        module.weight.data[lost.flatten()] = 0
        found = self.model(self.probe)
        module.weight.data, module.bias.data = given
        allowed = PRECISION * (wanted - wanted.mean(1, keepdim=True)).norm()
        return not bool((found - wanted).norm() <= allowed)  # nor if they are NaN

    def _generator(self, site: Site) -> torch.Generator:
        return torch.Generator().manual_seed(int(digest(f"{self.config.seed}/{_name(site)}")[:15], 16))


def _size(images: object) -> tuple[int, int] | None:
    """Return height and width of images, None if they are none."""
    shape = tuple(getattr(images, "shape", ()))
    return (shape[2], shape[3]) if len(shape) == 4 and all(0 < side <= LARGEST_SIDE for side in shape[2:]) else None


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
        float_inputs = source.advance(index, site.position)[site.source] if need_float_inputs else None
        values = source.advance(index, site.position + 1)
        outputs_float = values[source.network.nodes[site.position]]
        parts, X = _parts(outputs_float, module), None
        for number, job in enumerate(jobs):
            reached = job.stream.advance(index, site.position)
            for part in parts:
                wanted, seen = outputs_float[part], reached[site.source][part]
                if site.partner is not None and reached[site.partner].shape == outputs_float.shape:
                    wanted = wanted + (values[site.partner][part] - reached[site.partner][part])
                seen = seen if (rounded := rounding[number]) is None else rounded(seen)
                if float_inputs is not None and (X is None or len(parts) > 1):  # once for all jobs, if it is one part
                    X = patches(float_inputs[part], module)
                x = X if job.config.quantizer.needs_float_inputs else None
                rows = patches(seen, module), outputs(wanted, module), x
                batch = GramStatistics.of(*rows, dtype=DTYPES[job.config.accumulate])
                totals[number] = batch.plus(totals[number])
    statistics = [total for total in totals if total is not None]
    for total in statistics:
        check_finite(total.G, f"layer {_name(site)}: its inputs from the calibration images")
    return statistics


def _parts(outputs: Tensor, module: Layer) -> list[slice]:
    """Return slices of a batch, of as many images as have AT_ONCE values in their patches. outputs: of the batch."""
    count, of_image = len(outputs), 0
    if not isinstance(module, nn.Linear):  # the rows of a linear layer are its inputs, not a copy
        of_image = outputs[0].numel() // module.out_channels * module.weight[0].numel() * module.groups
    at_once = max(1, AT_ONCE // of_image) if of_image else count
    return [slice(start, start + at_once) for start in range(0, count, at_once)]
