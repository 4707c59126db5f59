from __future__ import annotations

import pytest
import torch

from clearseek.fp8.formats import Quantised
from clearseek.fp8.quantise import dequantise, quantise_columns, quantise_tiles

pytest.importorskip("triton")
from clearseek.fp8.backends.triton.swiglu import swiglu, swiglu_backward


def operands(rows: int, width: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    gate_up = (torch.randn(rows, 2 * width, generator=generator) * 3).to(device, torch.bfloat16)
    weight = torch.rand(rows, 1, generator=generator).to(device, torch.bfloat16)
    weight[::5] = 0  # padding
    return gate_up, weight, torch.randn(rows, width, generator=generator).to(device, torch.bfloat16)


def nearly(found: Quantised, expected: Quantised) -> None:
    """FP32's last bits decide few roundings to BF16, and those few of the roundings to eight bits: to a neighbour."""
    assert (found.scale != expected.scale).float().mean() < 0.01
    same_scale = (found.scale == expected.scale).repeat_interleave(128, 1)[:, : found.data.shape[1]]
    steps = (position(found.data) - position(expected.data)).abs()[same_scale]
    assert steps.max() <= 1 and steps.float().mean() < 1e-3


def position(data: torch.Tensor) -> torch.Tensor:
    """Eight-bit floats numbered in ascending order, both zeros 0."""
    code = data.view(torch.uint8).int()
    return torch.where(code < 128, code, 128 - code)


@pytest.mark.parametrize(("rows", "width"), [(1, 128), (150, 256)])
@pytest.mark.parametrize("power_of_two", [True, False])
def test_forward(rows: int, width: int, power_of_two: bool, device: torch.device) -> None:
    gate_up, weight, _ = operands(rows, width, device)
    kept, act = swiglu(gate_up, weight, power_of_two)
    expected = quantise_tiles(gate_up, power_of_two)
    assert torch.equal(kept.data.float(), expected.data.float()) and torch.equal(kept.scale, expected.scale)
    gate, up = gate_up.double().chunk(2, dim=1)
    exact = (gate * gate.sigmoid() * up * weight.double()).to(torch.bfloat16)
    nearly(act, quantise_tiles(exact, power_of_two))


@pytest.mark.parametrize(("rows", "width"), [(1, 128), (150, 256)])
@pytest.mark.parametrize("power_of_two", [True, False])
def test_backward(rows: int, width: int, power_of_two: bool, device: torch.device) -> None:
    """Against autograd in float64, from the kept tiles."""
    gate_up, weight, d_act = operands(rows, width, device)
    kept = quantise_tiles(gate_up, power_of_two)
    leaves = dequantise(kept, torch.bfloat16).double().requires_grad_(), weight.double().requires_grad_()
    gate, up = leaves[0].chunk(2, dim=1)
    act = gate * gate.sigmoid() * up * leaves[1]
    act.backward(d_act.double())
    d_gate_up, d_weight = leaves[0].grad, leaves[1].grad
    assert d_gate_up is not None and d_weight is not None
    found = swiglu_backward(d_act, kept, weight, power_of_two)
    nearly(found.tiles, quantise_tiles(d_gate_up.to(torch.bfloat16), power_of_two))
    nearly(found.columns, quantise_columns(d_gate_up.to(torch.bfloat16), power_of_two))
    nearly(found.act, quantise_columns(act.detach().to(torch.bfloat16), power_of_two))
    size = (d_act.double() * gate * gate.sigmoid() * up).abs().sum(1)
    # FP32: some ten roundings a term, and as many sums as there are terms.
    assert ((found.d_weight_R.double() - d_weight[:, 0]).abs() <= (width + 10) * 2.0**-24 * size).all()


def test_gate_must_not_share_a_tile_with_up(device: torch.device) -> None:
    with pytest.raises(ValueError, match="200 wide each: use a multiple of 128"):
        swiglu(torch.zeros(4, 400, device=device), torch.ones(4, 1, device=device), True)
