"""Adapters against plain PyTorch autograd over weights to which the update was added."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.config import Fp8Config, ModelConfig
from clearseek.fp8.backends.choose import choose
from clearseek.fp8.linear import Linear
from clearseek.kernels import launch
from clearseek.model import lora
from clearseek.model.experts import Experts
from clearseek.model.lora import LowRank, adapters_of, attach, detach
from clearseek.ops.compiled import use_kernels
from clearseek.ops.dispatch import Routing
from clearseek.ops.grouped import Blocks
from tests.model.test_parity import BASE

SMALL = ModelConfig(**(BASE | {"hidden_size": 12, "moe_intermediate_size": 10}))
ALIGNED = ModelConfig(**(BASE | {"hidden_size": 48, "moe_intermediate_size": 16}))
"""Sizes that numba's loops for adapters take."""
KERNELS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(launch.unavailable() is not None, reason="numba"))]


def randomise(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def adapted(experts: Experts, which: tuple[str, ...], rank: int, alpha: float) -> Experts:
    """Experts with adapters of random A and B."""
    experts.requires_grad_(False)
    for name in which:
        attach(experts, name, rank, alpha)
    randomise(experts)
    return experts


def loop(x: Tensor, weight: Tensor, index: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """Every token by itself, through the whole matrices."""
    rows = []
    for t in range(len(x)):
        total = torch.zeros_like(x[t])
        for j, e in enumerate(index[t].tolist()):
            gate, up = (gate_up[e] @ x[t]).chunk(2)
            total = total + weight[t, j] * (down[e] @ (F.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows)


def whole(experts: Experts, name: str) -> Tensor:
    """A stack with its update, as a function of A and B."""
    base: Tensor = getattr(experts, name)
    adapter = dict(adapters_of(experts)).get(f".{name}")
    return base if adapter is None else base + adapter.scale * adapter.lora_B @ adapter.lora_A


def gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), leaves))


@pytest.mark.parametrize("kernels", KERNELS)
@given(
    config=st.sampled_from([SMALL, ALIGNED]), tokens=st.integers(1, 40), rank=st.integers(1, 9),
    k=st.integers(1, 8), seed=st.integers(0, 2**16),
    which=st.sampled_from([("gate_up_proj",), ("down_proj",), ("gate_up_proj", "down_proj")]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_experts_equal_a_loop_over_tokens(
    kernels: Any, config: ModelConfig, tokens: int, rank: int, k: int, seed: int, which: tuple[str, ...]
) -> None:
    use_kernels(kernels)
    generator = torch.Generator().manual_seed(seed)
    experts = adapted(Experts(config), which, rank, 3.0)
    index = torch.stack([torch.randperm(8, generator=generator)[:k] for _ in range(tokens)])
    x = torch.randn(tokens, config.hidden_size, generator=generator, requires_grad=True)
    weight = torch.rand(tokens, k, generator=generator, requires_grad=True)
    leaves = [x, weight, *(p for _, each in adapters_of(experts) for p in each.parameters())]
    ours = experts(x, Routing.of(index, weight, 8))
    plain = loop(x, weight, index, whole(experts, "gate_up_proj"), whole(experts, "down_proj"))
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    for a, b in zip(gradients(ours, leaves), gradients(plain, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", [("gate_up_proj",), ("down_proj",), ("gate_up_proj", "down_proj")])
@pytest.mark.parametrize("rank", [3, 8])
def test_all_experts_at_once_as_on_a_gpu(which: tuple[str, ...], rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One grouped product for all experts, padded ranks, and whatever the memory held in spare rows."""
    sizes = SMALL.model_copy(update={"moe_intermediate_size": 8})
    experts = adapted(Experts(sizes), which, rank, 3.0)
    index = torch.stack([torch.randperm(6)[:3] for _ in range(20)])  # two experts without tokens
    x, weight = torch.randn(20, 12, requires_grad=True), torch.rand(20, 3, requires_grad=True)
    leaves = [x, weight, *(p for _, each in adapters_of(experts) for p in each.parameters())]
    by_expert = experts(x, Routing.of(index, weight, 8))
    by_expert_gradients = gradients(by_expert, leaves)

    def spare_rows_are_nan(x_RK: Tensor, w: Tensor, offs: Tensor) -> Tensor:
        y = grouped_mm(x_RK, w, offs=offs)
        if y.ndim == 2:
            y[int(offs[-1]) :] = float("nan")
        return y

    grouped_mm = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", spare_rows_are_nan)
    monkeypatch.setattr(lora, "blocks", lambda ends, rows, _: Blocks(rows, None, [], ends))
    monkeypatch.setattr(lora, "_rank_step", lambda _: 8)
    at_once = experts(x, Routing.of(index, weight, 8))
    torch.testing.assert_close(at_once, by_expert, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(at_once, leaves), by_expert_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rank", [3, 8])
def test_a_gpu_computes_the_same(rank: int) -> None:
    config = ModelConfig(**(BASE | {"hidden_size": 64, "moe_intermediate_size": 32}))
    experts = adapted(Experts(config), ("gate_up_proj", "down_proj"), rank, 3.0)
    index, x, weight = (
        torch.stack([torch.randperm(8)[:3] for _ in range(300)]),
        torch.randn(300, 64),
        torch.rand(300, 3),
    )
    found = []
    for device in ("cpu", "cuda"):
        experts.to(device, torch.bfloat16)
        leaves = [x.to(device, torch.bfloat16).requires_grad_(), weight.to(device).requires_grad_()]
        leaves += [p for _, each in adapters_of(experts) for p in each.parameters()]
        out = experts(leaves[0], Routing.of(index.to(device), leaves[1], 8))
        found.append([out, *torch.autograd.grad(out.float().square().sum(), leaves)])
    for a, b in zip(*found, strict=True):
        a, b = a.detach().float(), b.detach().float().cpu()
        assert float((a - b).norm() / a.norm()) < 0.02


def test_experts_without_tokens_have_no_gradient() -> None:
    experts = adapted(Experts(SMALL), ("gate_up_proj", "down_proj"), 2, 4.0)
    index, x = torch.tensor([[5, 2]] * 7), torch.randn(7, 12)
    experts(x, Routing.of(index, torch.rand(7, 2), 8)).sum().backward()
    for _, adapter in adapters_of(experts):
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            assert [e for e in range(8) if parameter.grad[e].any()] == [2, 5]
    assert experts.gate_up_proj.grad is None and experts.down_proj.grad is None


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("config", [SMALL, ALIGNED])
@pytest.mark.parametrize("which", [("gate_up_proj", "down_proj"), ("down_proj",)])
def test_frozen_inputs_cost_nothing_and_change_nothing(
    which: tuple[str, ...], config: ModelConfig, kernels: Any
) -> None:
    """In the first layer nothing before the experts learns, so that the input needs no gradient."""
    use_kernels(kernels)
    experts = adapted(Experts(config), which, 2, 4.0)
    leaves = [p for _, each in adapters_of(experts) for p in each.parameters()]
    index, weight, x = torch.tensor([[5, 2]] * 7), torch.rand(7, 2), torch.randn(7, config.hidden_size)
    with_x = gradients(experts(x.requires_grad_(), Routing.of(index, weight, 8)), leaves)
    without = gradients(experts(x.detach(), Routing.of(index, weight, 8)), leaves)
    assert all(torch.equal(a, b) for a, b in zip(with_x, without, strict=True))


@pytest.mark.parametrize("kernels", KERNELS)
def test_a_document_is_apart_from_another_in_the_same_experts(kernels: Any) -> None:
    """No bit of its outputs or of its inputs' gradients depends on a neighbour of another length."""
    use_kernels(kernels)
    experts = adapted(Experts(ALIGNED), ("gate_up_proj", "down_proj"), 3, 3.0)
    generator = torch.Generator().manual_seed(1)
    x, index = torch.randn(11, 48, generator=generator), torch.randint(0, 4, (40, 2), generator=generator) * 2
    index[:, 1] += 1
    found = []
    for before in (5, 29):
        whole_x = torch.cat([torch.randn(before, 48, generator=generator), x]).requires_grad_()
        choices = torch.cat([index[11 : 11 + before], index[:11]])
        document = torch.tensor([0] * before + [1] * 11)
        routing = Routing.of(choices, torch.full(choices.shape, 0.5), 8, document_T=document)
        y = experts(whole_x, routing)[before:]
        found.append((y, torch.autograd.grad(y.square().sum(), whole_x)[0][before:]))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", [(5, 12), (2, 3, 12), (1, 1, 12)])
def test_linear_equals_the_whole_matrix(shape: tuple[int, ...]) -> None:
    layer = Linear(12, 20).requires_grad_(False)
    layer.adapter = adapter = LowRank(layer.weight, 3, 6.0)
    randomise(layer)
    x = torch.randn(shape, requires_grad=True)
    leaves = [x, adapter.lora_A, adapter.lora_B]
    ours, plain = layer(x), F.linear(x, layer.weight + 2.0 * adapter.lora_B @ adapter.lora_A)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(gradients(ours, leaves), gradients(plain, leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_writing_without_gradients_gives_the_same_bits() -> None:
    layer = Linear(12, 20).requires_grad_(False)
    layer.adapter = LowRank(layer.weight, 3, 6.0)
    randomise(layer)
    x = torch.randn(2, 3, 12)
    with torch.no_grad():
        found = layer(x)
    assert torch.equal(found, layer(x)) and not found.requires_grad and layer(x).requires_grad


def test_names_lead_to_adapters_and_back() -> None:
    experts = Experts(SMALL)
    layer = torch.nn.ModuleDict({"o_proj": Linear(4, 6), "experts": experts})
    for name in ("o_proj.weight", "experts.down_proj", "experts.gate_up_proj"):
        adapter = attach(layer, name, 2, 1.0)
        assert dict(adapters_of(layer)) == {name: adapter}
        assert adapter.lora_A.shape[-2:] == (2, layer.get_parameter(name).shape[-1])
        detach(layer, name)
        assert not dict(adapters_of(layer))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_folding_rounds_once(dtype: torch.dtype) -> None:
    weight = torch.randn(3, 6, 5).to(dtype)
    adapter = LowRank(weight, 2, 3.0)
    randomise(adapter)
    a, b = adapter.lora_A.double(), adapter.lora_B.double()
    exact = weight.double() + 1.5 * b @ a
    assert adapter.folded(weight).dtype == dtype
    torch.testing.assert_close(
        adapter.folded(weight), exact.to(dtype), rtol=1e-6 if dtype == torch.float32 else 0.01, atol=1e-6
    )


@pytest.mark.parametrize("backend", ["reference", "dequantised"])
@pytest.mark.parametrize("which", [("gate_up_proj", "down_proj"), ("gate_up_proj",)])
def test_fp8_experts_are_close_to_wide_ones(backend: Any, which: tuple[str, ...]) -> None:
    config = ModelConfig(**(BASE | {"hidden_size": 128, "moe_intermediate_size": 128}))
    experts = Experts(config).requires_grad_(False)
    for name in which:
        attach(experts, name, 4, 4.0)
    with torch.no_grad():
        for name, parameter in experts.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.5 if "lora_B" in name else 0.09))
            parameter.data = parameter.data.bfloat16()
    index = torch.stack([torch.randperm(8)[:3] for _ in range(50)])
    x, weight = torch.randn(50, 128).bfloat16().requires_grad_(), torch.rand(50, 3, requires_grad=True)
    leaves = [x, weight, *(p for _, each in adapters_of(experts) for p in each.parameters())]
    wide = experts(x, Routing.of(index, weight, 8))
    wide_gradients = gradients(wide.float(), leaves)
    experts.fp8 = choose(Fp8Config(backend=backend), torch.device("cpu"))
    narrow = experts(x, Routing.of(index, weight, 8))
    for a, b in zip([narrow, *gradients(narrow.float(), leaves)], [wide, *wide_gradients], strict=True):
        error = float((a - b).detach().float().norm() / b.detach().float().norm())
        assert 0.003 < error < 0.12
