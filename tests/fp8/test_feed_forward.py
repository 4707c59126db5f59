"""The FP8 feed-forward against its definition: quantise, decode, multiply in float64."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.config import Fp8Config
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.feed_forward import feed_forward_fp8
from clearseek.fp8.linear import QuantisedWeight
from clearseek.fp8.quantise import dequantise, quantise_blocks, quantise_columns, quantise_tiles
from clearseek.ops.dispatch import Routing, lay_out

D, I = 136, 128  # noqa: E741


class Oracle(NamedTuple):
    """Operands by definition; which scales are powers of two, tensor by tensor."""

    x: bool
    inner: bool
    weight: bool
    g: bool
    d_inner: bool

    def tiles(self, x: Tensor, power_of_two: bool) -> Tensor:
        """Decoded 1 x 128 tiles."""
        return dequantise(quantise_tiles(x.bfloat16(), power_of_two)).double()

    def columns(self, x: Tensor, power_of_two: bool) -> Tensor:
        """Decoded 128 x 1 tiles."""
        return dequantise(quantise_columns(x.bfloat16(), power_of_two)).double().t()

    def expert(
        self, x: Tensor, w: Tensor, g: Tensor, gate_up: Tensor, down: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(y, dx, d gate|up, d down) of one expert's rows [R, D], router weights [R, 1], output gradients [R, D]."""
        first, second = (dequantise(quantise_blocks(m, self.weight)).double() for m in (gate_up, down))
        x, g = self.tiles(x, self.x), self.tiles(g, self.g)
        inner = x @ first.t()
        gate, up = inner.bfloat16().double().chunk(2, -1)
        y = self.tiles(F.silu(gate) * up * w, self.inner) @ second.t()
        kept = self.tiles(inner, self.inner).requires_grad_()
        gate, up = kept.chunk(2, -1)
        act = F.silu(gate) * up * w
        act.backward((g @ second).bfloat16().double())
        assert kept.grad is not None
        d_inner = kept.grad.bfloat16()
        dx = self.tiles(d_inner, self.d_inner) @ first
        d_down = self.columns(g, self.g).t() @ self.columns(act.detach(), self.inner)
        return y, dx, self.columns(d_inner, self.d_inner).t() @ self.columns(x, self.x), d_down


def oracle(settings: Fp8Config, experts: bool) -> Oracle:
    """DeepSeek-V3 rounds up the scales of what travels to experts, forward and backward, and no others here."""
    everywhere = settings.scales == "power-of-two"
    travels = everywhere or (settings.scales == "deepseek-v3" and experts)
    return Oracle(travels, everywhere, everywhere, travels, everywhere)


SETTINGS = [
    Fp8Config(backend="dequantised"),
    Fp8Config(backend="reference"),
    Fp8Config(backend="reference", scales="float"),
    Fp8Config(backend="reference", scales="deepseek-v3"),
]


def close(found: Tensor, expected: Tensor) -> None:
    """BF16 roundings tip a few eight-bit numbers to a neighbour. One operand not quantised, or under other scales,
    shows as 0.026 or more."""
    error = (found.double() - expected).norm() / expected.norm()
    assert error < 0.02, error


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.backend}-{s.scales}")
def test_dense(settings: Fp8Config) -> None:
    fp8, expert = choose(settings, torch.device("cpu")), oracle(settings, experts=False).expert
    x, g = torch.randn(130, D).bfloat16().requires_grad_(), torch.randn(130, D).bfloat16()
    gate, up, down = (torch.randn(*s).bfloat16().mul_(0.1).requires_grad_() for s in ((I, D), (I, D), (D, I)))
    for parameter in (gate, up, down):
        parameter.grad_dtype = torch.float32
    y = feed_forward_fp8(x, None, None, fp8, (QuantisedWeight(), QuantisedWeight()), (gate, up), down)
    y.backward(g)
    ones = torch.ones(130, 1, dtype=torch.float64)
    gate_up = torch.cat([gate, up]).detach()
    y64, dx, d_gate_up, d_down = expert(x.detach(), ones, g, gate_up, down.detach())
    close(y.detach(), y64)
    for parameter, expected in zip((x, gate, up, down), (dx, *d_gate_up.chunk(2), d_down), strict=True):
        assert parameter.grad is not None
        close(parameter.grad, expected)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.backend}-{s.scales}")
def test_experts(settings: Fp8Config) -> None:
    """Three experts, one of them without tokens; weight zero of the padding keeps it out of everything."""
    fp8, expert = choose(settings, torch.device("cpu")), oracle(settings, experts=True).expert
    tokens = 150
    x, g = torch.randn(tokens, D).bfloat16().requires_grad_(), torch.randn(tokens, D).bfloat16()
    index = torch.stack([torch.tensor([0, 2])[torch.randperm(2)] for _ in range(tokens)])
    index[:20, 1] = 2 - index[:20, 0]
    weight = torch.rand(tokens, 2).bfloat16().float().requires_grad_()
    gate_up = torch.randn(3, 2 * I, D).bfloat16().mul_(0.1).requires_grad_()
    down = torch.randn(3, D, I).bfloat16().mul_(0.1).requires_grad_()
    for parameter in (gate_up, down):
        parameter.grad_dtype = torch.float32
    keepers = QuantisedWeight(), QuantisedWeight()
    layout = lay_out(Routing.of(index, torch.ones(index.shape), 3), 128, padding=tokens)
    y = feed_forward_fp8(x, weight, layout, fp8, keepers, (gate_up,), down)
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


def test_an_expert_knows_nothing_of_tokens_that_it_does_not_see() -> None:
    """Its gradients are the same bits, however large they are: not even through scales of its last tile."""
    fp8 = choose(Fp8Config(), torch.device("cpu"))
    x, g = torch.randn(90, D).bfloat16(), torch.randn(90, D).bfloat16()
    index = torch.zeros(90, 1, dtype=torch.int64)
    index[1:, 0] = torch.arange(89) % 2 + 1  # token 0 alone goes to expert 0
    found = []
    for size in (1.0, 1e4):
        x[0], g[0] = x[0] * size, g[0] * size
        gate_up = torch.linspace(-1, 1, 3 * 2 * I * D).view(3, 2 * I, D).sin().bfloat16().requires_grad_()
        down = torch.linspace(-1, 1, 3 * D * I).view(3, D, I).cos().bfloat16().requires_grad_()
        for parameter in (gate_up, down):
            parameter.grad_dtype = torch.float32
        keepers = QuantisedWeight(), QuantisedWeight()
        layout = lay_out(Routing.of(index, torch.ones(index.shape), 3), 128, padding=90)
        leaf = x.clone().requires_grad_()
        y = feed_forward_fp8(leaf, torch.ones(90, 1), layout, fp8, keepers, (gate_up,), down)
        y.backward(g)
        assert gate_up.grad is not None and down.grad is not None and leaf.grad is not None
        found.append((gate_up.grad[1:], down.grad[1:], leaf.grad[1:], y.detach()[1:]))
    assert all(torch.equal(small, large) for small, large in zip(*found, strict=True))
