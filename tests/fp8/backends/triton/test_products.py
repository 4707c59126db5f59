"""Products against exact ones of the decoded operands, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from clearseek.fp8.formats import Quantised
from clearseek.fp8.matmul import grouped_scaled_mm, grouped_scaled_mm_inner
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles

pytest.importorskip("triton")
from clearseek.fp8.backends.triton.loading import Launch, launch_for
from clearseek.fp8.backends.triton.products import grouped_scaled_mm as grouped
from clearseek.fp8.backends.triton.products import scaled_mm
from clearseek.fp8.backends.triton.weight_gradient import grouped_weight_gradient, weight_gradient

pytestmark = pytest.mark.slow
ROUNDING = 2.0**-24
LAUNCHES = [
    Launch(halves, 8, 3, tma, together) for halves, tma, together in ((1, False, 8), (2, False, 1), (2, True, 8))
]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor, slices: int) -> None:
    """|error| <= (129 + G) u S, as derived in clearseek/fp8/matmul.py, and half a unit of BF16 where that is the type.

    A tensor core keeps 13 fraction bits of a sum of 32 products, aligned to the largest: at most 33 * 2^-13 of it, four
    times in a slice, and far less by the norm."""
    a, b = a.double(), b.double()
    exact, size = a @ b.t(), a.abs() @ b.abs().t()
    allowed = (129 + slices) * ROUNDING * size
    if found.is_cuda:
        allowed = 4 * 33 * 2.0**-13 * size
        assert (found.double() - exact).norm() <= 0.004 * exact.norm()
    if found.dtype == torch.bfloat16:
        allowed += 2.0**-8 * exact.abs()  # a whole unit, as exact may stand on the other side of a power of two
    assert ((found.double() - exact).abs() <= allowed).all()


def moved(q: Quantised, device: torch.device) -> Quantised:
    return Quantised(q.data.to(device), q.scale.to(device))


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 208, 136), (300, 128, 576), (130, 400, 16)])
def test_product(rows: int, inner: int, outputs: int, power_of_two: bool, device: torch.device) -> None:
    a = moved(quantise_tiles(normal(rows, inner), power_of_two), device)
    b = moved(quantise_blocks(normal(outputs, inner, seed=1), power_of_two), device)
    results = [scaled_mm(a, b, launch) for launch in LAUNCHES]
    near(results[0], dequantise(a), dequantise(b), a.scale.shape[1])
    assert all(torch.equal(each, results[0]) for each in results[1:])  # tiles and fetching do not touch the bits


def test_product_of_sizes_that_no_descriptor_takes(device: torch.device) -> None:
    a = moved(quantise_tiles(normal(70, 203), False), device)
    b = moved(quantise_blocks(normal(57, 203, seed=1), False), device)
    near(scaled_mm(a, b), dequantise(a), dequantise(b), 2)


@pytest.mark.parametrize("ends", [(128, 128, 384), (0, 0, 384), (512, 512, 512), (128, 256, 300)], ids=str)
def test_grouped_product(ends: tuple[int, ...], device: torch.device) -> None:
    """An expert without rows, spare rows, all rows for one expert, an end inside a tile."""
    ends_E = torch.tensor(ends, dtype=torch.int32, device=device)
    a = moved(quantise_tiles(normal(512, 208), True), device)
    b = moved(quantise_blocks(normal(3, 136, 208, seed=1), True), device)
    results = [grouped(a, b, ends_E, launch) for launch in LAUNCHES]
    for e, (start, end) in enumerate(itertools.pairwise((0, *ends))):
        near(results[0][start:end], dequantise(a)[start:end], dequantise(b)[e], 2)
    assert results[0][ends[-1] :].eq(0).all()
    assert all(torch.equal(each, results[0]) for each in results[1:])
    if device.type == "cpu":
        assert torch.equal(results[0], grouped_scaled_mm(a, b, ends_E))


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 136, 72), (208, 128, 256), (400, 16, 520)])
def test_weight_gradient(rows: int, outputs: int, inputs: int, power_of_two: bool, device: torch.device) -> None:
    a = moved(quantise_columns(normal(rows, outputs), power_of_two), device)
    b = moved(quantise_columns(normal(rows, inputs, seed=1), power_of_two), device)
    results = [weight_gradient(a, b, launch) for launch in LAUNCHES if not launch.tma or rows % 16 == 0]
    near(results[0], dequantise(a), dequantise(b), a.scale.shape[1])
    assert all(torch.equal(each, results[0]) for each in results[1:])


@pytest.mark.parametrize("ends", [(128, 128, 384), (0, 0, 384), (512, 512, 512), (128, 256, 400)], ids=str)
def test_grouped_weight_gradient(ends: tuple[int, ...], device: torch.device) -> None:
    ends_E = torch.tensor(ends, dtype=torch.int32, device=device)
    rows = 400 if ends[-1] == 400 else 512  # the last expert may end where the operands do
    a = moved(quantise_columns(normal(rows, 136), True), device)
    b = moved(quantise_columns(normal(rows, 200, seed=1), True), device)
    results = [grouped_weight_gradient(a, b, ends_E, launch) for launch in LAUNCHES]
    for e, (start, end) in enumerate(itertools.pairwise((0, *ends))):
        near(results[0][e], dequantise(a)[:, start:end], dequantise(b)[:, start:end], 4)
        assert start < end or results[0][e].eq(0).all()
    assert all(torch.equal(each, results[0]) for each in results[1:])
    reference = grouped_scaled_mm_inner(a, b, ends_E)
    torch.testing.assert_close(results[0], reference, rtol=0, atol=1e-5 if device.type == "cpu" else 0.05)


def test_scales_stored_either_way_are_read(device: torch.device) -> None:
    """Tiles that were gathered have their scales row by row, fresh ones column by column."""
    a = moved(quantise_tiles(normal(200, 400), False), device)
    b = moved(quantise_blocks(normal(72, 400, seed=1), False), device)
    turned = Quantised(a.data, a.scale.t().contiguous().t())
    assert turned.scale.stride() != a.scale.stride()
    assert torch.equal(scaled_mm(turned, b), scaled_mm(a, b))
    sides = Quantised(b.data, b.scale.t().contiguous().t())
    assert torch.equal(scaled_mm(a, sides), scaled_mm(a, b))


def test_operands_that_do_not_fit_are_refused(device: torch.device) -> None:
    a, b = moved(quantise_tiles(normal(4, 128), True), device), moved(quantise_blocks(normal(8, 256), True), device)
    with pytest.raises(ValueError, match="128 on the left, 256 on the right"):
        scaled_mm(a, b)
    with pytest.raises(ValueError, match="contiguous tensor is needed"):
        scaled_mm(Quantised(a.data.t(), a.scale), b)
    with pytest.raises(ValueError, match="128 on the left, 256 on the right"):
        weight_gradient(a, b)


def test_tiles_are_wide_where_there_are_enough_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearseek.fp8.backends.triton.loading.capability", lambda index: (9, 0))
    monkeypatch.setattr("clearseek.fp8.backends.triton.loading.processors", lambda index: 132)
    gpu = torch.device("cuda", 0)
    assert launch_for(32768, 4096, True, gpu).halves == 2
    assert launch_for(32768, 4096, False, gpu).halves == 1
    assert launch_for(1024, 1024, True, gpu).halves == 1
    assert launch_for(1024, 1024, True, gpu, matrices=8).halves == 2
