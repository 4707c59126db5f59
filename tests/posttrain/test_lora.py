"""LoRA on whole models: targets, beginnings, what learns and what does not, merging."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from clearseek.config import Fp8Config, LoraConfig, ModelConfig
from clearseek.errors import UserError
from clearseek.fp8.backends.choose import choose
from clearseek.inference.engine import Engine
from clearseek.inference.packed import pack
from clearseek.inference.plain import Plain
from clearseek.inference.request import Request, Settings
from clearseek.inference.sampler import Sampling, generate
from clearseek.kernels import launch
from clearseek.model.lora import adapters_of, merge
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import use_kernels
from clearseek.posttrain.lora import (
    GROUPS,
    adapter_parameters,
    add_lora,
    count_lora,
    merged_tensors,
    targets_of,
)
from clearseek.tensors import memory_tensors
from tests.model.test_parity import BASE, V2

KERNELS = ["torch", pytest.param("numba", marks=pytest.mark.skipif(launch.unavailable() is not None, reason="numba"))]
CASES: dict[str, dict[str, Any]] = {
    "v3 with MTP": {"num_nextn_predict_layers": 1},
    "plain queries": {"q_lora_rank": None},
    "v2": V2 | {"q_lora_rank": None, "n_shared_experts": 2},
    "tied": {"tie_word_embeddings": True, "num_nextn_predict_layers": 1},
    "all experts": {"first_k_dense_replace": 0},
    "no experts": {"first_k_dense_replace": 3},
}


def model_of(**changes: Any) -> DeepSeekModel:
    model = DeepSeekModel(ModelConfig(**(BASE | changes)))
    model.initialise(seed=1)
    return model


def learnt(model: DeepSeekModel, settings: LoraConfig) -> DeepSeekModel:
    """A model with adapters as they might be after training."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in add_lora(model, settings, seed=2):
            if name.endswith("lora_B"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def tokens_of(model: DeepSeekModel, rows: int = 3, length: int = 24) -> Tensor:
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_merged_equals_unmerged(changes: dict[str, Any], kernels: Any) -> None:
    use_kernels(kernels)
    model = model_of(**changes)
    tokens = tokens_of(model)
    base, head = model.logits(tokens).detach(), model.head_weight.clone()
    learnt(model, LoraConfig(rank=4, alpha=8.0))
    unmerged, loss = model.logits(tokens).detach(), model.loss(tokens, 1e-3, 0.3)
    assert float((unmerged - base).abs().max()) > 0.05
    folded = {name: tensor.clone() for name, tensor in merged_tensors(model).items()}
    assert set(folded) == {spec.name for spec in memory_tensors(model.config)}
    merge(model)
    assert not list(adapters_of(model))
    assert {name: tuple(p.shape) for name, p in model.named_parameters()}.keys() <= folded.keys()
    assert all(torch.equal(folded[name], tensor) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model.logits(tokens), unmerged, rtol=0, atol=1e-5)
    merged_loss = model.loss(tokens, 1e-3, 0.3)
    torch.testing.assert_close(merged_loss.total, loss.total, rtol=1e-5, atol=1e-5)  # the MTP layer's part too
    assert torch.equal(model.head_weight, head)


def test_nothing_changes_before_the_first_step() -> None:
    model = model_of(num_nextn_predict_layers=1)
    tokens = tokens_of(model)
    before, names = model.logits(tokens), set(model.state_dict())
    add_lora(model, LoraConfig(), seed=0)
    assert torch.equal(model.logits(tokens), before)
    merge(model)
    assert torch.equal(model.logits(tokens), before)
    assert set(model.state_dict()) == names


@pytest.mark.parametrize("kernels", KERNELS)
def test_gradients_are_those_of_the_merged_matrices(kernels: Any) -> None:
    """dL/dB = s (dL/dW) A^T and dL/dA = s B^T (dL/dW), with dL/dW from full training of the merged model."""
    use_kernels(kernels)
    model = learnt(model_of(num_nextn_predict_layers=1), LoraConfig(rank=3, alpha=6.0))
    tokens = tokens_of(model)
    model.loss(tokens, 1e-3, 0.3).total.backward()
    found = {name: (each.lora_A, each.lora_B, each.scale) for name, each in adapters_of(model)}
    assert all(p.grad is None for n, p in model.named_parameters() if "lora_" not in n)
    merge(model).requires_grad_(True)
    model.loss(tokens, 1e-3, 0.3).total.backward()
    for name, (a, b, scale) in found.items():
        d_w = model.get_parameter(name).grad
        assert d_w is not None and a.grad is not None and b.grad is not None
        torch.testing.assert_close(b.grad, scale * d_w @ a.mT, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(a.grad, scale * b.mT @ d_w, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_and_counts(group: str) -> None:
    model = model_of(num_nextn_predict_layers=1)
    settings = LoraConfig(rank=2, targets=(group,))
    trained = add_lora(model, settings, seed=0)
    assert sum(parameter.numel() for _, parameter in trained) == sum(count_lora(model.config, settings).values())
    assert [name for name, _ in trained] == [name for name, p in model.named_parameters() if p.requires_grad]
    assert [spec.name for spec in targets_of(model.config, (group,))] == [
        spec.name for spec in memory_tensors(model.config) if spec.kind in GROUPS[group]
    ]
    assert {name for name, _ in adapters_of(model)} == {spec.name for spec in targets_of(model.config, (group,))}
    assert any(name.startswith("model.layers.3.") for name, _ in trained) == (group != "dense")


def test_down_proj_is_not_of_the_routed_experts() -> None:
    config = model_of().config
    names = [spec.name for spec in targets_of(config, ("down_proj",))]
    assert names == ["model.layers.0.mlp.down_proj.weight"] + [
        f"model.layers.{i}.mlp.shared_experts.down_proj.weight" for i in (1, 2)
    ]
    routed = [spec.name for spec in targets_of(config, ("experts.down_proj",))]
    assert routed == [f"model.layers.{i}.mlp.experts.down_proj" for i in (1, 2)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"targets": ("q_proj",)}, 'no .q_proj. .did you mean "q_._proj"'),
        ({"targets": ("attention", "expert")}, 'no .expert. .did you mean "experts"'),
        ({"targets": ("embed_tokens",)}, "choose from attention, dense"),
        ({"rank": 33}, "lora.rank = 33: model.layers.0.self_attn.q_a_proj.weight is 24 x 64"),
    ],
)
def test_what_a_model_does_not_have_is_refused(settings: dict[str, Any], says: str) -> None:
    model = model_of()
    with pytest.raises(UserError, match=says):
        add_lora(model, LoraConfig(**settings), seed=0)
    assert not list(adapters_of(model)) and all(p.requires_grad for p in model.parameters())


def test_a_second_adapter_is_refused() -> None:
    model = model_of()
    add_lora(model, LoraConfig(targets=("o_proj",)), seed=0)
    with pytest.raises(UserError, match="merge them first"):
        add_lora(model, LoraConfig(targets=("experts",)), seed=0)


def test_each_expert_is_drawn_by_itself() -> None:
    """As PEFT draws: uniform within 1 / sqrt(inputs). A larger model begins with the same values."""
    small, large = model_of(), model_of(n_routed_experts=16, num_hidden_layers=4)
    for model in (small, large):
        add_lora(model, LoraConfig(rank=4), seed=7)
    of_large = dict(adapter_parameters(large))
    for name, parameter in ((name, each.detach()) for name, each in adapter_parameters(small)):
        assert torch.equal(parameter, of_large[name][: len(parameter)])
        if name.endswith("lora_A"):
            bound = parameter.shape[-1] ** -0.5
            assert 0.9 * bound < float(parameter.abs().max()) <= bound
            assert abs(float(parameter.mean())) < 0.2 * bound
            assert parameter.ndim == 2 or not torch.equal(parameter[0], parameter[1])
        else:
            assert not parameter.any()
    other = model_of()
    add_lora(other, LoraConfig(rank=4), seed=8)
    assert not torch.equal(adapter_parameters(other)[0][1], adapter_parameters(small)[0][1])


@pytest.mark.parametrize("kernels", KERNELS)
def test_unmerged_decoding_is_that_of_whole_sequences(kernels: Any) -> None:
    use_kernels(kernels)
    model = learnt(model_of(), LoraConfig(rank=4))
    tokens = tokens_of(model, rows=1)
    caches = model.new_caches()
    with torch.no_grad():
        parts = [
            model.logits(tokens[:, :10], caches),
            *(model.logits(tokens[:, i : i + 1], caches) for i in range(10, 24)),
        ]
        torch.testing.assert_close(torch.cat(parts, dim=1), model.logits(tokens), rtol=0, atol=1e-5)
    drawn = list(generate(model, tokens[0].tolist(), 12, Sampling(temperature=0)))
    assert drawn == list(generate(merge(model), tokens[0].tolist(), 12, Sampling(temperature=0)))


def test_bf16_keeps_its_type() -> None:
    model = learnt(model_of().set_dtype(torch.bfloat16), LoraConfig(rank=4))
    tokens = tokens_of(model)
    model.loss(tokens).total.backward()
    for _, parameter in adapter_parameters(model):
        assert parameter.dtype == torch.bfloat16 and parameter.grad is not None
    with torch.no_grad():
        unmerged = model.logits(tokens)
        merged = merge(model).logits(tokens)
    assert merged.dtype == torch.bfloat16
    assert float((merged - unmerged).float().norm() / unmerged.float().norm()) < 0.1


def test_fp8_bases() -> None:
    """Close to BF16 with the same adapters; after the merge, the quantised operands are those of the new matrices."""
    sizes = {"hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 128, "num_experts_per_tok": 8}
    model = learnt(model_of(**sizes, num_hidden_layers=2).set_dtype(torch.bfloat16), LoraConfig(rank=4))
    tokens = tokens_of(model, 2, 65)
    fp8 = choose(Fp8Config(backend="dequantised"), torch.device("cpu"))

    def results() -> list[Tensor]:
        losses = model.loss(tokens, 1e-3, 0.3)
        trained = [p for _, p in adapter_parameters(model)]
        gradients = torch.autograd.grad(losses.total, trained) if trained else []
        return [losses.main, *gradients]

    wide = results()
    model.use_fp8(fp8)
    narrow = results()
    assert 0 < float((narrow[0] - wide[0]).abs()) < 0.02
    errors = [float((a - b).float().norm() / b.float().norm()) for a, b in zip(narrow[1:], wide[1:], strict=True)]
    assert 0.01 < max(errors) < 0.5 and sum(errors) / len(errors) < 0.25
    merge(model)
    assert float((results()[0] - narrow[0]).abs()) < 0.02


def test_the_engine_takes_the_merged_tensors() -> None:
    """The engine's greedy tokens are those of the unmerged model, which keeps its adapters."""
    model = learnt(model_of(num_nextn_predict_layers=1), LoraConfig(rank=4))
    prompt = tokens_of(model, rows=1)[0].tolist()
    tensors = merged_tensors(model)
    forward = Plain(pack(model.config, tensors.__getitem__, "F32"), pages=8, rows=64, longest=64)
    request = Request(prompt, Settings(max_tokens=12, temperature=0))
    answer = Engine(forward, drafts=False).run([request])[0].answer
    assert [chosen.token for chosen in answer] == list(generate(model, prompt, 12, Sampling(temperature=0)))
    assert len(list(adapters_of(model))) > 10


@pytest.mark.parametrize("kernels", KERNELS)
def test_documents_of_a_pack_do_not_touch(kernels: Any) -> None:
    """Packed gives the losses and gradients of the documents alone, and what is before a document changes no bit."""
    use_kernels(kernels)
    model = learnt(model_of(), LoraConfig(rank=4))
    adapters = [parameter for _, parameter in adapter_parameters(model)]
    one, two, other = (torch.randint(0, 160, (1, n), generator=torch.Generator().manual_seed(n)) for n in (17, 24, 18))

    def results(tokens: Tensor, weight: Tensor, start: Tensor | None = None) -> list[Tensor]:
        losses = model.loss(tokens, weight_BX=weight, start_BX=start)
        return [losses.main, *torch.autograd.grad(losses.total, adapters)]

    start = torch.cat([torch.zeros(1, 17), torch.full((1, 24), 17)], dim=1).long()
    of_two = torch.cat([torch.zeros(1, 18), torch.ones(1, 23)], dim=1)
    packed = results(torch.cat([one, two], dim=1), of_two, start)
    for a, b in zip(packed, results(two, torch.ones(1, 24)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(packed, results(torch.cat([other[:, :17], two], dim=1), of_two, start), strict=True):
        assert torch.equal(a, b)
