from __future__ import annotations

import itertools

import pytest
import torch

from clearseek.config import Fp8Config
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Fp8, Kind, Linear, linears
from clearseek.fp8.quantise import (
    dequantise,
    dequantise_e5m6,
    quantise_blocks,
    quantise_columns,
    quantise_e5m6,
    quantise_tiles,
)

CPU = torch.device("cpu")
KINDS: tuple[Kind, ...] = ("activation", "attention_output")


def layer(inputs: int, outputs: int, fp8: Fp8) -> Linear:
    made = Linear(inputs, outputs).bfloat16()
    made.fp8 = fp8
    made.weight.grad_dtype = torch.float32
    return made


@pytest.mark.parametrize(("scales", "kind"), list(itertools.product(["power-of-two", "deepseek-v3", "float"], KINDS)))
def test_three_products_of_quantised_operands(scales: str, kind: Kind) -> None:
    """Against the definition: quantise, decode, multiply in float64."""
    fp8 = choose(Fp8Config(scales=scales, backend="reference"), CPU)  # type: ignore[arg-type]
    one = layer(200, 72, fp8)
    x = torch.randn(2, 65, 200).bfloat16().requires_grad_()
    g = torch.randn(2, 65, 72).bfloat16()
    y = one(x, kind)
    y.backward(g)
    everywhere = scales == "power-of-two"
    x_scales = everywhere or (scales == "deepseek-v3" and kind == "attention_output")
    flat, g_flat = x.detach().flatten(0, 1), g.flatten(0, 1)
    tiles, blocks = quantise_tiles(flat, x_scales), quantise_blocks(one.weight.detach(), everywhere)
    w = dequantise(blocks).double()
    kept = dequantise(tiles, torch.bfloat16)
    if kind == "attention_output":
        kept = dequantise_e5m6(quantise_e5m6(flat), 200)
    columns, g_columns = quantise_columns(kept, x_scales), quantise_columns(g_flat, everywhere)
    dx = dequantise(quantise_tiles(g_flat, everywhere)).double() @ w
    dw = dequantise(g_columns).double() @ dequantise(columns).double().t()
    assert x.grad is not None and one.weight.grad is not None and one.weight.grad.dtype == torch.float32
    # BF16 outputs: half a unit, 2^-9, and FP32 sums; absolute where numbers cancel.
    torch.testing.assert_close(y.flatten(0, 1).double(), dequantise(tiles).double() @ w.t(), rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(x.grad.flatten(0, 1).double(), dx, rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(one.weight.grad.double(), dw, rtol=1e-5, atol=1e-4)


def test_layers_that_share_an_input_are_the_same_alone() -> None:
    fp8 = choose(Fp8Config(), CPU)
    first, second = layer(128, 64, fp8), layer(128, 136, fp8)
    x = torch.randn(256, 128).bfloat16()
    together = linears(x, (first, second))
    assert torch.equal(together[0], first(x)) and torch.equal(together[1], second(x))
    leaf = x.clone().requires_grad_()
    a, b = linears(leaf, (first, second))
    (a.float().sum() + b.float().square().sum()).backward()
    shared = first.weight.grad, second.weight.grad
    first.weight.grad = second.weight.grad = None
    (first(x).float().sum() + second(x).float().square().sum()).backward()
    assert all(
        torch.equal(s, o)
        for s, o in zip(shared, (first.weight.grad, second.weight.grad), strict=True)  # type: ignore[arg-type]
    )


def test_a_changed_weight_is_quantised_anew_and_an_unchanged_one_is_not() -> None:
    fp8 = choose(Fp8Config(), CPU)
    one = layer(128, 64, fp8)
    x = torch.randn(4, 128).bfloat16()
    before, operands = one(x), one.quantised.get(fp8, one.weight)
    assert one.quantised.get(fp8, one.weight) is operands
    with torch.no_grad():
        one.weight.mul_(2)
    assert torch.equal(one(x), before * 2)
    assert one.quantised.get(fp8, one.weight) is not operands


def test_operands_that_are_not_kept_follow_values_that_change_behind_the_version() -> None:
    """FSDP2 frees a parameter's memory after its forward, and fills it again for its backward."""
    fp8, x = choose(Fp8Config(), CPU), torch.randn(128, 128).bfloat16().requires_grad_()
    one, other = layer(128, 64, fp8), layer(128, 64, fp8)
    one.quantised.kept = False
    y = one(x)
    with torch.autograd._unsafe_preserve_version_counter(one.weight), torch.no_grad():
        one.weight.copy_(other.weight)
    y.sum().backward()
    found, x.grad = x.grad, None
    other(x).sum().backward()
    assert found is not None and x.grad is not None and torch.equal(found, x.grad)
    assert torch.equal(one(x), other(x)) and one.quantised._weight is None


def test_a_replaced_weight_is_quantised_anew_wherever_it_lies() -> None:
    """Freed and allocated again, a storage often has the address that the old one had."""
    fp8, x = choose(Fp8Config(), CPU), torch.randn(4, 128).bfloat16()
    one = layer(128, 64, fp8)
    for _ in range(20):
        before, fresh = one(x), torch.randn(64, 128).bfloat16()
        one.weight.data = torch.empty(0)
        one.weight.data = fresh.clone()
        other = layer(128, 64, fp8)
        with torch.no_grad():
            other.weight.copy_(fresh)
        assert torch.equal(one(x), other(x)) and not torch.equal(one(x), before)


def test_other_settings_quantise_anew() -> None:
    x, one = torch.randn(4, 128).bfloat16(), layer(128, 64, choose(Fp8Config(), CPU))
    for settings in (Fp8Config(scales="float"), Fp8Config(backend="reference"), Fp8Config()):
        one(x)
        one.fp8 = choose(settings, CPU)
        other = layer(128, 64, one.fp8)
        with torch.no_grad():
            other.weight.copy_(one.weight)
        assert torch.equal(one(x), other(x))


def test_weights_of_inference_mode_work() -> None:
    with torch.inference_mode():
        one = Linear(128, 64).bfloat16()
        one.fp8 = choose(Fp8Config(), CPU)
        x = torch.randn(4, 128).bfloat16()
        assert torch.equal(one(x), one(x))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_backward_is_small(kind: Kind) -> None:
    """One byte a number and a scale for 128 of them; 12 bits for attention's output."""
    kept = 0

    def pack(t: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += t.nbytes
        return t

    one = layer(512, 64, choose(Fp8Config(), CPU))
    x = torch.randn(300, 512).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        one(x, kind)
    assert kept == 300 * (512 * (1 if kind == "activation" else 1.5) + 4 * 4)


def test_without_fp8_it_is_an_ordinary_linear_layer() -> None:
    one, x = Linear(24, 10), torch.randn(3, 24)
    assert torch.equal(one(x), x @ one.weight.t())
