from __future__ import annotations

from math import prod

import pytest

from clearseek.config import Recipe
from clearseek.counts import training_memory
from clearseek.parts import CHUNK, Part
from clearseek.plan.layout import SINGLE, ParallelLayout
from clearseek.plan.placement import Placement
from clearseek.plan.stages import held_tensors, parameters
from clearseek.plan.states import Stage, partial_sums, shares
from clearseek.recipe import load_recipe
from clearseek.tensors import TensorSpec

LITE = load_recipe("v2-lite-16b")
MUON = load_recipe("v2-lite-16b", ["optimizer.name=muon"])
V3 = load_recipe("v3-671b")
LAYOUTS = [
    ParallelLayout(4, 2, 3), ParallelLayout(2), ParallelLayout(pp=27), ParallelLayout(64, 64, 2),
    ParallelLayout(8, 4, 4, schedule="zbv"), ParallelLayout(fsdp=8),
]  # fmt: skip


def trained(specs: list[TensorSpec]) -> list[TensorSpec]:
    return [spec for spec in specs if spec.kind != "router_bias"]


@pytest.mark.parametrize("recipe", [LITE, MUON, V3], ids=["adamw", "muon", "v3"])
def test_one_device_holds_what_training_holds(recipe: Recipe) -> None:
    whole = training_memory(recipe.model, recipe.optimizer.name, "bf16", recipe.train.held_sums)
    device = Placement(recipe).memory(SINGLE)
    assert device.weights == whole.weights and device.master_weights == whole.master_weights
    assert device.gradients == whole.gradients + whole.partial_sums
    steps, rest = divmod(device.optimizer - whole.optimizer, 4)  # a count of steps, FP32, for each tensor of AdamW
    assert rest == 0 and 0 < steps <= len(trained(parameters(recipe.model)))


@pytest.mark.parametrize("recipe", [LITE, MUON], ids=["adamw", "muon"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_unit_has_one_owner(recipe: Recipe, layout: ParallelLayout) -> None:
    """Together the processes own every element once, in whole chunks, and under Muon in whole matrices."""
    muon = recipe.optimizer.name == "muon"
    elements = 0
    for process in range(layout.pp):
        specs = {spec.name: spec for spec in trained(held_tensors(recipe.model, layout, process))}
        found: dict[str, list[Part]] = {name: [] for name in specs}
        for parts in shares([*specs.values()], layout, muon):
            for part in parts:
                found[part.name].append(part)
        for name, spec in specs.items():
            edges = [0, *(edge for part in sorted(found[name]) for edge in part[2:]), spec.size]
            assert edges[::2] == edges[1::2], name
            assert all(edge % CHUNK == 0 or edge == spec.size for edge in edges)
            if muon and spec.kind == "expert":
                assert all(edge % (prod(spec.shape[1:]) // (1 + ("gate_up" in name))) == 0 for edge in edges)
        elements += sum(spec.size for spec in specs.values())
    whole = training_memory(recipe.model, recipe.optimizer.name, "bf16")
    assert 4 * elements == whole.gradients
    placement = Placement(recipe)
    masters = sum(placement.process(layout, rank).master_weights for rank in range(layout.devices))
    assert masters == whole.master_weights  # this model's routers have no biases


def test_shares_are_nearly_even() -> None:
    layout = ParallelLayout(128, 64, 16)
    placement = Placement(V3)
    for stage in (0, 7, 15):
        masters = [placement.process(layout, stage * 128 + copy).master_weights for copy in range(128)]
        assert max(masters) <= 1.05 * sum(masters) / 128


def test_sets_of_gradients_follow_from_lanes() -> None:
    train = load_recipe("v2-lite-16b", ["train.batch_size=64", "train.lanes=8"]).train
    assert [partial_sums(train, ParallelLayout(dp)) for dp in (1, 2, 4, 8)] == [4, 3, 2, 1]
    one = load_recipe("v2-lite-16b", ["train.batch_size=8", "train.lanes=8"]).train
    assert [partial_sums(one, ParallelLayout(dp)) for dp in (1, 2, 4, 8)] == [3, 2, 1, 0]


def test_exact_experts_hold_a_set_for_every_source() -> None:
    layout = ParallelLayout(8, 8, 2)
    exact, merged = (
        Placement(load_recipe("v2-lite-16b", [f"train.expert_gradients={mode}"])).process(layout, 15)
        for mode in ("exact", "merged")
    )
    experts = sum(spec.size for spec in held_tensors(LITE.model, layout, 1) if spec.kind == "expert") // 8
    sums = partial_sums(LITE.train, layout)
    assert exact.gradients - merged.gradients == (4 * sums + 2) * experts * 7
    assert exact._replace(gradients=0) == merged._replace(gradients=0)


def test_fp8_holds_two_operands_with_their_scales() -> None:
    eight, sixteen = (
        Placement(load_recipe("v3-671b", [f"train.precision={name}"])).process(ParallelLayout(128, 64, 16), 1024)
        for name in ("fp8", "bf16")
    )
    matrices = (eight.weights - sixteen.weights) / (2 + 8 / 128**2)
    assert 0.98 < matrices / (sixteen.weights / 2) < 1.0


def test_fsdp_shares_out_weights_and_gradients() -> None:
    one = Placement(load_recipe("v2-lite-16b", ["train.lanes=4608"]))
    few, many = one.memory(ParallelLayout(fsdp=8)), one.memory(ParallelLayout(fsdp=64))
    whole = training_memory(LITE.model, "adamw", "bf16")
    assert few.weights == pytest.approx(whole.master_weights / 8, rel=0.01)
    assert many.weights < few.weights / 7.9 and many.total < few.total / 4
    stage = Stage(LITE, ParallelLayout(), 0)
    assert 7 * stage.rows(7) > stage.dense + stage.experts > 7 * stage.rows(8)  # padded to as many rows on each
