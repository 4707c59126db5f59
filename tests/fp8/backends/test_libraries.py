"""The backends that call libraries of GPUs: what they hand over, checked by stand-ins with the libraries' own rules."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.cublas import cublas as made_by_cublas
from clearseek.fp8.backends.probe import _distance, _results
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import TILE, Quantised
from clearseek.fp8.matmul import scaled_mm
from clearseek.fp8.quantise import quantise_blocks, quantise_tiles

CPU = torch.device("cpu")


def column_by_column(scale: torch.Tensor) -> bool:
    rows, groups = scale.shape
    return scale.stride() == (1, rows) or (groups == 1 and scale.stride() == (1, 1))


def stand_in_for_cublas(
    a: torch.Tensor, b: torch.Tensor, scale_a: torch.Tensor, recipe_a: Any, scale_b: torch.Tensor, recipe_b: Any,
    output_dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """Refuses what PyTorch's scaled_mm refuses for these recipes, and multiplies."""
    (m, k), n = a.shape, b.shape[1]
    groups = -(-k // TILE)
    assert a.is_contiguous() and b.t().is_contiguous() and m % 16 == n % 16 == k % 16 == 0
    assert recipe_a == F.ScalingType.BlockWise1x128 and scale_a.shape == (m, groups)
    assert column_by_column(scale_a)
    assert scale_a.dtype == scale_b.dtype == torch.float32
    if recipe_b == F.ScalingType.BlockWise128x128:
        padded = -(-groups // 4) * 4
        assert scale_b.shape == (padded, -(-n // TILE)) and scale_b.stride() == (1, padded)
        rows = scale_b.t()[:, :groups]
        assert output_dtype == torch.bfloat16
    else:
        assert scale_b.shape == (n, groups) and column_by_column(scale_b)
        rows = scale_b
    return scaled_mm(Quantised(a, scale_a), Quantised(b.t(), rows), output_dtype)


@pytest.fixture
def cublas(monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.setattr(F, "scaled_mm", stand_in_for_cublas)
    return made_by_cublas()


def test_cublas_gets_the_layouts_it_wants(cublas: Backend) -> None:
    found, expected = _results(cublas, CPU), _results(reference(), CPU)
    assert [name for name in found if not torch.equal(found[name].values, expected[name].values)] == []


@pytest.mark.parametrize(("rows", "inner", "outputs"), [(1, 200, 576), (37, 128, 8), (130, 640, 136)])
def test_sizes_that_cublas_does_not_take_are_padded(cublas: Backend, rows: int, inner: int, outputs: int) -> None:
    plain = reference()
    x, w, g = torch.randn(rows, inner), torch.randn(outputs, inner), torch.randn(rows, outputs)
    tiles, expected = quantise_tiles(x, False), scaled_mm(quantise_tiles(x, False), quantise_blocks(w, False))
    # Adding the zeros' products changes nothing but the order in which the library sums.
    torch.testing.assert_close(
        cublas.products.mm(tiles, cublas.products.weight(w, False).forward), expected, rtol=2**-7, atol=1e-5
    )
    columns = plain.quantiser.columns(g, False), plain.quantiser.columns(x, False)
    torch.testing.assert_close(
        cublas.products.mm_weight(*columns), plain.products.mm_weight(*columns), rtol=1e-5, atol=1e-4
    )


@pytest.mark.slow
def test_deepgemm_gets_which_expert_each_row_belongs_to(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")

    def dense(a: Any, b: Any, out: torch.Tensor, disable_ue8m0_cast: bool) -> None:
        assert disable_ue8m0_cast and b[1].is_contiguous()
        out.copy_(scaled_mm(Quantised(*a), Quantised(*b)))

    def contiguous(a: Any, b: Any, out: torch.Tensor, expert_R: torch.Tensor, disable_ue8m0_cast: bool) -> None:
        assert disable_ue8m0_cast and expert_R.dtype == torch.int32
        out.fill_(torch.nan)  # rows of no expert mean nothing
        for e in range(len(b[0])):
            rows = expert_R == e
            out[rows] = scaled_mm(Quantised(a[0][rows], a[1][rows]), Quantised(b[0][e], b[1][e]))

    library = SimpleNamespace(fp8_gemm_nt=dense, m_grouped_fp8_gemm_nt_contiguous=contiguous)
    monkeypatch.setitem(sys.modules, "deep_gemm", library)  # type: ignore[arg-type]
    from clearseek.fp8.backends.deepgemm import deepgemm

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found, expected = _results(deepgemm(), device), _results(reference(), device)
    assert [name for name in expected if _distance(found[name], expected[name]) > expected[name].allowed] == []
    name = "the grouped product"
    assert torch.equal(found[name].values, expected[name].values)
