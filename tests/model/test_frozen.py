"""Frozen tensors cost no backward product, and what is trained has the gradient that it has with all others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clearseek.config import Fp8Config, ModelConfig
from clearseek.fp8.backends.choose import choose
from clearseek.kernels import launch, operations
from clearseek.model import experts as experts_module
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops import norm as norm_module
from clearseek.ops.attention import causal_attention
from clearseek.ops.compiled import Kernels, use_kernels
from clearseek.ops.norm import RMSNorm
from tests.model.test_parity import BASE


@pytest.fixture(params=["torch", "numba"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    if request.param == "numba" and launch.unavailable() is not None:
        pytest.skip(str(launch.unavailable()))
    use_kernels(request.param)
    yield request.param


TRAINED: dict[str, Callable[[str], bool]] = {
    "attention": lambda name: "self_attn" in name and "norm" not in name,
    "experts": lambda name: ".experts." in name,
    "gate and up": lambda name: name.endswith("experts.gate_up_proj"),
    "down of one layer": lambda name: name == "model.layers.2.mlp.experts.down_proj",
    "down of the first": lambda name: name == "model.layers.1.mlp.experts.down_proj",
    "routers": lambda name: name.endswith("mlp.gate.weight"),
    "norms": lambda name: "norm" in name,
    "embedding": lambda name: "embed_tokens" in name,
    "head": lambda name: "lm_head" in name,
    "MTP": lambda name: name.startswith("model.layers.3."),
}


def gradients(model: DeepSeekModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model.loss(tokens, 1e-2, 0.3).total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("trained", TRAINED.values(), ids=TRAINED)
def test_gradients_of_some_are_those_of_all(
    trained: Callable[[str], bool], kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DeepSeekModel(ModelConfig(**(BASE | {"num_nextn_predict_layers": 1})))
    model.initialise(3)
    tokens = torch.randint(0, 160, (2, 42))
    everything = gradients(model, tokens)
    wanted = {name for name, _ in model.named_parameters() if trained(name)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    written = set[tuple[int, ...]]()
    product = experts_module.grouped_mm_weight

    def watched(g: Tensor, x: Tensor, part: Any, space: Tensor | None) -> Tensor:
        out: Tensor = product(g, x, part, space)
        written.add(tuple(out.shape))
        return out

    monkeypatch.setattr(experts_module, "grouped_mm_weight", watched)
    found = gradients(model, tokens)
    assert found.keys() == wanted
    for name, gradient in found.items():  # where down alone is trained, SwiGLU is recomputed by the forward's formula
        assert (gradient - everything[name]).norm() <= 1e-6 * gradient.norm(), name
    shapes = {tuple(p.shape) for name, p in model.named_parameters() if name in wanted and ".experts." in name}
    assert written == shapes  # no product of frozen experts


def test_what_is_below_the_lowest_trained_layer_has_no_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    model = DeepSeekModel(ModelConfig(**BASE)).requires_grad_(False)
    model.initialise(3)
    model.model.layers[2].mlp.experts.down_proj.requires_grad_()  # type: ignore[union-attr]
    calls = 0
    product = experts_module.grouped_mm

    def watched(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return product(*arguments)

    loss = model.loss(torch.randint(0, 160, (2, 42))).total
    monkeypatch.setattr(experts_module, "grouped_mm", watched)
    loss.backward()
    assert calls == 0  # down's gradient needs no other product than its own


@pytest.mark.parametrize("wanted", [w for w in itertools.product([True, False], repeat=3) if any(w)])
def test_attention_and_norm_compute_what_is_wanted(wanted: tuple[bool, ...]) -> None:
    use_kernels("torch")
    inputs = torch.randn(2, 2, 150, 8), torch.randn(2, 2, 150, 8), torch.randn(2, 2, 150, 6)
    results = []
    for asked in ((True, True, True), wanted):
        leaves = [x.clone().requires_grad_(a) for x, a in zip(inputs, asked, strict=True)]
        causal_attention(*leaves).square().sum().backward()
        results.append([leaf.grad for leaf in leaves])
    for asked_for, whole, some in zip(wanted, *results, strict=True):
        assert whole is not None
        assert some is None if not asked_for else some is not None and torch.equal(whole, some)


def test_a_frozen_norm_sums_nothing(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = RMSNorm(24), torch.randn(70, 24)
    seen = []
    module, name = (operations, "launch") if kernels == "numba" else (norm_module, "_row_blocks")
    kept: Callable[..., Any] = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a: (seen.append(a), kept(*a))[1])
    found = []
    for frozen in (False, True):
        norm.requires_grad_(not frozen)
        norm.weight.grad = None
        leaf = x.clone().requires_grad_()
        norm(leaf).square().sum().backward()
        found.append((leaf.grad, norm.weight.grad))
    assert torch.equal(found[0][0], found[1][0]) and found[0][1] is not None and found[1][1] is None  # type: ignore[arg-type]
    if kernels == "numba":  # the last argument is where the weight's sums go
        assert [a[-1] is None for a in seen if a[0] == "rows.norm_backward"] == [False, True]


@pytest.mark.parametrize("trained", ["none of the weights", "all but gate and up", "attention", "all"])
def test_fp8_products_are_those_of_what_is_trained(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128}
    config = ModelConfig(**(BASE | size | {"num_hidden_layers": 2}))
    model = DeepSeekModel(config)
    model.initialise(3)
    model.set_dtype(torch.bfloat16).use_fp8(choose(Fp8Config(backend="dequantised"), torch.device("cpu")))
    tokens = torch.randint(0, 160, (2, 33))
    everything = gradients(model, tokens)
    choices: dict[str, Callable[[str], bool]] = {
        "none of the weights": lambda name: name == "model.embed_tokens.weight",
        "all but gate and up": lambda name: "gate_up" not in name and "gate_proj" not in name and "up_proj" not in name,
        "attention": lambda name: "self_attn" in name,
        "all": lambda name: True,
    }
    wanted = {name for name, _ in model.named_parameters() if choices[trained](name)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)
    products = model.model.layers[0].self_attn.o_proj.fp8.backend.products  # type: ignore[union-attr]
    calls = {"mm_weight": 0, "grouped_mm_weight": 0}

    def count(name: str) -> None:
        product = getattr(type(products), name)

        def counted(self: Any, *arguments: Any) -> Any:
            calls[name] += 1
            return product(self, *arguments)

        monkeypatch.setattr(type(products), name, counted)

    for name in calls:
        count(name)
    found = gradients(model, tokens)
    assert found.keys() == wanted
    assert all(torch.equal(gradient, everything[name]) for name, gradient in found.items())
    attention = 2 * 5 * (trained != "none of the weights")
    assert (calls["mm_weight"] - calls["grouped_mm_weight"]) == attention
    assert (calls["grouped_mm_weight"] > 0) == (trained.startswith("all"))


def test_fp8_keeps_no_input_of_frozen_layers() -> None:
    from clearseek.fp8.linear import Linear

    layer, kept = Linear(128, 64).bfloat16(), list[int]()
    layer.fp8 = choose(Fp8Config(), torch.device("cpu"))
    layer.requires_grad_(False)
    x = nn.Parameter(torch.randn(4, 128).bfloat16())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.nbytes), t)[1], lambda t: t):
        layer(x).sum().backward()
    assert kept == [] and x.grad is not None
