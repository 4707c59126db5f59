from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.fp8.backends.dequantised import dequantised
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import E4M3, Quantised, next_power_of_two
from clearseek.fp8.quantise import (
    dequantise,
    dequantise_e5m6,
    quantise_blocks,
    quantise_columns,
    quantise_e5m6,
    quantise_tiles,
    transposed,
)
from tests.fp8 import oracle

sizes = st.integers(min_value=1, max_value=300)
seeds = st.integers(min_value=0, max_value=2**31)


def rough(seed: int, *shape: int) -> torch.Tensor:
    """BF16 numbers over thirty binades, with outliers and zeros, as gradients have."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2.0 ** torch.randint(-20, 10, shape, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.1] = 0
    return x.bfloat16()


def expected(x: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """Nearest E4M3 numbers of x / scale, the quotient rounded to FP32 as stated."""
    quotient = (x.double().numpy() / oracle.spread(scale, *x.shape)).astype(np.float32)
    return oracle.nearest(quotient.astype(np.float64), oracle.E4M3)


@settings(max_examples=40, deadline=None)
@given(rows=sizes, columns=sizes, seed=seeds, power_of_two=st.booleans())
def test_tiles(rows: int, columns: int, seed: int, power_of_two: bool) -> None:
    x = rough(seed, rows, columns)
    q = quantise_tiles(x, power_of_two)
    assert q.data.dtype == E4M3 and q.scale.dtype == torch.float32
    assert q.data.shape == x.shape and q.scale.shape == (rows, -(-columns // 128))
    for g in range(q.scale.shape[1]):
        amax = x[:, 128 * g : 128 * (g + 1)].abs().amax(1).float().clamp(min=1e-4)
        scale = amax / 448
        assert torch.equal(q.scale[:, g], next_power_of_two(scale) if power_of_two else scale)
    assert np.array_equal(q.data.double().numpy(), expected(x, q.scale))


@settings(max_examples=25, deadline=None)
@given(rows=sizes, columns=sizes, seed=seeds, power_of_two=st.booleans())
def test_error_is_half_a_unit_at_most(rows: int, columns: int, seed: int, power_of_two: bool) -> None:
    x = rough(seed, rows, columns)
    for q in (quantise_tiles(x, power_of_two), quantise_blocks(x, power_of_two)):
        scale = oracle.spread(q.scale, rows, columns)
        exact = x.double().numpy()
        error = np.abs(dequantise(q).double().numpy() - exact)
        half = scale * oracle.unit(exact / scale, oracle.E4M3) / 2
        # A free scale's quotient and product are FP32: each may add 2^-24 of the magnitude.
        assert np.all(error <= half + (0 if power_of_two else 2.0**-23 * np.abs(exact)))


@settings(max_examples=25, deadline=None)
@given(rows=sizes, columns=sizes, seed=seeds, power_of_two=st.booleans())
def test_blocks_and_columns(rows: int, columns: int, seed: int, power_of_two: bool) -> None:
    w = rough(seed, rows, columns)
    q = quantise_blocks(w, power_of_two)
    assert q.scale.shape == (-(-rows // 128), -(-columns // 128))
    scale = w[:128, :128].abs().amax().float().clamp(min=1e-4) / 448
    assert q.scale[0, 0] == (next_power_of_two(scale) if power_of_two else scale)
    assert np.array_equal(q.data.double().numpy(), expected(w, q.scale))
    turned = quantise_blocks(w.t(), power_of_two)
    assert torch.equal(transposed(q).data.float(), turned.data.float())
    assert torch.equal(transposed(q).scale, turned.scale)
    columnwise, tiles = quantise_columns(w, power_of_two), quantise_tiles(w.t().contiguous(), power_of_two)
    assert torch.equal(columnwise.data.view(torch.uint8), tiles.data.view(torch.uint8))
    assert torch.equal(columnwise.scale, tiles.scale)


def test_a_stack_is_its_matrices() -> None:
    w = rough(0, 3, 200, 130)
    stack = quantise_blocks(w, False)
    assert stack.scale.shape == (3, 2, 2)
    for e in range(3):
        one = quantise_blocks(w[e], False)
        assert torch.equal(stack.data[e].view(torch.uint8), one.data.view(torch.uint8))
        assert torch.equal(stack.scale[e], one.scale)
    assert torch.equal(dequantise(stack)[1], dequantise(quantise_blocks(w[1], False)))


def test_scale_shapes_of_deepseek() -> None:
    assert quantise_blocks(torch.zeros(576, 7168), False).scale.shape == (5, 56)


def test_zeros_get_a_scale() -> None:
    q = quantise_blocks(torch.zeros(128, 128), False)
    assert q.scale.item() == torch.tensor(1e-4).div(448).item() and not q.data.double().any()


def test_rounding_a_scale_afterwards_changes_values_and_quantising_anew_does_not() -> None:
    """Scales may be rounded to powers of two only while quantising (ue8m0)."""
    x = rough(1, 64, 512).float()
    free = quantise_tiles(x, False)
    late = Quantised(free.data, next_power_of_two(free.scale))
    worst = ((dequantise(late) - x).abs().amax(1) / x.abs().amax(1)).median()
    assert worst > 0.1
    fresh = quantise_tiles(x, True)
    assert torch.equal(fresh.scale, late.scale)
    assert ((dequantise(fresh) - x).abs().amax(1) / x.abs().amax(1)).max() <= 2**-4


@settings(max_examples=30, deadline=None)
@given(rows=sizes, columns=sizes, seed=seeds)
def test_the_fast_way_on_a_cpu_has_the_same_bits(rows: int, columns: int, seed: int) -> None:
    x, fast, plain = rough(seed, rows, columns), dequantised().quantiser, reference().quantiser
    a, b = fast.tiles(x, True), plain.tiles(x, True)
    assert torch.equal(a.data.view(torch.uint8), b.data.view(torch.uint8)) and torch.equal(a.scale, b.scale)
    assert torch.equal(fast.decode(a), plain.decode(b))
    assert torch.equal(fast.columns(x, True), dequantise(plain.columns(x, True), torch.bfloat16).t())


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), columns=sizes, seed=seeds)
def test_e5m6_tiles(rows: int, columns: int, seed: int) -> None:
    x = rough(seed, rows, columns)
    q = quantise_e5m6(x)
    assert q.data.shape == (rows, (columns + columns % 2) // 2 * 3)
    scale = oracle.spread(q.scale, rows, columns)
    exact = x.double().numpy()
    assert np.array_equal(
        dequantise_e5m6(q, columns).double().numpy(), oracle.nearest(exact / scale, oracle.E5M6) * scale
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """A poisoned gradient must reach the trainer's check rather than be clamped to something harmless."""
    x = torch.ones(128, 256).bfloat16()
    x[3, 5] = bad
    for quantiser in (reference().quantiser, dequantised().quantiser):
        assert not torch.isfinite(quantiser.decode(quantiser.tiles(x, True))[3, :128]).any()
        assert torch.isfinite(quantiser.decode(quantiser.tiles(x, True))[4]).all()


def test_e5m6_uses_its_whole_range() -> None:
    largest = torch.zeros(3, 128)
    largest[:, 5] = torch.tensor([65024.0, 65025.0, 0.5 * 65024.0])  # 65,024 is the format's largest number
    assert quantise_e5m6(largest).scale.flatten().tolist() == [1.0, 2.0, 0.5]
