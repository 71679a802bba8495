import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, unfold

from kdq.quantize import solvers
from kdq.quantize.algorithms import squared_error
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.solvers import BLOCK, descend, diffuse_errors, soft_threshold, solve, stochastic


def naive_gpfq(
    W: Tensor,
    X: Tensor,
    Y: Tensor,
    alphabet: Alphabet,
    scale: Tensor,
    change: Callable[[Tensor], Tensor] = lambda position: position,
    zero_point: Tensor | None = None,
) -> Tensor:
    """The paper's recursion, neuron by neuron, on the samples: X, Y (the paper's X̃) are [samples, d].

    change: of a value in units of the scale, before it is rounded.
    """
    zero = [None] * len(W) if zero_point is None else list(zero_point)
    codes = torch.empty(W.shape, dtype=alphabet.dtype)
    for i, w in enumerate(W):
        u = torch.zeros(len(X), dtype=W.dtype)
        for t in range(W.shape[1]):
            norm = Y[:, t] @ Y[:, t]
            u = u + w[t] * X[:, t]
            wanted = (Y[:, t] @ u) / norm if norm > 0 else w[t]
            codes[i, t] = alphabet.nearest(change(wanted / scale[i]) * scale[i], scale[i], zero[i])
            u = u - alphabet.values(codes[i, t], scale[i], zero[i]) * Y[:, t]
    return codes


def naive_sweep(W: Tensor, H: Tensor, G: Tensor, alphabet: Alphabet, scale: Tensor, codes: Tensor) -> Tensor:
    Q = alphabet.values(codes, scale[:, None])
    for i in range(W.shape[0]):
        for t in range(W.shape[1]):
            others = Q[i] @ G[:, t] - Q[i, t] * G[t, t]
            wanted = (W[i] @ H[:, t] - others) / G[t, t] if G[t, t] > 0 else W[i, t]
            Q[i, t] = alphabet.values(alphabet.nearest(wanted, scale[i]), scale[i])
    return alphabet.nearest(Q, scale[:, None])


def naive_diffusion(
    W: Tensor, G: Tensor, alphabet: Alphabet, scale: Tensor, zero_point: Tensor | None = None
) -> Tensor:
    """Round a weight, solve for the best real values of all later ones, and on: no Cholesky anywhere."""
    codes = torch.empty(W.shape, dtype=torch.uint8)
    zero = [None] * len(W) if zero_point is None else list(zero_point)
    for i, target in enumerate(W):
        q = target.clone()
        for t in range(len(target)):
            codes[i, t] = alphabet.nearest(q[t], scale[i], zero[i])
            q[t] = alphabet.values(codes[i, t], scale[i], zero[i])
            known, free = slice(0, t + 1), slice(t + 1, None)
            error = (target - q)[known]
            q[free] = target[free] + torch.linalg.solve(G[free, free], G[free, known] @ error)
    return codes


def correlated(seed: int, samples: int, d: int, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """Inputs of the float and of the quantized stream, columns correlated as those of images are."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    X = draw(samples, d) + 2 * draw(samples, 1)
    return X, X + noise * draw(samples, d)


def weights(seed: int, m: int, d: int) -> Tensor:
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)


def scale_of(W: Tensor, bits: int) -> Tensor:
    return W.abs().amax(1) / 2 ** (bits - 1)


SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 2 * BLOCK + 7), st.integers(1, 5))


@settings(max_examples=60)
@given(shape=SHAPES, bits=st.integers(1, 8), seed=st.integers(0, 10**6), dead=st.booleans())
def test_solve_is_the_papers_recursion(shape: tuple[int, int, int], bits: int, seed: int, dead: bool) -> None:
    samples, d, m = shape
    (X, Y), W = correlated(seed, samples, d), weights(seed, m, d)
    if dead:
        Y[:, d // 2] = 0
    scale = scale_of(W, bits)
    codes = solve(W[None], (X.T @ Y)[None], (Y.T @ Y)[None], Alphabet(bits), scale[None])
    assert torch.equal(codes[0], naive_gpfq(W, X, Y, Alphabet(bits), scale))


def zero_points(seed: int, m: int, bits: int) -> Tensor:
    return torch.randint(0, 1 << bits, (m,), generator=torch.Generator().manual_seed(seed + 2)).to(torch.uint8)


@settings(max_examples=40)
@given(shape=SHAPES, bits=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_solve_with_zero_points_is_the_papers_recursion(shape: tuple[int, int, int], bits: int, seed: int) -> None:
    samples, d, m = shape
    (X, Y), W, alphabet = correlated(seed, samples, d), weights(seed, m, d), Alphabet(bits)
    scale, zero = scale_of(W, bits), zero_points(seed, m, bits)
    codes = solve(W[None], (X.T @ Y)[None], (Y.T @ Y)[None], alphabet, scale[None], zero_point=zero[None])
    assert torch.equal(codes[0], naive_gpfq(W, X, Y, alphabet, scale, zero_point=zero))


@settings(max_examples=40)
@given(shape=SHAPES, bits=st.integers(1, 8), seed=st.integers(0, 10**6), threshold=st.floats(0.1, 0.8))
def test_sparse_solve_is_the_papers_recursion(
    shape: tuple[int, int, int], bits: int, seed: int, threshold: float
) -> None:
    samples, d, m = shape
    (X, Y), W = correlated(seed, samples, d), weights(seed, m, d)
    scale, data = scale_of(W, bits), ((X.T @ Y)[None], (Y.T @ Y)[None])

    def soft(z: Tensor) -> Tensor:
        return z.sign() * (z.abs() - threshold).clamp_min(0)

    alphabet = Alphabet.symmetric(bits)
    codes = solve(W[None], *data, alphabet, scale[None], soft_threshold(threshold))
    assert torch.equal(codes[0], naive_gpfq(W, X, Y, alphabet, scale, soft))
    alphabet = Alphabet.sparse(bits, threshold)
    codes = solve(W[None], *data, alphabet, scale[None])
    assert torch.equal(codes[0], naive_gpfq(W, X, Y, alphabet, scale))


@settings(max_examples=20)
@given(shape=SHAPES, bits=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_stochastic_solve_is_the_papers_recursion(shape: tuple[int, int, int], bits: int, seed: int) -> None:
    """With the same random numbers: down where they are below 1 − fraction, else up."""
    samples, d, m = shape
    (X, Y), W, alphabet = correlated(seed, samples, d), weights(seed, m, d), Alphabet.symmetric(bits)
    draws = torch.Generator().manual_seed(seed)
    numbers = torch.stack([torch.rand(m, generator=draws, dtype=torch.float64) for _ in range(d)], 1).flatten().tolist()
    coins = iter(numbers)

    def coin(z: Tensor) -> Tensor:
        return z.floor() + (next(coins) >= 1 - (z - z.floor()))

    scale = scale_of(W, bits)
    generator = torch.Generator().manual_seed(seed)
    codes = solve(W[None], (X.T @ Y)[None], (Y.T @ Y)[None], alphabet, scale[None], stochastic(generator))
    assert torch.equal(codes[0], naive_gpfq(W, X, Y, alphabet, scale, coin))


def test_stochastic_rounding_has_no_bias() -> None:
    values = torch.tensor([-1.75, -0.5, 0.0, 0.25, 3.0], dtype=torch.float64)
    drawn = stochastic(torch.Generator().manual_seed(0))(values.repeat(20_000, 1))
    assert torch.allclose(drawn.mean(0), values, atol=0.02)  # six standard deviations of 0.5 / √20,000
    assert (drawn - values).abs().max() < 1
    assert torch.equal(drawn, drawn.round())


def test_solve_by_hand() -> None:
    # d = 2, equal inputs in both columns: the second weight makes up for the first one's rounding.
    ones = torch.ones(1, 2, 2)
    codes = solve(torch.tensor([[[0.4, 0.4]]]), ones, ones, Alphabet(2), torch.ones(1, 1))
    assert (codes.float() - 2).tolist() == [[[0.0, 1.0]]]  # 0.4 → 0, then 0.4 + 0.4 → 1; rounding gives 0, 0


def test_groups_are_solved_one_by_one() -> None:
    problems = [(*correlated(s, 50, 40), weights(s, 3, 40)) for s in range(3)]
    W, G = (torch.stack(part) for part in zip(*((w, y.T @ y) for _, y, w in problems), strict=True))
    scale = W.abs().amax(-1) / 4
    together = diffuse_errors(W, G + torch.eye(40), Alphabet(3), scale)
    for i in range(3):
        one = slice(i, i + 1)
        assert torch.equal(together[one], diffuse_errors(W[one], G[one] + torch.eye(40), Alphabet(3), scale[one]))


@settings(max_examples=30)
@given(d=st.integers(1, 2 * BLOCK + 7), bits=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_descend_is_coordinate_descent_and_never_raises_the_error(d: int, bits: int, seed: int) -> None:
    (X, Y), W, alphabet = correlated(seed, 40, d), weights(seed, 3, d), Alphabet(bits)
    H, G, scale = X.T @ Y, Y.T @ Y, scale_of(weights(seed, 3, d), bits)
    start = solve(W[None], H[None], G[None], alphabet, scale[None])
    swept = descend(W[None], H[None], G[None], alphabet, scale[None], start)
    assert torch.equal(swept[0], naive_sweep(W, H, G, alphabet, scale, start[0]))

    def error(codes: Tensor) -> Tensor:
        return (X @ W.T - Y @ alphabet.values(codes[0], scale[:, None]).T).square().sum(0)

    assert (error(swept) <= error(start) * (1 + 1e-12)).all()


@settings(max_examples=30)
@given(d=st.integers(1, BLOCK + 7), bits=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_error_diffusion_moves_all_later_weights_to_their_best(d: int, bits: int, seed: int) -> None:
    (_, Y), W, alphabet = correlated(seed, 2 * d + 5, d), weights(seed, 2, d), Alphabet(bits)
    G, scale = Y.T @ Y + 0.1 * torch.eye(d), scale_of(weights(seed, 2, d), bits)
    codes = diffuse_errors(W[None], G[None], alphabet, scale[None])
    assert torch.equal(codes[0], naive_diffusion(W, G, alphabet, scale))
    zero = zero_points(seed, 2, bits)
    codes = diffuse_errors(W[None], G[None], alphabet, scale[None], zero[None])
    assert torch.equal(codes[0], naive_diffusion(W, G, alphabet, scale, zero))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("samples", "d"), [(2000, 50), (20, 100)])
def test_error_on_correlated_inputs_is_below_round_to_nearest(bits: int, samples: int, d: int) -> None:
    (_, Y), W, alphabet = correlated(bits, samples, d), weights(bits, 16, d)[None], Alphabet(bits)
    G = (Y.T @ Y + 0.01 * torch.eye(d))[None]
    scale = W.abs().amax(-1) / 2 ** (bits - 1)
    rounded = alphabet.nearest(W, scale.unsqueeze(-1))
    diffused = diffuse_errors(W, G, alphabet, scale)
    for codes in (solve(W, G, G, alphabet, scale), diffused, descend(W, G, G, alphabet, scale, diffused)):
        errors = [squared_error(W - alphabet.values(c, scale.unsqueeze(-1)), G).sum() for c in (codes, rounded)]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("d", [1, 9, BLOCK + 1])
def test_the_kernel_gets_tensors_of_one_layout(monkeypatch: pytest.MonkeyPatch, groups: int, m: int, d: int) -> None:
    """A depthwise convolution has one neuron a group; the loop takes the kernel's place, on the same tensors."""
    loop, calls = solvers._solve_block, []

    def solve_block(wanted: Tensor, origin: Tensor, A: Tensor, change: Tensor, codes: Tensor, *rest: Any) -> None:
        calls.append({part.stride() for part in (wanted, origin, change, codes)})
        loop(wanted, origin, A, change, codes, *rest)

    monkeypatch.setattr(solvers, "_solve_block", solve_block)
    (_, Y), W, alphabet = correlated(0, 50, d), weights(0, m, d).expand(groups, m, d), Alphabet(4)
    G, scale = (Y.T @ Y + torch.eye(d)).expand(groups, d, d), W.abs().amax(-1) / 8
    for zero in (None, torch.ones(groups, m, dtype=torch.uint8)):
        codes = diffuse_errors(W, G, alphabet, scale, zero)
        solve(W, G, G, alphabet, scale, zero_point=zero)
    descend(W, G, G, alphabet, scale, codes)
    assert calls == [{(d * m, m, 1)}] * 5 * -(-d // BLOCK)


def test_arguments_are_left_as_they_are() -> None:
    (X, Y), W = correlated(0, 60, 70), weights(0, 4, 70)[None]
    H, G, scale = (X.T @ Y)[None], (Y.T @ Y)[None], W.abs().amax(-1) / 4
    codes = solve(W, H, G, Alphabet(3), scale)
    arguments = (W, H, G, scale, codes)
    copies = [tensor.clone() for tensor in arguments]
    descend(W, H, G, Alphabet(3), scale, codes)
    diffuse_errors(W, G + torch.eye(70), Alphabet(3), scale)
    assert all(torch.equal(a, b) for a, b in zip(arguments, copies, strict=True))


def test_real_layers(shared_data: Path) -> None:
    """The first two layers of the published ResNet-20 on real images, second stream two bits coarser."""
    state = torch.load(shared_data / "checkpoints" / "resnet20-12fca82f.th", weights_only=True, map_location="cpu")
    state = state["state_dict"]
    file = pyarrow.parquet.ParquetFile(shared_data / "cifar10" / "plain_text" / "test-00000-of-00001.parquet")
    rows = next(file.iter_batches(batch_size=2, columns=["img"])).to_pylist()
    images = np.stack([np.asarray(Image.open(io.BytesIO(row["img"]["bytes"])).convert("RGB")) for row in rows])
    X = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255 - 0.45
    Y, alphabet = X, Alphabet(3)
    for name in ("conv1", "layer1.0.conv1"):
        weight = state[f"module.{name}.weight"].double()
        W = weight.flatten(1)[:4]
        x, y = (unfold(z, 3, padding=1).transpose(1, 2).reshape(-1, W.shape[1]) for z in (X, Y))
        scale = scale_of(W, 3)
        codes = solve(W[None], (x.T @ y)[None], (y.T @ y)[None], alphabet, scale[None])[0]
        assert torch.equal(codes, naive_gpfq(W, x, y, alphabet, scale))
        coarse = (weight * 20).round() / 20
        X, Y = conv2d(X, weight, padding=1).relu(), conv2d(Y, coarse, padding=1).relu()
