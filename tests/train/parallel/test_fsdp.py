"""Rows dealt out with FSDP2: real processes over gloo, compared bit by bit with one process."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clearseek.config import Recipe
from clearseek.data.shards import prepare_data
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.preflight import settle_numerics
from clearseek.train.run import Run
from clearseek.train.transcript import last_line
from tests.tiny import tiny, trainer_of
from tests.train.parallel.fsdp_worker import CASES, STEPS, WIDE, alone, model_of
from tests.train.parallel.runs import train_together
from tests.train.test_golden import corpus

QUICK = ("bf16", "fp32/stock", "fp32/blocks")
PARAMETERS = [pytest.param(case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]
Found = list[dict[str, Tensor]]


def start(folder: Path, size: int, *cases: str) -> dict[str, Found]:
    """Run the worker on `size` processes; what each wrote of each case."""
    command = [sys.executable, "-m", "tests.train.parallel.fsdp_worker", str(folder)]
    workers = [
        subprocess.Popen([*command, str(rank), str(size), *cases], stderr=subprocess.PIPE, text=True)
        for rank in range(size)
    ]
    try:
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(worker.returncode for worker in workers), errors
    return {
        case: [load_file(folder / f"{case.replace('/', '-')} {rank}.safetensors") for rank in range(size)]
        for case in cases
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """What four processes wrote of a case; quick ones, and slow ones, are computed together."""

    @functools.cache
    def of(quick: bool) -> dict[str, Found]:
        cases = QUICK if quick else tuple(case for case in CASES if case not in QUICK)
        return start(tmp_path_factory.mktemp("fsdp"), 4, *cases)

    return lambda case: of(case in QUICK)[case]


def whole(found: Found, key: str) -> Tensor:
    return torch.cat([each[key] for each in found])


@pytest.mark.parametrize("case", PARAMETERS)
def test_gradients_have_the_bits_of_one_process(case: str, found: Callable[[str], Found]) -> None:
    settle_numerics(1, "cpu")
    (expected, logits), ours = alone(case), found(case)
    for step in range(STEPS):
        assert any(gradient.any() for gradient in expected[step].values())
        pairs = [(name, whole(ours, f"{step} {name}"), gradient) for name, gradient in expected[step].items()]
        wrong = [name for name, mine, gradient in pairs if not torch.equal(mine, gradient)]
        assert not wrong, f"step {step}: {len(wrong)} of {len(pairs)}: {wrong}"
    assert all(torch.equal(each["logits"], logits) for each in ours)


@pytest.mark.parametrize("fault", ["stock", "blocks"])
def test_another_order_gives_other_bits(fault: str, found: Callable[[str], Found]) -> None:
    """The library's own reduce-scatter, and lanes in blocks."""
    settle_numerics(1, "cpu")
    (expected, _), ours = alone("fp32"), found(f"fp32/{fault}")
    pairs = [(whole(ours, f"0 {name}"), gradient) for name, gradient in expected[0].items()]
    assert sum(not torch.equal(mine, gradient) for mine, gradient in pairs) > len(pairs) / 2
    for mine, gradient in pairs:
        torch.testing.assert_close(mine, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", PARAMETERS)
def test_no_process_ever_holds_the_whole_model(case: str, found: Callable[[str], Found]) -> None:
    config, dtype, _ = model_of(case)
    with torch.device("meta"):
        model = DeepSeekModel(config)
    sizes = {name: p.numel() * dtype.itemsize for name, p in model.named_parameters()}
    layers = [sum(size for name, size in sizes.items() if name.startswith(f"model.layers.{i}.")) for i in range(4)]
    whole_model, rest, padding = sum(sizes.values()), sum(sizes.values()) - sum(layers), 1.02
    for each in found(case):
        assert rest + min(layers) < int(each["most"]) <= padding * (rest + sum(sorted(layers)[-2:])) < whole_model


RUNS = ("bf16 muon", "fp8 adamw")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    corpus(folder)
    recipe = run_recipe(RUNS[0])
    prepare_data(recipe.data, recipe.model.vocab_size, folder / "data", base=folder)
    return folder / "data"


def run_recipe(kind: str) -> Recipe:
    precision, optimizer = kind.split()
    return tiny(
        model={"vocab_size": 301} | (WIDE if precision == "fp8" else {}),
        data={"paths": ["*.txt"]},
        optimizer={"name": optimizer},
        train={
            "steps": 4, "batch_size": 16, "micro_batch_size": 1, "lanes": 8, "precision": precision, "hash_every": 1,
            "eval_every": 2, "checkpoint_every": 2, "kernels": "torch",
        },
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", RUNS)
def test_a_whole_run_has_the_bits_of_one_process(kind: str, data: Path, tmp_path: Path) -> None:
    """Also where it goes on with another number of processes, and at last with one."""
    recipe = run_recipe(kind)
    assert trainer_of(recipe, tmp_path / "one", data).train().finished
    expected = Run(tmp_path / "one").transcript.read_bytes()
    train_together(recipe, tmp_path / "four", data, "fsdp=4", stop_after=2)
    assert last_line(Run(tmp_path / "four").transcript).step == 2
    train_together(recipe, tmp_path / "four", data, "fsdp=2", resume=True, stop_after=3)
    assert trainer_of(recipe, tmp_path / "four", data, resume=True).train().finished
    assert Run(tmp_path / "four").transcript.read_bytes() == expected
