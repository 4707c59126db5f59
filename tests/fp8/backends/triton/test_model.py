"""A whole model computed by the kernels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from clearseek.config import Fp8Config, ModelConfig
from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.reference import TorchQuantiser, reference
from clearseek.fp8.formats import Quantised
from clearseek.fp8.linear import Fp8
from clearseek.fp8.quantise import quantise_columns, quantise_tiles
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.swiglu import _weighted_backward_formula, _weighted_formula
from tests.model.test_parity import BASE

pytest.importorskip("triton")
from clearseek.fp8.backends.triton.backend import triton

SIZES: dict[str, Any] = BASE | {
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "intermediate_size": 256,
    "moe_intermediate_size": 128,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
    "num_experts_per_tok": 8,  # all of them, so that rounding flips no choice
}


class Formula(TorchQuantiser):
    """The reference's with SwiGLU's formula as it is compiled, in FP32 and rounded once, as in the kernels."""

    def swiglu(self, gate_up_RI2: Tensor, weight_R1: Tensor, power_of_two: bool) -> tuple[Quantised, Quantised]:
        """(gate|up as tiles, the activation as tiles)."""
        act_RI = _weighted_formula(gate_up_RI2, weight_R1)
        return self.tiles(gate_up_RI2, power_of_two), self.tiles(act_RI, power_of_two)

    def swiglu_backward(
        self, d_act_RI: Tensor, gate_up: Quantised, weight_R1: Tensor, power_of_two: bool
    ) -> tuple[Quantised, Any, Any, Tensor]:
        """As the reference's."""
        act_RI, d_gate_up_RI2, d_weight_R = _weighted_backward_formula(d_act_RI, self.decode(gate_up), weight_R1)
        return (*self.gradient(d_gate_up_RI2, power_of_two), self.columns(act_RI, power_of_two), d_weight_R)


def gradients(backend: Backend, device: torch.device) -> dict[str, torch.Tensor]:
    model = DeepSeekModel(ModelConfig(**SIZES))
    model.initialise(3)
    model.to(device).set_dtype(torch.bfloat16).use_fp8(Fp8(Fp8Config(scales="deepseek-v3"), backend))
    tokens = torch.randint(0, SIZES["vocab_size"], (2, 65), generator=torch.Generator().manual_seed(1)).to(device)
    loss = model.loss(tokens, 1e-3, 0.0).total
    loss.backward()
    found = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()[None]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_gradients_are_the_references(device: torch.device) -> None:
    """In the interpreter only weight gradients differ, in FP32's last bits, unless exp's last bit decides a rounding.
    On a GPU all sums differ, some then in the last bit of BF16, and what that does to eight-bit numbers adds up."""
    formula = Formula(quantise_tiles, quantise_columns, reference().quantiser.decode)
    found, expected = gradients(triton(), device), gradients(replace(reference(), quantiser=formula), device)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        distance = (found[name] - gradient).norm() / gradient.norm()
        assert distance <= (1e-3 if device.type == "cpu" else 0.1), f"{name}: {distance:.4f}"
