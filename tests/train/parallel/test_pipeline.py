from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.plan.layout import parse_layout
from clearseek.plan.stages import held_tensors
from clearseek.train.chunks import hash_tensors
from tests.train.parallel.pipes import alone, micros_of, model_of

SCHEDULES = ("1f1b", "zbv", "dualpipev")
COUNT = 8


def on_processes(folder: Path, cases: list[dict[str, Any]], world: int = 4) -> list[list[dict[str, str]]]:
    """Hashes of what each process has, by process and case."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.train.parallel.pipes", str(folder)]
    root = Path(__file__).parents[3]
    processes = [subprocess.Popen([*command, str(r), str(world), json.dumps(cases)], cwd=root) for r in range(world)]
    try:
        assert [process.wait(120) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def hashes(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hash_tensors([(name, tensor)]) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[dict[str, str]]]:
    """What four processes find, by layout and precision: one dictionary a process."""
    keys = [(f"pp=4,schedule={s}", p) for s in SCHEDULES for p in ("fp32", "bf16", "fp8")]
    keys += [(f"dp=2,pp=2,schedule={s}", "fp32") for s in SCHEDULES]
    lanes = {"bf16": 2}  # another lane begins anew
    cases = [{"text": t, "precision": p, "count": COUNT, "lanes": lanes.get(p, 1)} for t, p in keys]
    found = on_processes(tmp_path_factory.mktemp("pipes"), cases)
    return {key: [process[case] for process in found] for case, key in enumerate(keys)}


@pytest.fixture(scope="module", params=["fp32", "bf16", "fp8"])
def single(request: pytest.FixtureRequest) -> tuple[str, dict[str, str]]:
    """A precision, and what one process finds."""
    return request.param, hashes(alone(model_of(request.param), micros_of(COUNT)))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_four_stages_have_the_bits_of_one_process(
    schedule: str, single: tuple[str, dict[str, str]], many: dict[tuple[str, str], list[dict[str, str]]]
) -> None:
    precision, expected = single
    processes = many[f"pp=4,schedule={schedule}", precision]
    seen = [name for found in processes for name in found]
    assert sorted(seen) == sorted(expected)  # nothing is held twice, and nothing is missing
    for found in processes:
        assert found == {name: expected[name] for name in found}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_two_copies_of_two_stages_compute_alike(
    schedule: str, many: dict[tuple[str, str], list[dict[str, str]]]
) -> None:
    expected = hashes(alone(model_of("fp32"), micros_of(COUNT)))
    first, again, last, last_again = many[f"dp=2,pp=2,schedule={schedule}", "fp32"]
    assert (first, last) == (again, last_again)
    assert first | last == expected
    assert ("scalars" in first) == (schedule != "1f1b")  # in a V the first process has both ends


@pytest.mark.parametrize("text", ["pp=2", "pp=4", "pp=4,schedule=zbv", "pp=2,schedule=dualpipev"])
def test_a_process_holds_what_the_plan_says(text: str) -> None:
    layout = parse_layout(text)
    for place in range(layout.pp):
        model = model_of("fp32", layout, place)
        expected = {spec.name: spec.shape for spec in held_tensors(model.config, layout, place)}
        assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == expected


def test_a_part_is_drawn_as_the_whole_is() -> None:
    whole, part = model_of("fp32"), model_of("fp32", parse_layout("pp=4,schedule=zbv"), 1)
    for name, parameter in part.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))
