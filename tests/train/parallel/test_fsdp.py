"""Rows dealt out with FSDP2: real processes over gloo, compared bit by bit with one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clearseek.model.transformer import DeepSeekModel
from clearseek.train.preflight import settle_numerics
from tests.train.parallel.fsdp_worker import CASES, STEPS, alone, model_of


def start(folder: Path, size: int, *cases: str) -> dict[str, list[dict[str, Tensor]]]:
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
def four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Tensor]]]:
    return start(tmp_path_factory.mktemp("fsdp"), 4, *CASES, "fp32/stock")


def whole(found: list[dict[str, Tensor]], key: str) -> Tensor:
    return torch.cat([each[key] for each in found])


@pytest.mark.parametrize("case", CASES)
def test_gradients_have_the_bits_of_one_process(case: str, four: dict[str, list[dict[str, Tensor]]]) -> None:
    settle_numerics(1, "cpu")
    expected, logits = alone(case)
    for step in range(STEPS):
        assert any(gradient.any() for gradient in expected[step].values())
        wrong = [
            name
            for name, gradient in expected[step].items()
            if not torch.equal(whole(four[case], f"{step} {name}"), gradient)
        ]
        assert not wrong, f"step {step}: {len(wrong)} of {len(expected[step])}: {wrong}"
    assert all(torch.equal(each["logits"], logits) for each in four[case])


def test_the_librarys_reduce_scatter_gives_other_bits(four: dict[str, list[dict[str, Tensor]]]) -> None:
    settle_numerics(1, "cpu")
    expected, _ = alone("fp32")
    found = four["fp32/stock"]
    wrong = sum(not torch.equal(whole(found, f"0 {name}"), gradient) for name, gradient in expected[0].items())
    assert wrong > len(expected[0]) / 2
    for name, gradient in expected[0].items():
        torch.testing.assert_close(whole(found, f"0 {name}"), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_no_process_ever_holds_the_whole_model(case: str, four: dict[str, list[dict[str, Tensor]]]) -> None:
    config, dtype, _ = model_of(case)
    with torch.device("meta"):
        model = DeepSeekModel(config)
    sizes = {name: p.numel() * dtype.itemsize for name, p in model.named_parameters()}
    layers = [sum(size for name, size in sizes.items() if name.startswith(f"model.layers.{i}.")) for i in range(4)]
    whole_model, rest = sum(sizes.values()), sum(sizes.values()) - sum(layers)
    for each in four[case]:
        padding = 1.02
        assert rest + min(layers) < int(each["most"]) <= padding * (rest + sum(sorted(layers)[-2:])) < whole_model
