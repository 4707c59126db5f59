"""BF16, the type the quickstart trains in, against FP32: the same gradients up to BF16's rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clearseek.config import ModelConfig
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops import loss as loss_module
from clearseek.ops import norm as norm_module
from clearseek.ops.norm import RMSNorm
from tests.model.test_parity import BASE, V2


@pytest.mark.parametrize("changes", [{"num_nextn_predict_layers": 1}, V2, {"q_lora_rank": None}])
def test_gradients_in_bf16_are_those_of_fp32_up_to_rounding(changes: dict[str, Any]) -> None:
    config = ModelConfig(**(BASE | {"num_experts_per_tok": 8} | changes))  # all experts: no choice that rounding flips
    tokens = torch.randint(0, config.vocab_size, (4, 66 if config.num_nextn_predict_layers else 65))
    gradients = {}
    for dtype in (torch.bfloat16, torch.float32):
        model = DeepSeekModel(config)
        model.initialise(3)
        model.set_dtype(torch.bfloat16).set_dtype(dtype)  # the same rounded weights
        losses = model.loss(tokens, 1e-3, 0.3)
        losses.total.backward()
        gradients[dtype] = {name: p.grad.float() for name, p in model.named_parameters() if p.grad is not None}
        gradients[dtype]["loss"] = losses.total.detach().reshape(1)
    for name, exact in gradients[torch.float32].items():
        error = (gradients[torch.bfloat16][name] - exact).norm() / exact.norm()
        # a dozen roundings of 2^-9 in a row, and small differences between experts amplified by the router
        assert error <= 0.06, f"{name}: relative error {error:.3f}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_in_several_blocks_equals_norm_in_one(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x, g, norm = torch.randn(50, 24).to(dtype), torch.randn(50, 24).to(dtype), RMSNorm(24).to(dtype)
    results = []
    for elements in (1 << 19, 24 * 7):
        monkeypatch.setattr(norm_module, "BLOCK_ELEMENTS", elements)
        leaf = x.clone().requires_grad_()
        norm.weight.grad = None
        y = norm(leaf)
        y.backward(g)
        assert leaf.grad is not None and norm.weight.grad is not None
        results.append((y.detach(), leaf.grad, norm.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02  # matrix-vector products of other heights sum in another order
    for a, b in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 10)
    expected = F.rms_norm(x.float(), (24,), norm.weight.detach().float(), 1e-6)
    torch.testing.assert_close(results[0][0].float(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize(("unequal", "scale"), [(False, 1.0), (True, 1.0), (False, 0.3), (True, 0.3)])
def test_no_factor_common_to_all_tokens_is_rounded(unequal: bool, scale: float) -> None:
    """Projections onto the exact gradients are 1, where 1/96 rounded to BF16 is 0.2 % off."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(rows, 512, generator=generator).bfloat16() for rows in (96, 64))
    head *= 0.02  # as large as initial values: a BF16 logit's own rounding stays below the tolerance
    target = torch.randint(0, 64, (96,), generator=generator)
    weight = torch.rand(96, generator=generator) + 0.1 if unequal else torch.ones(96)
    weight /= weight.sum()
    found = [x.clone().requires_grad_() for x in (hidden, head)]
    (scale * loss_module.cross_entropy(*found, target, weight)).backward()  # type: ignore[no-untyped-call]
    exact = [x.double().requires_grad_() for x in (hidden, head)]
    (scale * weight.double() * F.cross_entropy(exact[0] @ exact[1].t(), target, reduction="none")).sum().backward()
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.grad is not None and theirs.grad is not None
        projection = (ours.grad.double() * theirs.grad).sum() / theirs.grad.square().sum()
        assert abs(projection.item() - 1) < 5e-4


def test_the_heads_gradient_of_many_chunks_is_summed_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_ELEMENTS", 1)  # 64 tokens a chunk
    generator = torch.Generator().manual_seed(0)
    hidden = (1 + 0.1 * torch.randn(64 * 100, 16, generator=generator)).bfloat16()  # sums grow from chunk to chunk
    head = (0.1 * torch.randn(32, 16, generator=generator)).bfloat16().requires_grad_()
    target = torch.zeros(len(hidden), dtype=torch.int64)
    loss_module.cross_entropy(hidden, head, target, torch.full((len(target),), 1 / len(target))).backward()
    exact = head.detach().double().requires_grad_()
    F.cross_entropy(hidden.double() @ exact.t(), target).backward()
    assert head.grad is not None and exact.grad is not None
    error = (head.grad.double() - exact.grad).norm() / exact.grad.norm()
    assert error <= 2**-8, error  # the result's own rounding; with sums in BF16 it is 0.026


def test_balance_biases_and_nothing_else_stay_fp32() -> None:
    model = DeepSeekModel(ModelConfig(**BASE)).set_dtype(torch.bfloat16)
    biases = {name: buffer.dtype for name, buffer in model.named_buffers()}
    assert biases and set(biases.values()) == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_odd_channel_counts_work() -> None:
    config = ModelConfig(**(BASE | {"qk_nope_head_dim": 15, "kv_lora_rank": 33, "v_head_dim": 7}))
    model = DeepSeekModel(config)
    model.initialise(0)
    assert model.loss(torch.randint(0, 160, (2, 12))).total.isfinite()
