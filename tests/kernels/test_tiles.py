"""Products whose bits depend on nothing but their own row and input."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from clearseek.inference.storage import Kind, Matrix, Store
from clearseek.kernels.launch import launch, unavailable

pytestmark = pytest.mark.skipif(unavailable() is not None, reason=unavailable() or "")
KINDS: list[Kind] = ["F32", "BF16", "I8"]


def product(matrix: Matrix, x: torch.Tensor) -> torch.Tensor:
    rows, inner = matrix.values.shape
    y, count, index = torch.zeros(len(x), rows), torch.tensor([len(x)]), torch.arange(len(x))
    launch(
        "decoder.matrix", rows, count, KINDS.index(matrix.kind), inner, matrix.values.data_ptr(), matrix.scales, x,
        inner, index, y, rows, index,
    )  # fmt: skip
    return y


def example(kind: Kind, rows: int = 37, inner: int = 80, inputs: int = 23) -> tuple[Matrix, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + inner)
    weight, x = (torch.randn(n, inner, generator=generator) for n in (rows, inputs))
    return Store(kind).matrix(weight), x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "inner", "inputs"), [(1, 16, 1), (37, 80, 23), (16, 768, 4), (130, 16, 7)])
def test_products_are_right(kind: Kind, rows: int, inner: int, inputs: int) -> None:
    matrix, x = example(kind, rows, inner, inputs)
    expected = x.double() @ matrix.floats().double().T
    # FP32 sums in 16 lanes: each of inner / 16 steps rounds by at most 2^-24 of a partial sum
    bound = (x.abs().double() @ matrix.floats().abs().double().T) * (inner / 16 + 5) * 2.0**-24
    assert ((product(matrix, x) - expected).abs() <= bound).all()


def stored(matrix: Matrix) -> np.ndarray:
    """The stored numbers, row by row, found by the stated order of pairs; int8 without scales."""
    rows, inner = matrix.values.shape
    flat, found = matrix.values.flatten().float().numpy(), np.empty((rows, inner), np.float32)
    for o in range(rows):
        for k in range(inner):
            place = o * inner + k
            if matrix.kind != "F32":
                lane = k % 16 if matrix.kind == "I8" else 2 * (k % 8) + k // 8 % 2
                place = o // 2 * 2 * inner + k // 16 * 32 + o % 2 * 16 + lane
            found[o, k] = flat[place]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_lie_where_it_is_stated(kind: Kind) -> None:
    matrix, _ = example(kind)
    factors = 1.0 if matrix.scales is None else matrix.scales.unsqueeze(1).numpy()
    assert np.array_equal(stored(matrix) * factors, matrix.floats().numpy())
    weight = torch.arange(35.0 * 70).view(35, 70) % 127 - 63  # whole numbers are exact in BF16 and int8
    weight[:, 0] = 127
    kept = Store(kind).matrix(weight).floats()
    assert torch.equal(kept[:35, :70], weight) and not kept[35:].any() and not kept[:, 70:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_the_input_alone(kind: Kind) -> None:
    matrix, x = example(kind)
    alone = torch.cat([product(matrix, row.clone().unsqueeze(0)) for row in x])
    for inputs in range(1, len(x) + 1):
        assert torch.equal(product(matrix, x[:inputs].clone()), alone[:inputs])


@pytest.mark.parametrize("kind", KINDS)
def test_bits_follow_the_stated_order(kind: Kind) -> None:
    """The order of the docstring, in numpy: fused steps in 16 lanes, lanes joined by halves."""
    matrix, x = example(kind, rows=5, inputs=3)
    weights = stored(matrix)
    expected = np.empty((3, len(weights)), np.float32)
    for i, row in enumerate(x.numpy()):
        for o, weight in enumerate(weights):
            lanes = np.zeros(16, np.float32)
            for k in range(0, len(weight), 16):
                # the product is exact in FP64; the sum may round twice, which this example does not show
                lanes = (lanes.astype(np.float64) + weight[k : k + 16].astype(np.float64) * row[k : k + 16]).astype(
                    np.float32
                )
            while len(lanes) > 1:
                half = len(lanes) // 2
                lanes = lanes[:half] + lanes[half:]
            expected[i, o] = lanes[0] if matrix.scales is None else lanes[0] * matrix.scales[o].numpy()
    assert np.array_equal(product(matrix, x).numpy(), expected)


CHILD = """
import hashlib
from tests.kernels.test_tiles import KINDS, example, product
print(hashlib.sha256(b"".join(product(*example(kind)).numpy().tobytes() for kind in KINDS)).hexdigest())
"""


@pytest.mark.slow
@pytest.mark.parametrize("processor", ["haswell", "skylake-avx512"])
def test_bits_do_not_depend_on_the_width_of_the_vectors(processor: str) -> None:
    own = hashlib.sha256(b"".join(product(*example(kind)).numpy().tobytes() for kind in KINDS)).hexdigest()
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    if processor != "haswell" and "avx512f" not in flags:
        pytest.skip("no AVX-512 here")
    environment = os.environ | {"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}
    told = subprocess.run([sys.executable, "-c", CHILD], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == own
