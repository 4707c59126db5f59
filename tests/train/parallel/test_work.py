"""Data parallel with a sharded optimiser: real processes over gloo, compared with one process bit by bit."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.layouts import prepare
from tests.train.parallel.data_worker import CASES, STEPS


def start(folder: Path, size: int, *cases: str, module: str = "tests.train.parallel.data_worker") -> dict[str, Any]:
    """What every process found of each case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", module, str(folder), *cases]
    plain = os.environ | {"OMP_NUM_THREADS": "1"}
    ranks = [
        {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if size > 1
        else {}
        for rank in range(size)
    ]
    workers = [subprocess.Popen(command, env=plain | each, stdout=subprocess.PIPE, text=True) for each in ranks]
    try:
        said = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(worker.returncode for worker in workers)
    return dict(json.loads(line) for line in said[0].splitlines() if line.startswith("["))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layouts")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def alone(data: Path) -> dict[str, Any]:
    return {case: found[0] for case, found in start(data, 1, "plain", "muon").items()}


@pytest.fixture(scope="module")
def four(data: Path) -> dict[str, Any]:
    return start(data, 4, *CASES)


@pytest.mark.parametrize("case", ["plain", "muon", "two machines", "gone on"])
def test_four_processes_have_the_bits_of_one(case: str, alone: dict[str, Any], four: dict[str, Any]) -> None:
    expected = alone["muon" if case == "muon" else "plain"]
    assert expected["alone"] and not any(found["alone"] for found in four[case])
    assert all(found["hashes"] == expected["hashes"] for found in four[case])


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 8])
def test_so_do_two_and_eight(size: int, data: Path, alone: dict[str, Any]) -> None:
    found = start(data, size, "plain", "muon")
    assert all(each["hashes"] == alone[case]["hashes"] for case, every in found.items() for each in every)


@pytest.mark.parametrize("case", ["all_reduce", "off a chunk", "lanes swapped"])
def test_another_order_has_other_bits(case: str, alone: dict[str, Any], four: dict[str, Any]) -> None:
    """What these tests would not find if they were too weak."""
    assert all(found["hashes"] != alone["plain"]["hashes"] for found in four[case])


def test_as_many_bytes_are_sent_as_by_a_ring(four: dict[str, Any]) -> None:
    """Reduce-scatter of FP32 gradients and all-gather of FP32 weights: 3 of 4 parts each, a step."""
    ring = STEPS * 2 * 4 * four["plain"][0]["parameters"] * 3 / 4
    sent = [found["sent"] for found in four["plain"]]
    assert sum(sent) / len(sent) == pytest.approx(ring, rel=1e-3)


def test_two_machines_exchange_what_one_process_of_each_has_to(four: dict[str, Any]) -> None:
    across = sum(found["across"] for found in four["two machines"])
    assert across == pytest.approx(STEPS * 2 * 4 * four["plain"][0]["parameters"], rel=1e-3)  # each way once
