"""The solvers compared with the recursion on samples, at the shapes of ResNet-18's widest layers.

    python -m benchmarks.solver

512 neurons with 4,608 inputs, random samples with correlated columns, 4 bits, float32. In one run, by turns:

- `recursion`: GPFQ as published, u ← u + w_t X_t, q_t = Q(⟨X̂_t, u⟩ / ‖X̂_t‖²), u ← u − q_t X̂_t, for all neurons
  of the layer at once, in place, with contiguous columns: the baseline
- `recursion, one update`: the same with both updates of u in one pass, which departs from the formula
- `solve`: ours, given the two Gram matrices; `with Gram matrices`: with their computation
- `diffuse_errors`: GPTQ's error diffusion, given the damped Gram matrix, or with its computation

Also printed for each number of samples: the share of codes that `solve` and the recursion have in common, and the
relative errors ‖XW − X̂Q‖ / ‖XW‖ of both. Last, for the first number of samples, the complete default recipe given
its Gram statistics (32 scales per neuron and 4 sweeps of descent), whose time does not depend on the samples. Every
time is measured, none is extrapolated.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import circumstances, publish, summary
from kdq.quantize.algorithms import DAMPING, QUANTIZERS, Problem
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.gram import GramStatistics, gram, triangle
from kdq.quantize.solvers import diffuse_errors, solve

ALPHABET = Alphabet(4)
PEER = "recursion"


class Layer:
    """Weights W [neurons, d]; inputs X, and X̂ of the quantized stream, [d, samples], so each input is contiguous."""

    def __init__(self, neurons: int, d: int, samples: int) -> None:
        generator = torch.Generator().manual_seed(samples)
        self.X = torch.randn(d, samples, generator=generator).add_(torch.randn(samples, generator=generator))
        self.X_hat = torch.randn(d, samples, generator=generator).mul_(0.1).add_(self.X)
        self.W = torch.randn(neurons, d, generator=generator).mul_(0.02)
        self.scale = self.W.abs().amax(1) / (ALPHABET.levels / 2)

    def grams(self) -> tuple[Tensor, Tensor]:
        """Return H and G, as calibration computes them from one batch: [1, d, d]."""
        X, X_hat = self.X.mT[None], self.X_hat.mT[None]
        return triangle(X, X_hat), gram(X_hat)

    def statistics(self) -> GramStatistics:
        X, X_hat = self.X.mT[None], self.X_hat.mT[None]
        return GramStatistics.of(X_hat, X @ self.W.mT)

    def error(self, codes: Tensor) -> float:
        wanted = self.W @ self.X
        got = ALPHABET.values(codes, self.scale[:, None]) @ self.X_hat
        return float((wanted - got).norm() / wanted.norm())


def recursion(layer: Layer) -> Tensor:
    """GPFQ, column by column, for all neurons at once: returns codes [neurons, d]."""
    u, W = layer.W.new_zeros(len(layer.W), layer.X.shape[1]), layer.W.mT.contiguous()
    norms, codes = layer.X_hat.square().sum(1), torch.empty_like(W, dtype=torch.uint8)
    for t, (w, x, x_hat) in enumerate(zip(W, layer.X, layer.X_hat, strict=True)):
        u.addr_(w, x)
        codes[t] = ALPHABET.nearest(u @ x_hat / norms[t], layer.scale)
        u.addr_(ALPHABET.values(codes[t], layer.scale), x_hat, alpha=-1)
    return codes.mT


def recursion_one_update(layer: Layer) -> Tensor:
    """The same by ⟨X̂_t, u + w_t X_t⟩ = ⟨X̂_t, u⟩ + w_t⟨X̂_t, X_t⟩: u is read twice and written once per column."""
    u, W = layer.W.new_zeros(len(layer.W), layer.X.shape[1]), layer.W.mT.contiguous()
    norms, products = layer.X_hat.square().sum(1), (layer.X * layer.X_hat).sum(1)
    codes = torch.empty_like(W, dtype=torch.uint8)
    for t, (w, x, x_hat) in enumerate(zip(W, layer.X, layer.X_hat, strict=True)):
        codes[t] = ALPHABET.nearest((u @ x_hat + w * products[t]) / norms[t], layer.scale)
        q = ALPHABET.values(codes[t], layer.scale)
        u.addmm_(torch.stack([w, -q], 1), torch.stack([x, x_hat]))
    return codes.mT


def solvers(layer: Layer) -> dict[str, Callable[[], Tensor]]:
    """Return what is timed, by name: functions without arguments that return codes [neurons, d]."""
    W, scale = layer.W[None], layer.scale[None]
    H, G = layer.grams()

    def damped(G: Tensor) -> Tensor:
        diagonal = G.diagonal(dim1=-2, dim2=-1)
        return G.double() + (DAMPING * diagonal.mean() * torch.eye(G.shape[-1])).double()

    ready = damped(G)
    return {
        PEER: lambda: recursion(layer),
        "recursion, one update": lambda: recursion_one_update(layer),
        "solve": lambda: solve(W, H, G, ALPHABET, scale)[0],
        "solve, with Gram matrices": lambda: solve(W, *layer.grams(), ALPHABET, scale)[0],
        "diffuse_errors": lambda: diffuse_errors(W, ready, ALPHABET, scale)[0],
        "diffuse_errors, with Gram matrix": lambda: diffuse_errors(
            W, damped(gram(layer.X_hat.mT[None])), ALPHABET, scale
        )[0],
    }


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    codes = run()
    return time.perf_counter() - started, codes


def rows(neurons: int, d: int, samples: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each solver; the ratios are of medians in this run."""
    layer = Layer(neurons, d, samples)
    seconds: dict[str, list[float]] = {}
    codes: dict[str, Tensor] = {}
    for _ in range(rounds):
        for name, run in solvers(layer).items():
            took, codes[name] = timed(run)
            seconds.setdefault(name, []).append(took)
    agree(layer, codes)
    found = {name: summary(times) for name, times in seconds.items()}
    for name, row in found.items():
        ratio = found[PEER]["median"] / row["median"]
        yield {"samples": samples, "solver": name, **row, "x recursion": ratio, "error": layer.error(codes[name])}


def agree(layer: Layer, codes: dict[str, Tensor]) -> None:
    """Assert that `solve` and the recursion agree, up to float32: a value near a boundary may be rounded either way."""
    equal = (codes[PEER] == codes["solve"]).double().mean().item()
    errors = layer.error(codes[PEER]), layer.error(codes["solve"])
    print(f"{layer.X.shape[1]} samples: {100 * equal:.3f} % of codes equal, errors {errors[0]:.6f}, {errors[1]:.6f}")
    assert equal > 0.98
    assert abs(errors[0] - errors[1]) < 1e-2 * errors[0]


def recipe(neurons: int, d: int, samples: int, rounds: int) -> dict[str, Any]:
    """Return the row of the default recipe, from Gram statistics to codes."""
    layer = Layer(neurons, d, samples)
    problem = Problem(
        layer.W[None].double(),
        torch.zeros(1, neurons, dtype=torch.float64),
        layer.statistics(),
        ALPHABET,
        params={},
        stored=torch.float16,
        generator=torch.Generator(),
    )
    times = [timed(lambda: QUANTIZERS["least_squares"].solve(problem).codes)[0] for _ in range(rounds)]
    return {"samples": "any", "solver": "default recipe", **summary(times), "x recursion": "", "error": ""}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    head = {"unit": "s", "shape": f"{options.neurons} x {options.inputs}", **circumstances(options.threads)}
    counts = [int(part) for part in options.samples.split(",")]
    shape = options.neurons, options.inputs
    found = [row for samples in counts for row in rows(*shape, samples, options.rounds)]
    publish("solver", head, [*found, recipe(*shape, counts[0], options.rounds)])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.solver", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--neurons", type=int, default=512, help="default: 512")
    parser.add_argument("--inputs", type=int, default=4608, help="inputs of a neuron (default: 4608)")
    parser.add_argument("--samples", default="1536,8192,32768", help="default: 1536,8192,32768")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    return parser.parse_args()


if __name__ == "__main__":
    main()
