from __future__ import annotations

import pytest
import torch

from clearseek.model.transformer import DeepSeekModel
from clearseek.plan.layout import ParallelLayout, Schedule
from clearseek.plan.stages import held_tensors, parameters, stage_layers, stages_of
from clearseek.recipe import load_recipe
from clearseek.tensors import EMBEDDING, HEAD

V3 = load_recipe("v3-671b").model


@pytest.mark.parametrize("name", ["v3-671b", "v2-lite-16b", "quickstart"])
def test_parameters_come_in_the_order_of_the_modules(name: str) -> None:
    config = load_recipe(name).model
    with torch.device("meta"):
        model = DeepSeekModel(config)
    made = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    assert [(spec.name, spec.shape) for spec in parameters(config) if spec.kind != "router_bias"] == made


@pytest.mark.parametrize(("pp", "schedule"), [(1, "1f1b"), (16, "1f1b"), (61, "1f1b"), (16, "zbv"), (2, "dualpipev")])
def test_every_tensor_lies_on_one_process(pp: int, schedule: Schedule) -> None:
    layout = ParallelLayout(pp=pp, schedule=schedule)
    cuts = stage_layers(V3, layout)
    assert [layer for layers in cuts for layer in layers] == list(range(61))
    sizes = [*map(len, cuts)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1  # the last has norm, head and MTP
    assert sorted(stage for process in range(pp) for stage in stages_of(layout, process)) == list(range(len(cuts)))
    held = [spec for process in range(pp) for spec in held_tensors(V3, layout, process)]
    assert sorted(held, key=lambda spec: spec.name) == sorted(parameters(V3), key=lambda spec: spec.name)


def test_a_folded_pipeline_has_both_ends_on_its_first_process() -> None:
    for schedule, together in (("1f1b", False), ("zbv", True)):
        layout = ParallelLayout(pp=4, schedule=schedule)  # type: ignore[arg-type]
        first = {spec.name for spec in held_tensors(V3, layout, 0)}
        assert EMBEDDING in first
        assert all((name in first) == together for name in (HEAD, "model.norm.weight", "model.layers.61.enorm.weight"))
