from __future__ import annotations

import json
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.plan.layout import parse_layout
from clearseek.plan.stages import held_tensors
from clearseek.train.chunks import hash_tensors
from tests.tiny import tiny, trainer_of
from tests.train.parallel import pipes
from tests.train.parallel.pipes import alone, micros_of, model_of
from tests.train.parallel.runs import train_together

SCHEDULES = ("1f1b", "zbv", "dualpipev")
COUNT = 8
SECOND: dict[str, Any] = {
    "num_nextn_predict_layers": 0, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
    "q_lora_rank": None,
}  # fmt: skip
"""Like DeepSeek-V2: no MTP module, another router."""


def on_processes(
    server: ForkServerContext, folder: Path, cases: list[dict[str, Any]], world: int = 4
) -> list[list[dict[str, str]]]:
    """Hashes of what each process has, by process and case."""
    words = [(str(folder), str(rank), str(world), json.dumps(cases)) for rank in range(world)]
    workers = [server.Process(target=pipes.main, args=each) for each in words]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(240)
        assert [worker.exitcode for worker in workers] == [0] * world
    finally:
        for worker in workers:
            worker.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def hashes(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hash_tensors([(name, tensor)]) for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def many(
    processes: ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], list[dict[str, str]]]:
    """What four processes find, by layout and precision: one dictionary a process."""
    keys = [(f"pp=4,schedule={s}", p) for s in SCHEDULES for p in ("fp32", "bf16", "fp8")]
    keys += [(f"dp=2,pp=2,schedule={s}", "fp32") for s in SCHEDULES]
    lanes = {"bf16": 2}  # another lane begins anew
    cases = [{"text": t, "precision": p, "count": COUNT, "lanes": lanes.get(p, 1)} for t, p in keys]
    for text in ("dp=2,pp=2", "dp=2,pp=2,schedule=zbv"):
        keys.append((text, "V2"))
        cases.append({"text": text, "precision": "fp32", "count": COUNT, **SECOND})
    found = on_processes(processes, tmp_path_factory.mktemp("pipes"), cases)
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


@pytest.mark.parametrize("text", ["dp=2,pp=2", "dp=2,pp=2,schedule=zbv"])
def test_a_model_without_mtp_and_with_another_router(
    text: str, many: dict[tuple[str, str], list[dict[str, str]]]
) -> None:
    first, _, last, _ = many[text, "V2"]
    assert first | last == hashes(alone(model_of("fp32", **SECOND), micros_of(COUNT, mtp=False)))


def test_sums_in_the_weights_type_are_other_bits() -> None:
    """What PyTorch's pipelines would do: a running sum in `.grad`."""
    micros, model = micros_of(COUNT), model_of("bf16")
    expected = alone(model, micros)
    for micro in micros:
        model.loss(micro.tokens_BX, *pipes.WEIGHTS, micro.weight_BX).total.backward()
    other = [n for n, p in model.named_parameters() if p.grad is None or not torch.equal(p.grad.float(), expected[n])]
    assert len(other) == len(list(model.parameters()))


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


@pytest.mark.parametrize(
    ("layout", "precision"),
    [("dp=2,pp=2,schedule=zbv", "fp32"), pytest.param("pp=4,schedule=dualpipev", "bf16", marks=pytest.mark.slow)],
)
def test_a_whole_run_has_the_transcript_of_one_process(layout: str, precision: str, data: Path, tmp_path: Path) -> None:
    quick = precision == "fp32"
    recipe = tiny(
        model={"num_hidden_layers": 4 if quick else 8},
        optimizer={"name": "adamw"},
        train={
            "steps": 3,
            "batch_size": 16,
            "micro_batch_size": 1,
            "lanes": 2,
            "precision": precision,
            "eval_every": 2,
        },
    )
    trainer_of(recipe, tmp_path / "one", data).train()
    train_together(recipe, tmp_path / "many", data, layout, stop_after=None if quick else 2)
    if not quick:
        train_together(recipe, tmp_path / "many", data, layout, resume=True)
    one, many = ((tmp_path / name / "transcript.jsonl").read_bytes() for name in ("one", "many"))
    assert one == many and b"held_out_bpb" in many
