"""What is refused before the first step: devices that a process's share of a model does not fit in."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.machine import Precision
from clearseek.plan.layout import parse_layout
from clearseek.recipe import load_recipe
from clearseek.train import preflight
from clearseek.train.parallel.group import Group

LITE = load_recipe("v2-lite-16b", ["train.expert_gradients=merged"])


def machine_with(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    monkeypatch.setattr(preflight, "describe", lambda: found)
    monkeypatch.setattr(preflight, "find_device", torch.device)


def group_of(size: int, machines: int = 1, rank: int = 0) -> Group:
    group = Group()
    group.rank, group.size, group.hosts = rank, size, [f"host{rank * machines // size}" for rank in range(size)]
    return group


def test_a_model_that_fits_no_gpu_trains_on_many(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, gpus = parse_layout("dp=16,ep=8,pp=2"), [{"memory": 80 << 30}] * 8
    machine_with(monkeypatch, memory=1 << 40, gpus=gpus)
    for rank in (0, 15, 16, 31):
        preflight.refuse_device(LITE, "cuda:0", group_of(32, 4, rank), layout)
    with pytest.raises(UserError, match="weights, gradients, their sums"):
        preflight.refuse_device(LITE, "cuda:0")
    with pytest.raises(UserError, match=r"process 0's weights.* and this GPU has 80\.0 GiB: share the model out"):
        preflight.refuse_device(LITE, "cuda:0", group_of(2), parse_layout("dp=2"))


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = parse_layout("dp=2")
    machine_with(monkeypatch, memory=800 << 30, gpus=[])
    preflight.refuse_device(LITE, "cpu", group_of(2, machines=2), layout)
    with pytest.raises(UserError, match=r"the weights of 2 processes.* and this machine has 800"):
        preflight.refuse_device(LITE, "cpu", group_of(2), layout)


EMULATED = {"bf16": 2e9, "fp32": 120e9}
FAST = {"bf16": 400e9, "fp32": 120e9}
WIDE = {"precision": "bfloat16", "muon": "float32"}


@pytest.mark.parametrize(
    ("asked", "rates", "recorded", "products"),
    [
        ("muon", EMULATED, None, torch.float32),
        ("muon", FAST, None, None),
        ("adamw", EMULATED, None, None),
        ("muon", EMULATED, {"precision": "bfloat16"}, None),  # a run that began where BF16 is fast
        ("muon", FAST, WIDE, torch.float32),
        ("muon", FAST, WIDE | {"muon": ["a", "record"]}, None),
    ],
)
def test_muons_products_are_never_taken_in_an_emulated_type_unless_a_record_has_them_so(
    monkeypatch: pytest.MonkeyPatch, asked: str, rates: dict[str, float], recorded: dict[str, Any] | None,
    products: torch.dtype | None,
) -> None:  # fmt: skip
    monkeypatch.setattr(preflight, "pick_precision", lambda *_: Precision(torch.bfloat16, rates))
    recipe = load_recipe("quickstart-small", ["train.precision=bf16", f"optimizer.name={asked}", "train.threads=1"])
    setup = preflight.preflight(recipe, recorded=recorded)
    assert setup.muon == products
    assert setup.environment().get("muon") == ("float32" if products else None)


def test_a_layout_that_the_recipe_does_not_allow_is_named_first(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, memory=1 << 50, gpus=[])
    with pytest.raises(UserError, match="ep = 5 does not divide"):
        preflight.refuse_device(LITE, "cpu", group_of(5), parse_layout("dp=5,ep=5"))


def test_every_stage_of_a_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine_with(monkeypatch, memory=1 << 40, gpus=[])
    preflight.refuse_device(LITE, "cpu", group_of(8), parse_layout("dp=2,ep=2,pp=4,schedule=zbv"))
    whole = preflight._shared(LITE, parse_layout("dp=2,ep=2,pp=4,schedule=zbv"), range(8))
    parts = [preflight._shared(LITE, parse_layout("dp=2,ep=2,pp=4,schedule=zbv"), [rank]) for rank in range(8)]
    assert sum(parts) == whole and min(parts) > whole / 16
