"""Decoding and multiplying in a wider type, in BF16 and, where a processor has none, in FP32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clearseek.config import Fp8Config
from clearseek.fp8.backends.choose import choose, make
from clearseek.fp8.backends.dequantised import dequantised
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import E4M3, TILE, Quantised
from clearseek.fp8.linear import Fp8, Linear
from clearseek.fp8.quantise import dequantise, quantise_tiles

WIDE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@WIDE
def test_every_e4m3_number_is_decoded_exactly(dtype: torch.dtype) -> None:
    bits = torch.tensor([b for b in range(256) if b & 0x7F != 0x7F] + [0, 0], dtype=torch.uint8)  # all but NaN
    numbers = bits.view(E4M3).view(2, TILE)
    scale = torch.tensor([[0.25], [8.0]])
    decoded = dequantised(dtype).quantiser.decode(Quantised(numbers, scale))
    assert decoded.dtype == dtype
    assert torch.equal(decoded.double(), numbers.double() * scale)


@WIDE
def test_tiles_and_columns_are_the_references(dtype: torch.dtype) -> None:
    x = (normal(256, 256) * normal(256, 1, seed=1).exp() * 100).to(dtype)
    x[3] = 0.0
    ours, theirs = dequantised(dtype), reference(dtype)
    found, expected = ours.quantiser.tiles(x, True), quantise_tiles(x, True)
    assert torch.equal(found.data.view(torch.uint8), expected.data.view(torch.uint8))
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(ours.quantiser.decode(found), theirs.quantiser.decode(expected))
    assert torch.equal(ours.quantiser.columns(x, True).t(), dequantise(theirs.quantiser.columns(x, True), dtype))


def test_products_in_fp32_are_not_rounded_to_bf16() -> None:
    backend, x, w = dequantised(torch.float32), normal(256, 384), normal(128, 384, seed=1)
    tiles, weight = backend.quantiser.tiles(x, True), backend.products.weight(w, True)
    exact = backend.quantiser.decode(tiles).double() @ weight.forward.double().t()
    found = backend.products.mm(tiles, weight.forward)
    assert found.dtype == torch.float32
    assert (found.double() - exact).norm() < 1e-6 * exact.norm()
    g = backend.quantiser.columns(normal(256, 128, seed=2), True)
    inner = backend.quantiser.retile(tiles, True)
    assert (
        backend.products.mm_weight(g, inner).double() - g.double().t() @ inner.double()
    ).norm() < 1e-6 * exact.norm()
    plain = reference(torch.float32)
    assert plain.products.mm(tiles, plain.products.weight(w, True).forward).dtype == torch.float32


@WIDE
@pytest.mark.parametrize("name", ["dequantised", "reference"])
def test_a_layer_computes_in_the_type_of_its_model(dtype: torch.dtype, name: str) -> None:
    layer = Linear(256, 128)
    with torch.no_grad():
        layer.weight.copy_(normal(128, 256) / 16)
    layer.weight.data = layer.weight.data.to(dtype)
    layer.weight.grad_dtype = torch.float32
    layer.fp8 = Fp8(Fp8Config(), make(name, dtype))
    x = normal(64, 256, seed=1).to(dtype).requires_grad_()
    y = layer(x, "attention_output")
    y.backward(normal(64, 128, seed=2).to(dtype))
    assert y.dtype == dtype and x.grad is not None and x.grad.dtype == dtype
    exact = x.detach().double() @ layer.weight.detach().double().t()
    assert (y.double() - exact).norm() < 0.06 * exact.norm()  # eight bits of both operands


def test_auto_takes_the_fastest_it_measured_unless_the_preferred_one_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {"dequantised": 1.0, "reference": 1.9}
    monkeypatch.setattr("clearseek.fp8.backends.choose._rates", lambda names, device, dtype: rates)
    cpu = torch.device("cpu")
    assert choose(Fp8Config(), cpu).backend.name == "dequantised"
    rates["reference"] = 2.1
    chosen = choose(Fp8Config(), cpu)
    assert chosen.backend.name == "reference" and chosen.rates == rates
    assert choose(Fp8Config(), cpu, began_with="dequantised").backend.name == "dequantised"
    assert choose(Fp8Config(backend="dequantised"), cpu, began_with="reference").backend.name == "dequantised"
