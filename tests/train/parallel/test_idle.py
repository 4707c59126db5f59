"""Idle time of the schedules, counted in their own tables of what each process does in which order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from clearseek.model.transformer import DeepSeekModel
from clearseek.plan.layout import Schedule, parse_layout
from clearseek.train.parallel.pipeline import Pipeline, held_by
from tests.tiny import tiny

Table = dict[int, list[tuple[int, str, int]]]
"""Process -> what it does, in order: stage, F, B, I or W, micro-batch."""


@pytest.fixture
def four_processes() -> Iterator[dist.ProcessGroup]:
    """The first of four processes; the others do not exist."""
    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    assert dist.group.WORLD is not None
    yield dist.group.WORLD
    dist.destroy_process_group()


def table_of(schedule: Schedule, micro_batches: int, group: dist.ProcessGroup) -> Table:
    if schedule == "1f1b":  # PyTorch's table of it numbers the last stage's forwards from 1, unlike its loop
        return {rank: one_forward_one_backward(rank, micro_batches) for rank in range(4)}
    config = tiny(model={"num_hidden_layers": 8}).model
    layout = parse_layout(f"pp=4,schedule={schedule}")
    with torch.device("meta"):
        model = DeepSeekModel(config, held_by(config, layout, 0))
    pipeline = Pipeline(model, list(model.named_parameters()), layout, 0, group, micro_batches, (2, 32))
    order: dict[int, list[Any]] = pipeline._schedule.pipeline_order  # type: ignore[assignment]
    table: Table = {}
    for rank, actions in order.items():
        parts = [part for action in actions if action for part in action.sub_actions or (action,)]
        steps = [(part.stage_index, part.computation_type.value, part.microbatch_index) for part in parts]
        table[rank] = [step for step in steps if step[1] in "FBIW"]
    return table


def one_forward_one_backward(rank: int, micro_batches: int) -> list[tuple[int, str, int]]:
    """What PyTorch does: stage s of 4 begins with 4 - s forwards, then backwards and forwards alternate."""
    ahead = 4 - rank
    steps = [(rank, "F", micro) for micro in range(ahead)]
    for micro in range(micro_batches):
        steps += [(rank, "B", micro)] + [(rank, "F", micro + ahead)] * (micro + ahead < micro_batches)
    return steps


def slots(table: Table, length: int) -> tuple[int, int]:
    """(Slots from begin to end, idle ones of all processes), where F, I and W of a stage take `length` slots each."""
    ends: dict[tuple[int, str, int], int] = {}
    clock, at = dict.fromkeys(table, 0), dict.fromkeys(table, 0)
    last = max(stage for steps in table.values() for stage, _, _ in steps)
    while any(at[rank] < len(steps) for rank, steps in table.items()):
        moved = False
        for rank, steps in table.items():
            while at[rank] < len(steps):
                stage, kind, micro = steps[at[rank]]
                needs = []
                if kind == "F" and stage > 0:
                    needs = [(stage - 1, "F", micro)]
                elif kind in "BI":
                    needs = [(stage, "F", micro)] + [(stage + 1, "G", micro)] * (stage < last)
                if not all(need in ends for need in needs):
                    break
                begin = max([clock[rank], *(ends[need] for need in needs)])
                clock[rank] = begin + length * (2 if kind == "B" else 1)
                ends[stage, "F" if kind == "F" else "G" if kind in "BI" else "W", micro] = clock[rank]
                at[rank], moved = at[rank] + 1, True
        assert moved, "the table waits for itself"
    total = max(clock.values())
    busy = sum(length * (2 if kind == "B" else 1) for steps in table.values() for _, kind, _ in steps)
    return total, total * len(table) - busy


@pytest.mark.parametrize("micro_batches", [8, 12, 16])
def test_zero_bubble_schedules_are_idle_less(micro_batches: int, four_processes: dist.ProcessGroup) -> None:
    # In a V a process has two stages of half the size.
    found = {
        schedule: slots(table_of(schedule, micro_batches, four_processes), 2 if schedule == "1f1b" else 1)
        for schedule in ("1f1b", "zbv", "dualpipev")
    }
    total, idle = found["1f1b"]
    assert (total, idle) == (6 * (micro_batches + 3), 4 * 6 * 3)
    assert found["zbv"][1] < idle and found["dualpipev"][1] < idle
    assert found["zbv"][0] < total and found["dualpipev"][0] < total


@pytest.mark.parametrize("schedule", ["1f1b", "zbv", "dualpipev"])
def test_each_weight_product_is_scheduled_once(schedule: Schedule, four_processes: dist.ProcessGroup) -> None:
    for steps in table_of(schedule, 8, four_processes).values():
        weights = [(stage, micro) for stage, kind, micro in steps if kind in "BW"]
        assert len(weights) == len(set(weights)) == 8 * len({stage for stage, _, _ in steps})
