from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clearseek.config import ModelConfig
from clearseek.model.layers import DecoderLayer, MTPLayer
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.rope import places
from clearseek.recipe import load_recipe
from clearseek.tensors import memory_tensors
from tests.model.test_parity import BASE, V2

MTP: dict[str, Any] = {"num_nextn_predict_layers": 1}


def model_of(changes: dict[str, Any]) -> DeepSeekModel:
    model = DeepSeekModel(ModelConfig(**(BASE | changes)))
    model.initialise(0)
    return model


@pytest.mark.parametrize("changes", [{}, MTP, V2, {"q_lora_rank": None, "tie_word_embeddings": True}])
def test_parameters_are_those_of_the_layout(changes: dict[str, Any]) -> None:
    model = model_of(changes)
    expected = {spec.name: spec.shape for spec in memory_tensors(model.config)}
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == expected


@pytest.mark.parametrize("recipe", ["v3-671b", "v2-lite-16b", "gpu-2b"])
def test_large_recipes_build_on_the_meta_device(recipe: str) -> None:
    config = load_recipe(recipe).model
    with torch.device("meta"):
        model = DeepSeekModel(config)
    assert {n: tuple(t.shape) for n, t in model.state_dict().items()} == {
        spec.name: spec.shape for spec in memory_tensors(config)
    }


def test_v3_has_671026419200_parameters() -> None:
    with torch.device("meta"):
        model = DeepSeekModel(load_recipe("v3-671b").model)
    main = {name: t for name, t in model.state_dict().items() if not name.startswith("model.layers.61.")}
    assert sum(t.numel() for t in main.values()) == 671_026_419_200


def test_initialisation_has_deepseeks_spread_and_depends_on_the_seed_alone() -> None:
    config = load_recipe("quickstart").model.model_copy(update={"initializer_range": 0.006})
    first, again, other = (DeepSeekModel(config) for _ in range(3))
    first.initialise(5), again.initialise(5), other.initialise(6)
    for name, weight in first.named_parameters():
        assert torch.equal(weight, again.get_parameter(name))
        if weight.ndim > 1:
            assert weight.std().item() == pytest.approx(0.006, rel=0.05)
            assert not torch.equal(weight, other.get_parameter(name))
        else:
            assert torch.equal(weight, torch.ones_like(weight))


@pytest.mark.parametrize("tied", [False, True])
def test_scaled_weights_keep_sizes_and_begin_as_the_identity(tied: bool) -> None:
    """Hidden states are the embedding's, normalised; a head that is not the embedding gives every token the same."""
    config = load_recipe("quickstart").model.model_copy(update={"tie_word_embeddings": tied})
    model = DeepSeekModel(config)
    model.initialise(5, scaled=True)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        expected = config.hidden_size**-0.5 if tied else 1.0
        if "embed_tokens" not in name:
            expected = config.initializer_range if name.endswith("mlp.gate.weight") else weight.shape[-1] ** -0.5
        zero = name.endswith(("o_proj.weight", "down_proj.weight", "down_proj", "lm_head.weight"))
        assert weight.std().item() == pytest.approx(0.0 if zero else expected, rel=0.05), name
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens), model.model.norm(model.model.embed_tokens(tokens)))
        assert tied or not model.logits(tokens).any()


@pytest.mark.parametrize("changes", [{}, V2, {"q_lora_rank": None}])
def test_cached_steps_equal_one_pass(changes: dict[str, Any]) -> None:
    model = model_of(changes).requires_grad_(False)
    tokens = torch.randint(0, 160, (2, 23))
    expected = model.logits(tokens)
    caches = model.new_caches()
    parts = [model.logits(part, caches) for part in tokens.split([9, 1, 1, 5, 7], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)
    assert caches[0].length == 23
    assert caches[0].latent_BSR is not None and caches[0].latent_BSR.shape == (2, 23, 32)


def test_mtp_joins_embedding_first_then_hidden_and_predicts_the_token_after_next() -> None:
    model = model_of(MTP)
    layer = model.model.layers[3]
    assert isinstance(layer, MTPLayer)
    tokens = torch.randint(0, 160, (2, 14))
    losses = model.loss(tokens, mtp_weight=0.25)
    with torch.no_grad():
        hidden = model(tokens[:, :12])
        joined = torch.cat([layer.enorm(model.model.embed_tokens(tokens[:, 1:13])), layer.hnorm(hidden)], dim=-1)
        at = places(model.config, 0, 12, torch.device("cpu"))
        x, _ = DecoderLayer.forward(layer, joined @ layer.eh_proj.weight.t(), at)
        logits = layer.shared_head["norm"](x) @ model.head_weight.t()
        expected = F.cross_entropy(logits.flatten(0, 1), tokens[:, 2:14].flatten())
    assert losses.mtp is not None
    assert losses.mtp.item() == pytest.approx(expected.item(), abs=1e-5)
    assert losses.total.item() == pytest.approx(losses.main.item() + 0.25 * losses.mtp.item(), abs=1e-5)
    assert losses.load_LE.shape == (3, 8) and losses.load_LE.sum(1).tolist() == [2 * 12 * 3] * 3


def test_mtp_weight_reaches_every_gradient_of_the_module() -> None:
    model = model_of(MTP)
    model.loss(torch.randint(0, 160, (2, 14)), mtp_weight=1.0).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.model.layers[3].parameters())


def test_balance_loss_only_pushes_routers_when_it_is_all_there_is() -> None:
    model = model_of({})
    tokens = torch.randint(0, 160, (2, 14))
    plain, weighted = model.loss(tokens), model.loss(tokens, balance_weight=0.5)
    assert weighted.main.item() == plain.main.item()
    # two mixture-of-experts layers, each near 1 when loads are nearly even
    assert weighted.total.item() - plain.total.item() == pytest.approx(1.0, rel=0.3)


def test_replayed_routing_is_taken_layer_by_layer_and_needs_all_of_them() -> None:
    model = model_of({"num_nextn_predict_layers": 1})
    tokens = torch.randint(0, model.config.vocab_size, (2, 34))
    chosen: list[torch.Tensor] = []
    hooks = [moe.gate.register_forward_hook(lambda _, __, out: chosen.append(out.index_TK)) for moe in model.moe_layers]
    free = model.loss(tokens, 1e-3, 0.3).total
    for hook in hooks:
        hook.remove()
    routing = torch.stack([index_TK.unflatten(0, (2, 32)) for index_TK in chosen])
    assert torch.equal(model.loss(tokens, 1e-3, 0.3, routing_LBSK=routing).total, free)
    for layer in range(len(routing)):
        other = routing.clone()
        other[layer] = (other[layer] + 1) % model.config.n_routed_experts
        assert not torch.equal(model.loss(tokens, 1e-3, 0.3, routing_LBSK=other).total, free)
    for wrong in (routing[:-1], routing[:0], torch.cat([routing, routing[:1]])):
        with pytest.raises(ValueError, match=f"routing of {len(wrong)} layers for {len(routing)}"):
            model.loss(tokens, 1e-3, 0.3, routing_LBSK=wrong)
