"""The kernel for GPUs, tested without one: interpreted, it gives the codes of the loop in PyTorch; and it compiles."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is part of PyTorch's CUDA builds only")

ROOT = Path(__file__).parents[3]

COMPARE = """
import itertools
import torch
from kdq.quantize.alphabet import Alphabet
from kdq.quantize.block_kernel import solve_block
from kdq.quantize.solvers import _solve_block

torch.manual_seed(0)
alphabets = Alphabet(1), Alphabet(3), Alphabet.symmetric(8)
sizes = (1, 32, 70), (3, 5, 9), (3, 25, 1)  # groups, columns of the block, neurons
for dtype, alphabet, (groups, columns, neurons) in itertools.product((torch.float32, torch.float64), alphabets, sizes):
    block = slice(4, 4 + columns)
    wanted = torch.randn(groups, 40, neurons, dtype=dtype) * alphabet.levels / 3
    origin = torch.randn(groups, 40, neurons, dtype=dtype)
    A = torch.randn(groups, 40, 40, dtype=dtype) / 10
    for coefficients in (A, A.mT):
        found = []
        for solve in (lambda *parts: _solve_block(*parts, None), solve_block):
            change, codes = torch.full_like(wanted, -7), torch.full(wanted.shape, 9, dtype=alphabet.dtype)
            parts = wanted.clone(), origin, coefficients, change, codes
            keys = (block, block, (block, block), block, block)
            solve(*(part[(slice(None), *(key if isinstance(key, tuple) else (key,)))]
                    for part, key in zip(parts, keys)), alphabet)
            found.append((change, codes))
        (change, codes), (change_kernel, codes_kernel) = found
        assert torch.equal(codes, codes_kernel), (dtype, alphabet, groups, columns, neurons)
        assert (change - change_kernel).abs().max() < 1e-5
        assert len(codes.unique()) > 1
print("equal")
"""

COMPILE = """
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from kdq.quantize.block_kernel import MAGIC, _solve

for dtype, floats, codes in ((torch.float32, "*fp32", "*u8"), (torch.float64, "*fp64", "*i16")):
    constants = {"MAGIC": MAGIC[dtype], "COUNT": 27, "COLUMNS": 32, "ROWS": 64}
    types = dict.fromkeys(_solve.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
    types |= dict.fromkeys(("wanted", "origin", "A", "change"), floats)
    types |= {"codes": codes, "offset": "fp32", "last": "fp32"}
    source = ASTSource(fn=_solve, signature=types, constexprs=constants)
    assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]
print("compiled")
"""


def run(code: str, tmp_path: Path, **environment: str) -> str:
    env = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_kernel_gives_the_codes_of_the_loop(tmp_path: Path) -> None:
    assert run(COMPARE, tmp_path, TRITON_INTERPRET="1") == "equal"


def test_the_kernel_compiles_for_a_gpu(tmp_path: Path) -> None:
    assert run(COMPILE, tmp_path) == "compiled"
