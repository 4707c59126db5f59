"""The benchmark of equal cost: when a target was reached, and that the dense peers are what they say."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.counts import count_parameters
from clearseek.recipe import load_recipe

POINTS = [(10.0, 3.0), (20.0, 2.5), (40.0, 2.0)]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def test_a_target_is_read_off_straight_lines_over_the_logarithm_of_seconds(load: Any) -> None:
    reached = load("time_to_loss").reached
    assert reached(POINTS, 2.25) == (pytest.approx(20 * 2**0.5), False)
    assert reached(POINTS, 2.5) == (20.0, False)
    assert reached(POINTS, 3.1) == (10.0, True)
    assert reached(POINTS, 1.9) == (math.inf, False)
    assert reached([(10.0, math.inf), *POINTS[1:]], 2.7) == (20.0, False)


def test_the_worse_ones_end_is_the_target(load: Any) -> None:
    def runs(points: list[tuple[float, float]]) -> dict[str, Any]:
        return {"runs": {str(s): {"seconds": s, "bpb": bits, "seed": 1, "share": s} for s, bits in points}}

    compare = load("time_to_loss").compare
    better, worse = [(10.0, 2.6), (20.0, 2.0), (40.0, 1.9)], POINTS
    found = compare({"clearseek": runs(better), "transformers": runs(worse)}, "transformers", 1)
    assert found["times_sooner"] == [2.0] and found["target_bpb"] == [2.0] and not found["met"]
    found = compare({"clearseek": runs(worse), "dense gpt": runs(better)}, "dense gpt", 1)
    assert found["times_sooner"] == [0.5]
    far = [(10.0, 1.5), (20.0, 1.4), (40.0, 1.3)]
    found = compare({"clearseek": runs(far), "transformers": runs(worse)}, "transformers", 1)
    assert found["times_sooner"] == [4.0] and found["bound"] == ["at least"] and found["met"]
    flat = [(10.0, 3.0), (20.0, 3.0), (50.0, 3.0)]
    found = compare({"clearseek": runs(flat), "dense gpt": runs([(20.0, 2.0), (40.0, 1.9)])}, "dense gpt", 1)
    assert found["bound"] == ["unknown"] and not found["met"]


@pytest.mark.parametrize("name", ["shakespeare", "quickstart-small"])
def test_dense_models_have_as_many_active_parameters_as_ours(load: Any, name: str) -> None:
    model = load_recipe(name, ["model.num_nextn_predict_layers=0"]).model
    ours = count_parameters(model).activated_without_embedding
    dense = count_parameters(load("contenders").twin(model))
    assert dense.total - dense.activated == 0
    assert dense.activated_without_embedding == pytest.approx(ours, rel=0.01)
    shape = load("dense_gpt").shape_of(ours, model.vocab_size, model.num_hidden_layers)
    assert shape.active == pytest.approx(ours, rel=0.2)  # its widths are multiples of 32
    gpt = load("dense_gpt").DenseGpt(shape, 8)
    parameters = sum(parameter.numel() for parameter in gpt.parameters())
    assert parameters - gpt.embedding.weight.numel() == shape.active


def small(load: Any) -> Any:
    module = load("dense_gpt")
    model = module.DenseGpt(module.Shape(vocabulary=32, width=32, layers=2, heads=2), 12)
    model.initialise(0)
    return model


def test_the_dense_gpt_begins_even_and_sees_nothing_that_comes_later(load: Any) -> None:
    model = small(load)
    tokens = torch.randint(0, 32, (2, 12))
    assert model(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(math.log(32))
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    later = tokens.clone()
    later[:, 7:] = (later[:, 7:] + 1) % 32
    one, other = model.logits(tokens), model.logits(later)
    assert torch.allclose(one[:, :7], other[:, :7], atol=1e-5) and not torch.allclose(one[:, 7], other[:, 7], atol=1e-3)
    assert one.abs().max() <= 15


def test_its_matrices_take_pytorchs_muon_step(load: Any) -> None:
    model = small(load)
    tokens = torch.randint(0, 32, (2, 12))
    optimizer = load("dense_gpt").Optimizer(model, 1.0, 1000, torch.bfloat16)
    matrices = [(name, each) for name, each in model.layers.named_parameters()]
    theirs = [torch.nn.Parameter(each.detach().clone()) for _, each in matrices]
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    for copy, (_, each) in zip(theirs, matrices, strict=True):
        copy.data.copy_(each.data)
    peer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, momentum=0.85, adjust_lr_fn="original")
    model(tokens[:, :-1], tokens[:, 1:]).backward()
    norm = torch.nn.utils.get_total_norm(each.grad for each in model.parameters())
    for copy, (_, each) in zip(theirs, matrices, strict=True):
        copy.grad = each.grad.clone() / max(1.0, norm.item())
    before = [copy.detach().clone() for copy in theirs]
    optimizer.step(0)
    peer.step()
    for first, copy, (name, each) in zip(before, theirs, matrices, strict=True):
        apart = (each - copy).norm() / (copy - first).norm()
        assert apart < 0.05, name  # five steps in BF16, of one matrix and of several at once


def test_a_ladder_finds_the_lowest_point_and_the_line_that_is_there(load: Any) -> None:
    ladder = load("size_ladder")
    factors = (0.5, 1.0, 2.0, 4.0)
    found = ladder.lowest([(f, 2.0 + (math.log(f) - math.log(1.4)) ** 2) for f in factors])
    assert found == (pytest.approx(1.4), pytest.approx(2.0), True)
    assert ladder.lowest([(f, f) for f in factors]) == (0.5, 0.5, False)
    active = [1e5, 3e5, 1e6, 4e6]
    line = ladder.line(active, [7.0 * n**-0.25 for n in active])
    assert line["exponent"] == pytest.approx(-0.25) and line["scale"] == pytest.approx(7.0)
    assert line["value_over_line"] == pytest.approx([1.0] * 4)


def test_a_rung_is_the_dials_model_with_the_base_recipes_settings(load: Any) -> None:
    ladder = load("size_ladder")
    base, dial = load_recipe("quickstart-small"), load_recipe("quickstart-small", ["size=4"])
    rung = ladder.recipe_of(4, 8, 1.0, 0.1, 1)
    assert rung.model == dial.model
    assert rung.optimizer == base.optimizer
    tokens = rung.train.steps * 8 * base.data.sequence_length
    assert tokens == pytest.approx(0.1 * count_parameters(dial.model).activated_without_embedding, rel=0.01)
    twice = ladder.recipe_of(4, 8, 2.0, 0.1, 1).optimizer
    assert twice.momentum == base.optimizer.momentum and twice.schedule == base.optimizer.schedule
    assert twice.embedding_learning_rate == 2 * (base.optimizer.embedding_learning_rate or 0)
