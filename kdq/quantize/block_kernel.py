"""The columns between two matrix products of the recursion, as one kernel on a GPU.

In PyTorch each column takes some ten operations on a few thousand values, and a ResNet-18 has 31,000 columns, which
`least_squares` solves five times: a GPU would do little but launch kernels. Needs
Triton, which PyTorch's CUDA builds bring.
"""

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

from kdq.quantize.alphabet import Alphabet

ROWS = 64
"""Neurons per program."""

MAGIC = {torch.float32: 1.5 * 2**23, torch.float64: 1.5 * 2**52}
"""Adding this number rounds a small one to an integer, ties to even; subtracting it again is exact."""


def solve_block(wanted: Tensor, origin: Tensor, A: Tensor, change: Tensor, codes: Tensor, alphabet: Alphabet) -> None:
    """Solve n columns in turn: q_t = Q(wanted_t − Σ_{s<t} A_ts change_s), change_t = q_t − origin_t.

    In units of the scale, on an alphabet without a gap. wanted, origin: [groups, n, m], A: [groups, n, n], float32 or
    float64; written are change, like `wanted`, and codes, of the alphabet's dtype and the shape of `wanted`. All but A
    are views of tensors of one shape, contiguous but for the slice of columns.
    """
    groups, columns, neurons = wanted.shape
    assert wanted.stride() == origin.stride() == change.stride() == codes.stride()
    assert alphabet.gap == 1
    _solve[groups, triton.cdiv(neurons, ROWS)](
        *(wanted, origin, A, change, codes),
        *(neurons, wanted.stride(0), *A.stride()),
        *(alphabet.offset, float(alphabet.levels - 1)),
        MAGIC=MAGIC[wanted.dtype],
        COUNT=columns,
        COLUMNS=triton.next_power_of_2(columns),
        ROWS=ROWS,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _solve(  # type: ignore[no-untyped-def]
    wanted,
    origin,
    A,
    change,
    codes,
    neurons,
    group_stride,
    A_group,
    A_row,
    A_column,
    offset,
    last,
    MAGIC: tl.constexpr,
    COUNT: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64)
    neuron = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    earlier = tl.arange(0, COLUMNS)
    exists = neuron < neurons
    done = tl.zeros([COLUMNS, ROWS], wanted.dtype.element_ty)  # the changes so far, 0 in later columns
    for t in range(COUNT):
        place = group * group_stride + t * neurons + neuron
        row = A + group * A_group + t * A_row + earlier * A_column
        a = tl.load(row, mask=earlier < t, other=0.0)
        position = tl.load(wanted + place, mask=exists, other=0.0) - tl.sum(a[:, None] * done, 0)
        code = tl.minimum(tl.maximum(position + offset, 0.0), last)
        code = (code + MAGIC) - MAGIC
        step = code - offset - tl.load(origin + place, mask=exists, other=0.0)
        done = tl.where(earlier[:, None] == t, step[None, :], done)
        tl.store(change + place, step, mask=exists)
        tl.store(codes + place, code.to(codes.dtype.element_ty), mask=exists)
