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

from clearseek.model.transformer import DeepSeekModel
from clearseek.train.preflight import settle_numerics
from tests.train.parallel.fsdp_worker import CASES, STEPS, alone, model_of

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
