"""The FP8 feed-forward against its definition: quantise, decode, multiply in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.config import Fp8Config
from clearseek.fp8.choose import choose
from clearseek.fp8.linear import QuantisedWeight
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles
from clearseek.model.dispatch import lay_out
from clearseek.model.feed_forward_fp8 import feed_forward_fp8

D, I = 136, 128  # noqa: E741


def tiles(x: Tensor) -> Tensor:
    return dequantise(quantise_tiles(x.bfloat16(), True)).double()


def columns(x: Tensor) -> Tensor:
    return dequantise(quantise_columns(x.bfloat16(), True)).double().t()


def expert(x: Tensor, w: Tensor, g: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, dx, d gate|up, d down) of one expert's rows [R, D], router weights [R, 1], output gradients [R, D]."""
    first, second = (dequantise(quantise_blocks(m, True)).double() for m in (gate_up, down))
    inner = tiles(x) @ first.t()
    gate, up = inner.bfloat16().double().chunk(2, -1)
    y = tiles(F.silu(gate) * up * w) @ second.t()
    kept = tiles(inner).requires_grad_()
    gate, up = kept.chunk(2, -1)
    act = F.silu(gate) * up * w
    act.backward((tiles(g) @ second).bfloat16().double())
    assert kept.grad is not None
    d_inner = kept.grad.bfloat16()
    dx = tiles(d_inner) @ first
    d_down = columns(tiles(g)).t() @ columns(act.detach())
    return y, dx, columns(d_inner).t() @ columns(tiles(x)), d_down


def close(found: Tensor, expected: Tensor) -> None:
    error = (found.double() - expected).norm() / expected.norm()
    assert error < 0.02, error  # BF16 roundings tip a few eight-bit numbers; one operand not quantised shows as 0.026


@pytest.mark.parametrize("backend", ["reference", "dequantised"])
def test_dense(backend: str) -> None:
    fp8 = choose(Fp8Config(backend=backend), torch.device("cpu"))  # type: ignore[arg-type]
    x, g = torch.randn(130, D).bfloat16().requires_grad_(), torch.randn(130, D).bfloat16()
    gate, up, down = (torch.randn(*s).bfloat16().mul_(0.1).requires_grad_() for s in ((I, D), (I, D), (D, I)))
    for parameter in (gate, up, down):
        parameter.grad_dtype = torch.float32
    operands = QuantisedWeight().get(fp8, gate, up, stacked=True), QuantisedWeight().get(fp8, down, stacked=True)
    y = feed_forward_fp8(x, None, None, fp8, operands, (gate, up), (down,))
    y.backward(g)
    ones = torch.ones(130, 1, dtype=torch.float64)
    gate_up = torch.cat([gate, up]).detach()
    y64, dx, d_gate_up, d_down = expert(x.detach(), ones, g, gate_up, down.detach())
    close(y.detach(), y64)
    for parameter, expected in zip((x, gate, up, down), (dx, *d_gate_up.chunk(2), d_down), strict=True):
        assert parameter.grad is not None
        close(parameter.grad, expected)


@pytest.mark.parametrize("backend", ["reference", "dequantised"])
def test_experts(backend: str) -> None:
    """Three experts, one of them without tokens; weight zero of the padding keeps it out of everything."""
    fp8 = choose(Fp8Config(backend=backend), torch.device("cpu"))  # type: ignore[arg-type]
    tokens = 150
    x, g = torch.randn(tokens, D).bfloat16().requires_grad_(), torch.randn(tokens, D).bfloat16()
    index = torch.stack([torch.tensor([0, 2])[torch.randperm(2)] for _ in range(tokens)])
    index[:20, 1] = 2 - index[:20, 0]
    weight = torch.rand(tokens, 2).bfloat16().float().requires_grad_()
    gate_up = torch.randn(3, 2 * I, D).bfloat16().mul_(0.1).requires_grad_()
    down = torch.randn(3, D, I).bfloat16().mul_(0.1).requires_grad_()
    for parameter in (gate_up, down):
        parameter.grad_dtype = torch.float32
    operands = QuantisedWeight().get(fp8, gate_up), QuantisedWeight().get(fp8, down)
    layout = lay_out(index, torch.bincount(index.flatten(), minlength=3), 128, padding=tokens)
    y = feed_forward_fp8(x, weight, layout, fp8, operands, (gate_up,), (down,))
    y.backward(g)
    total, d_x = torch.zeros(tokens, D, dtype=torch.float64), torch.zeros(tokens, D, dtype=torch.float64)
    assert gate_up.grad is not None and down.grad is not None and x.grad is not None and weight.grad is not None
    for e in (0, 2):
        token, slot = (index == e).nonzero(as_tuple=True)
        missing = -len(token) % 128
        rows = torch.cat([token, torch.full((missing,), tokens)])  # padding is a row of zeros
        w = torch.cat([weight.detach()[token, slot], torch.zeros(missing)]).double().unsqueeze(1)
        y64, dx, d_gate_up, d_down = expert(
            F.pad(x.detach(), (0, 0, 0, 1))[rows],
            w,
            F.pad(g, (0, 0, 0, 1))[rows],
            gate_up.detach()[e],
            down.detach()[e],
        )
        total.index_add_(0, token, y64[: len(token)])
        d_x.index_add_(0, token, dx[: len(token)])
        close(gate_up.grad[e], d_gate_up)
        close(down.grad[e], d_down)
    close(y.detach(), total)
    close(x.grad, d_x)
    assert not gate_up.grad[1].any() and not down.grad[1].any()
