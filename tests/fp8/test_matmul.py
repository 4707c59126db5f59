from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.dequantised import dequantised
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import Quantised
from clearseek.fp8.matmul import grouped_scaled_mm, grouped_scaled_mm_inner, scaled_mm
from clearseek.fp8.quantise import quantise_blocks, quantise_columns, quantise_tiles
from tests.fp8 import oracle
from tests.fp8.test_quantise import rough

U = 2.0**-24


def exact(a: Quantised, b: Quantised) -> tuple[torch.Tensor, torch.Tensor]:
    """a @ b.T in float64, and the same of magnitudes: what error bounds are relative to."""
    left, right = (q.data.double() * torch.from_numpy(oracle.spread(q.scale, *q.data.shape)) for q in (a, b))
    return left @ right.t(), left.abs() @ right.abs().t()


@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("inner", [1, 100, 128, 129, 4096, 16384])
def test_the_reference_keeps_its_bound(inner: int, power_of_two: bool) -> None:
    a = quantise_tiles(rough(inner, 9, inner), power_of_two)
    for b in (
        quantise_blocks(rough(inner + 1, 150, inner), power_of_two),
        quantise_tiles(rough(2, 7, inner), power_of_two),
    ):
        y, magnitude = exact(a, b)
        slices = -(-inner // 128)
        error = (scaled_mm(a, b, torch.float32).double() - y).abs()
        assert torch.all(error <= (129 + slices) * U * magnitude * (1 + 1e-6))
        assert torch.any(error > 0) or inner < 100  # FP32 sums do round: the test can tell


def test_cancellation_and_outliers_keep_the_bound() -> None:
    """One huge pair that cancels, among many small numbers."""
    x = torch.full((4, 16384), 2.0**-6)
    x[:, 0], x[:, 128] = 448, -448
    w = torch.ones(128, 16384)
    a, b = quantise_tiles(x, False), quantise_blocks(w, False)
    y, magnitude = exact(a, b)
    assert torch.all((scaled_mm(a, b, torch.float32).double() - y).abs() <= (129 + 128) * U * magnitude)


@settings(max_examples=15, deadline=None)
@given(loads=st.lists(st.integers(0, 3), min_size=1, max_size=5), spare=st.integers(0, 2), seed=st.integers(0, 99))
def test_grouped_products_are_the_experts_own(loads: list[int], spare: int, seed: int) -> None:
    ends = torch.tensor(loads).cumsum(0).mul(128).int()
    rows, experts = 128 * (sum(loads) + spare), len(loads)
    x, g, w = rough(seed, rows, 136), rough(seed + 1, rows, 40), rough(seed + 2, experts, 40, 136)
    a, b = quantise_tiles(x, True), quantise_blocks(w, True)
    forward = grouped_scaled_mm(a, b, ends)
    inner = grouped_scaled_mm_inner(quantise_columns(g, True), quantise_columns(x, True), ends)
    assert not forward[int(ends[-1]) :].any()
    for e in range(experts):
        start, end = (int(ends[e - 1]) if e else 0), int(ends[e])
        own = quantise_tiles(x[start:end], True)
        assert torch.equal(forward[start:end], scaled_mm(own, Quantised(b.data[e], b.scale[e])))
        if start == end:
            assert not inner[e].any()
        else:
            g_e, x_e = quantise_columns(g[start:end], True), quantise_columns(x[start:end], True)
            assert torch.equal(inner[e], scaled_mm(g_e, x_e, torch.float32))


def test_experts_that_share_a_tile_are_refused() -> None:
    q = quantise_columns(torch.ones(256, 8), True)
    with pytest.raises(ValueError, match="multiples of 128, but they begin at"):
        grouped_scaled_mm_inner(q, q, torch.tensor([100, 256]))


def test_dequantised_computes_the_same_products() -> None:
    same_products(dequantised(), 2.0**-8)


def same_products(other: Backend, tolerance: float) -> None:
    """As the reference's, up to the order of FP32 sums and one rounding to BF16."""
    backends = (reference(), other)
    ends = torch.tensor([128, 128, 384], dtype=torch.int32)
    x, g, w = torch.randn(384, 200).bfloat16(), torch.randn(384, 72).bfloat16(), torch.randn(3, 72, 200).bfloat16()

    def results(backend: Backend) -> list[torch.Tensor]:
        quantiser, products = backend.quantiser, backend.products
        one, stack = products.weight(w[0], True), products.weight(w, True)
        columns = quantiser.columns(g, True), quantiser.columns(x, True)
        return [
            products.grouped_mm(quantiser.tiles(x, True), stack.forward, ends),
            products.grouped_mm(quantiser.tiles(g, True), stack.backward, ends),
            products.grouped_mm_weight(*columns, ends),
            products.mm(quantiser.tiles(x, True), one.forward),
            products.mm_weight(*columns),
        ]

    for a, b in zip(*(results(backend) for backend in backends), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 20)
