from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.fp8.formats import E4M3, Quantised, to_e4m3
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles, transposed

pytest.importorskip("triton")
import triton
import triton.language as tl

from clearseek.fp8.backends.triton import quantise
from clearseek.fp8.backends.triton.casts import to_bfloat16
from clearseek.fp8.backends.triton.casts import to_e4m3 as cast_to_e4m3

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # the interpreter's, of NaN
PIECE = 4096


@triton.jit
def cast_kernel(x, e4m3, bf16, decoded):
    index = tl.program_id(0) * 4096 + tl.arange(0, 4096)
    values = tl.load(x + index)
    small = cast_to_e4m3(values)
    tl.store(e4m3 + index, small)
    tl.store(bf16 + index, to_bfloat16(values))
    tl.store(decoded + index, small.to(tl.float32))


def numbers(device: torch.device) -> torch.Tensor:
    """Every eight-bit number, every midpoint between two, their neighbours in FP32, and random bit patterns."""
    found = [torch.randint(-(2**31), 2**31, (PIECE * 8,), generator=torch.Generator().manual_seed(0)).int()]
    codes = torch.arange(256, dtype=torch.uint8).view(E4M3).float()
    exact = codes[codes.isfinite()].sort().values
    middles = (exact[1:] + exact[:-1]) / 2
    for each in (exact, middles):
        found += [each.view(torch.int32) + offset for offset in (-1, 0, 1)]
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 448, 449, 464, 480, 1e30, 1e-45, -1e-40])
    bits = torch.cat([*found, special.view(torch.int32)])
    return torch.nn.functional.pad(bits, (0, -len(bits) % PIECE)).view(torch.float32).to(device)


def test_rounding_is_pytorchs(device: torch.device) -> None:
    x = numbers(device)
    e4m3, bf16, decoded = (torch.empty_like(x, dtype=dtype) for dtype in (E4M3, torch.bfloat16, torch.float32))
    cast_kernel[(len(x) // PIECE,)](x, e4m3, bf16, decoded)
    for found, expected in ((e4m3, to_e4m3(x)), (bf16, x.to(torch.bfloat16))):
        missing = expected.isnan() if expected.element_size() > 1 else expected.float().isnan()
        assert torch.equal(found.float().isnan(), missing)
        assert torch.equal(found.float()[~missing], expected.float()[~missing])
        assert torch.equal(found.float().signbit()[~missing], expected.float().signbit()[~missing])
    assert torch.equal(decoded[~e4m3.float().isnan()], e4m3.float()[~e4m3.float().isnan()])


def same(found: Quantised, expected: Quantised) -> None:
    assert found.data.dtype == expected.data.dtype and found.data.is_contiguous()
    assert torch.equal(found.scale.nan_to_num(-1), expected.scale.nan_to_num(-1))
    # NaN has several codes.
    assert torch.equal(found.data.float().nan_to_num(-1), expected.data.float().nan_to_num(-1))
    assert torch.equal(found.data.float().signbit() | found.data.float().isnan(),
                       expected.data.float().signbit() | expected.data.float().isnan())  # fmt: skip


def matrix(rows: int, columns: int, seed: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Magnitudes over many binades, and rows of zeros."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator) * torch.randn(rows, columns, generator=generator).exp()
    x *= 10.0 ** torch.randint(-9, 6, (rows, 1), generator=generator)
    x[torch.rand(rows, generator=generator) < 0.1] = 0
    return x.to(device, dtype)


def check_all(x: torch.Tensor, power_of_two: bool) -> None:
    tiles, columns = quantise_tiles(x, power_of_two), quantise_columns(x, power_of_two)
    same(quantise.tiles(x, power_of_two), tiles)
    same(quantise.columns(x, power_of_two), columns)
    both = quantise.tiles_and_columns(x, power_of_two)
    same(both[0], tiles)
    same(both[1], columns)
    decoded = dequantise(tiles, torch.bfloat16)
    finite = decoded.isfinite()  # the interpreter takes an eight-bit NaN for 480
    assert torch.equal(quantise.decode(tiles)[finite], decoded[finite])
    for second in (True, False) if finite.all() else ():
        same(quantise.retile(tiles, second), quantise_columns(decoded, second))


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 270),
    columns=st.integers(1, 300),
    seed=st.integers(0, 2**31),
    power_of_two=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_tiles_and_columns_are_the_references_to_the_bit(
    rows: int, columns: int, seed: int, power_of_two: bool, dtype: torch.dtype
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_all(matrix(rows, columns, seed, dtype, device), power_of_two)


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (256, 384), (576, 200)])
def test_fixed_shapes(shape: tuple[int, int], power_of_two: bool, device: torch.device) -> None:
    check_all(matrix(*shape, 0, torch.bfloat16, device), power_of_two)


@pytest.mark.parametrize("power_of_two", [True, False])
def test_what_is_not_finite_shows(power_of_two: bool, device: torch.device) -> None:
    x = matrix(140, 300, 1, torch.bfloat16, device)
    x[3, 4], x[5, 200], x[139, 299] = torch.nan, torch.inf, -torch.nan
    check_all(x, power_of_two)
    assert quantise.tiles(x, power_of_two).data[3, 4].isnan() or quantise.tiles(x, power_of_two).scale[3, 0].isnan()


@pytest.mark.parametrize("power_of_two", [True, False])
@pytest.mark.parametrize("shape", [(136, 200), (3, 136, 200), (2, 256, 128)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_blocks_in_both_directions(
    shape: tuple[int, ...], power_of_two: bool, dtype: torch.dtype, device: torch.device
) -> None:
    w = matrix(shape[-2] * (shape[0] if len(shape) == 3 else 1), shape[-1], 2, dtype, device).view(shape)
    found, expected = quantise.blocks(w, power_of_two), quantise_blocks(w, power_of_two)
    same(found.forward, expected)
    same(found.backward, transposed(expected))


def test_rows_apart_are_read_and_columns_apart_refused(device: torch.device) -> None:
    wide = matrix(130, 300, 3, torch.bfloat16, device)
    part = wide[:, 40:240]
    same(quantise.tiles(part, True), quantise_tiles(part, True))
    same(quantise.columns(part, True), quantise_columns(part, True))
    with pytest.raises(ValueError, match=r"adjacent elements in a row is needed, not strides \(1, 300\)"):
        quantise.tiles(wide.t(), True)
    with pytest.raises(ValueError, match="contiguous tensor is needed"):
        quantise.blocks(wide.t(), True)
