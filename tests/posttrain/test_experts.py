"""Which experts a task uses, and which of them are trained."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.experts import Chosen, Usage, choose_experts, experts_of, measure_usage
from clearseek.posttrain.pictures import expert_use
from clearseek.train.task import Batch
from tests.model.test_parity import BASE, V2
from tests.train.test_pictures import png_size

CASES: dict[str, dict[str, Any]] = {
    "v3 with MTP": {"num_nextn_predict_layers": 1},
    "without": {"first_k_dense_replace": 0},
    "v2": V2 | {"q_lora_rank": None},
}


def model_of(**changes: Any) -> DeepSeekModel:
    model = DeepSeekModel(ModelConfig(**(BASE | changes)))
    model.initialise(seed=1)
    return model


def tokens_of(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 160, (rows, length), generator=torch.Generator().manual_seed(seed))


def batch_of(tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None) -> Batch:
    """A batch whose weights, those of a prompt, must not matter."""
    return Batch(1, tokens, torch.zeros(tokens.shape), 0, start, valid)


def usage_of(token_LE: list[list[int]]) -> Usage:
    counts = torch.tensor(token_LE)
    names = tuple(f"model.layers.{i}.mlp.experts" for i in range(len(counts)))
    return Usage(names, counts.double() / 3, counts, int(counts[0].sum()))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_usage_is_that_of_each_token_by_itself(changes: dict[str, Any]) -> None:
    """The first layer's experts see each position by itself; all layers have K choices a token."""
    model, tokens = model_of(**changes), tokens_of(3, 20)
    usage = measure_usage(model, [batch_of(tokens)])
    length = 19 - model.config.num_nextn_predict_layers
    assert usage.layers == experts_of(model)
    assert usage.tokens == 3 * length
    assert usage.token_LE.sum(1).tolist() == [3 * length * 3] * len(usage.layers)
    loads = model.loss(tokens, mtp_weight=1.0).load_LE
    assert torch.equal(usage.token_LE, loads)
    if model.config.norm_topk_prob:
        whole = 3 * length * model.config.routed_scaling_factor
        expected = torch.full((len(usage.layers),), whole, dtype=torch.float64)
        torch.testing.assert_close(usage.gate_LE.sum(1), expected, rtol=1e-6, atol=0)
    for score in ("gate", "token"):
        torch.testing.assert_close(usage.scores(score).sum(1), torch.ones(len(usage.layers), dtype=torch.float64))


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_padding_is_not_counted(changes: dict[str, Any]) -> None:
    """A short sequence gives the same alone and padded, whatever the padding is."""
    model, tokens = model_of(**changes), tokens_of(1, 12)
    ahead = 1 + model.config.num_nextn_predict_layers
    alone = measure_usage(model, [batch_of(tokens)])
    for seed in (1, 2):
        padded = torch.cat([tokens, tokens_of(1, 9, seed)], dim=1)
        real = (torch.arange(21) < 12 - ahead).unsqueeze(0)
        found = measure_usage(model, [batch_of(padded, real)])
        assert found.tokens == alone.tokens == 12 - ahead
        main = len(found.layers) - (ahead - 1)
        assert torch.equal(found.token_LE[:main], alone.token_LE[:main])
        torch.testing.assert_close(found.gate_LE[:main], alone.gate_LE[:main])
        assert (found.token_LE[main:].sum(1) == 3 * (11 - ahead)).all()  # the MTP layer joins pairs of tokens


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_packed_documents_count_as_they_do_alone(changes: dict[str, Any]) -> None:
    """But for the look-ahead at the end, which a document alone has no inputs for."""
    model, lengths = model_of(**changes), (9, 6, 8)
    ahead = 1 + model.config.num_nextn_predict_layers
    documents = [tokens_of(1, length + ahead, seed) for seed, length in enumerate(lengths)]
    alone = measure_usage(model, map(batch_of, documents))
    starts = torch.tensor([0, 9, 15, 23]).repeat_interleave(torch.tensor([*lengths, ahead])).unsqueeze(0)
    inputs = [document[:, :length] for document, length in zip(documents, lengths, strict=True)]
    packed = torch.cat([*inputs, documents[-1][:, -ahead:]], dim=1)
    together = measure_usage(model, [batch_of(packed, start=starts)])
    main = len(alone.layers) - (ahead - 1)
    assert together.tokens == alone.tokens == sum(lengths)
    assert torch.equal(together.token_LE[:main], alone.token_LE[:main])
    torch.testing.assert_close(together.gate_LE[:main], alone.gate_LE[:main])
    assert (together.token_LE[main:].sum(1) == 3 * (sum(lengths) - 3)).all()


def test_batches_add_up() -> None:
    model = model_of()
    parts = [batch_of(tokens_of(2, 15, seed)) for seed in range(3)]
    together = measure_usage(model, parts)
    single = [measure_usage(model, [part]) for part in parts]
    assert torch.equal(together.token_LE, sum(each.token_LE for each in single))
    assert together.tokens == 3 * 2 * 14
    again = measure_usage(model, parts)
    assert torch.equal(together.gate_LE, again.gate_LE)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 20))
def test_the_fewest_that_reach_p(counts: list[int], twentieths: int) -> None:
    if not any(counts):
        return
    p = twentieths / 20
    (chosen,) = choose_experts(usage_of([counts]), "token", p).layers.values()
    need = Fraction(twentieths, 20) * sum(counts)
    assert sum(counts[e] for e in chosen) >= need
    for smaller in itertools.combinations(range(len(counts)), len(chosen) - 1):
        assert sum(counts[e] for e in smaller) < need
    lowest, left = min(counts[e] for e in chosen), [e for e in range(len(counts)) if e not in chosen]
    assert all(counts[e] <= lowest for e in left)
    assert all(e > max(c for c in chosen if counts[c] == lowest) for e in left if counts[e] == lowest)


def test_each_layer_is_chosen_by_itself() -> None:
    """Over the layers, as the published script divides, layer 1's experts would each be 0.9 of their column."""
    usage = usage_of([[10, 10, 10, 10], [90, 90, 1, 1]])
    chosen = choose_experts(usage, "token", 0.5)
    assert list(chosen.layers.values()) == [(0, 1), (0, 1)]
    scaled = usage_of([[10, 10, 10, 10], [9000, 9000, 100, 100]])
    assert choose_experts(scaled, "token", 0.5).layers == chosen.layers


def test_the_two_scores_differ() -> None:
    gate, token = torch.tensor([[3.0, 0.5, 0.5]]).double(), torch.tensor([[1, 5, 4]])
    usage = Usage(("model.layers.1.mlp.experts",), gate, token, 10)
    assert choose_experts(usage, "gate", 0.6).layers == {"model.layers.1.mlp.experts": (0,)}
    assert choose_experts(usage, "token", 0.6).layers == {"model.layers.1.mlp.experts": (1, 2)}


@pytest.mark.parametrize(
    ("counts", "p", "taken"),
    [
        ([1, 1, 1, 1, 1], 0.2, (0,)),  # 0.2 as a float is above a fifth
        ([1] * 10, 0.3, (0, 1, 2)),  # 0.1 + 0.1 + 0.1 > 0.3
        ([0, 7, 0, 3], 1.0, (1, 3)),  # what was never visited is not trained
        ([1, 2, 2, 1], 0.8, (0, 1, 2)),
        ([5], 1, (0,)),
    ],
)
def test_sums_are_exact(counts: list[int], p: float, taken: tuple[int, ...]) -> None:
    assert tuple(choose_experts(usage_of([counts]), "token", p).layers.values()) == (taken,)


def test_rows_are_of_the_models_parameters() -> None:
    model, tokens = model_of(num_nextn_predict_layers=1), tokens_of(3, 20)
    usage = measure_usage(model, [batch_of(tokens)])
    chosen = choose_experts(usage, "gate", 0.4)
    names = [f"model.layers.{i}.mlp.experts.{stack}" for i in (1, 2, 3) for stack in ("gate_up_proj", "down_proj")]
    assert [name for name, _ in chosen.rows()] == names
    for name, rows in chosen.rows():
        assert 0 < len(rows) < 8 and len(model.get_parameter(name)[list(rows)]) == len(rows)
        assert rows == tuple(sorted(set(rows)))


@pytest.mark.parametrize("p", [0, -0.1, 1.01, float("nan")])
def test_p_out_of_range_is_refused(p: float) -> None:
    with pytest.raises(UserError, match=r"experts\.p = "):
        choose_experts(usage_of([[1, 2]]), "gate", p)


def test_nothing_to_choose_by_is_refused() -> None:
    tokens = tokens_of(1, 8)
    for batches in ([], [batch_of(tokens, torch.zeros_like(tokens, dtype=torch.bool))]):
        with pytest.raises(UserError, match="no tokens to choose experts by"):
            measure_usage(model_of(), batches)
    with pytest.raises(UserError, match="no layer with experts"):
        measure_usage(model_of(first_k_dense_replace=3), [batch_of(tokens)])
    with pytest.raises(UserError, match=r"layers\.1.*no tokens"):
        choose_experts(usage_of([[1, 2], [0, 0]]), "token", 0.5)
    broken = model_of()
    with torch.no_grad():
        broken.model.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite"):
        measure_usage(broken, [batch_of(tokens)])


CHOSEN = Chosen({"model.layers.1.mlp.experts": (0, 5), "model.layers.2.mlp.experts": (7,)}, "gate", 0.2, 99)


def test_json_there_and_back() -> None:
    config = model_of().config
    assert Chosen.from_json(CHOSEN.to_json().encode(), "x", config) == CHOSEN
    assert Chosen.from_json(CHOSEN.to_json().encode(), "x", config).to_json() == CHOSEN.to_json()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format": "clearseek-experts-9"}, "format"),
        ({"score": "both"}, "score = .both"),
        ({"p": 0}, "p = 0"),
        ({"p": "0.5"}, "p = "),
        ({"tokens": True}, "tokens = true"),
        ({"layers": []}, "layers = "),
        ({"layers": {"model.layers.0.mlp.experts": [1]}}, "model.layers.0.mlp.experts: this model has no such layer"),
        ({"layers": {"model.layers.3.mlp.experts": [1]}}, "no such layer"),
        ({"layers": {"model.layers.1.mlp.experts": [8]}}, "from 0 to 7"),
        ({"layers": {"model.layers.1.mlp.experts": [2, 1]}}, "ascending"),
        ({"layers": {"model.layers.1.mlp.experts": [1, 1]}}, "each once"),
        ({"layers": {"model.layers.1.mlp.experts": []}}, "must list"),
        ({"layers": {"model.layers.1.mlp.experts": [1.0]}}, "must list"),
    ],
)
def test_other_json_is_refused(changes: dict[str, Any], says: str) -> None:
    content = json.loads(CHOSEN.to_json()) | changes
    with pytest.raises(UserError, match=f"^experts.json: .*{says}"):
        Chosen.from_json(json.dumps(content).encode(), "experts.json", model_of().config)


@pytest.mark.parametrize(("layers", "experts"), [(1, 2), (3, 8), (20, 256)])
def test_picture(layers: int, experts: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (
        usage_of((torch.randint(0, 50, (layers, experts), generator=generator) + 1).tolist()) for _ in range(2)
    )
    chosen = choose_experts(before, "token", 0.3)
    for name in ("a.png", "b.png"):
        expert_use(before, after, chosen, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    width, height = png_size(tmp_path / "a.png")
    assert width == 1350 and height < 1800


def test_picture_of_two_models_is_refused(tmp_path: Path) -> None:
    before, after = usage_of([[1, 2]]), usage_of([[1, 2], [3, 4]])
    with pytest.raises(UserError, match="other layers"):
        expert_use(before, after, choose_experts(before, "gate", 0.5), tmp_path / "a.png")
