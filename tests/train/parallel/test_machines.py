"""Two pretended machines of two processes: each machine's own copy of the data is hashed, by one process of it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from clearseek.recipe import recipe_json
from tests.tiny import tiny


def train(tmp_path: Path, data: Path) -> list[list[Any]]:
    """How often each process hashed all shards, and the error that it ended with; the machines' data lie apart."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recipe = tiny(train={"steps": 1, "batch_size": 8, "micro_batch_size": 1, "lanes": 4})
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "4"}
    words = [sys.executable, "-m", "tests.train.parallel.machines_worker", recipe_json(recipe), str(tmp_path / "run")]
    workers = []
    for rank in range(4):
        machine, number = divmod(rank, 2)
        each = {"RANK": str(rank), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        workers.append(
            subprocess.Popen([*words, str(data / str(machine)), str(tmp_path)], env=environment | each)
        )  # fmt: skip
    try:
        assert [worker.wait(300) for worker in workers] == [0] * 4
    finally:
        for worker in workers:
            worker.kill()
    return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(4)]


def test_one_process_of_each_machine_hashes_its_copy(data: Path, tmp_path: Path) -> None:
    for machine in "01":
        shutil.copytree(data, tmp_path / "data" / machine)
    assert train(tmp_path, tmp_path / "data") == [[1, None], [0, None], [1, None], [0, None]]


def test_a_changed_copy_is_named_with_its_machine(data: Path, tmp_path: Path) -> None:
    for machine in "01":
        shutil.copytree(data, tmp_path / "data" / machine)
    shard = next((tmp_path / "data/1").glob("train*.bin"))
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    found = train(tmp_path, tmp_path / "data")
    assert [checks for checks, _ in found] == [1, 0, 1, 0]
    said = {error for _, error in found}
    assert len(said) == 1 and f"process 2 ({socket.gethostname()}): {shard}: changed shard" in said.pop()
