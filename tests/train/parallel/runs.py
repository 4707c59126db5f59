"""Whole runs by several processes: ``python -m tests.train.parallel.runs RECIPE RUN DATA LAYOUT [resume]`` is one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from clearseek.config import Recipe
from clearseek.plan.layout import parse_layout
from clearseek.recipe import parse_recipe, recipe_json
from clearseek.train.parallel.world import join_world
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.run import Run
from clearseek.train.trainer import Trainer


def train_together(
    recipe: Recipe, folder: Path, data: Path, layout: str, resume: bool = False, stop_after: int | None = None
) -> None:
    """Train in as many processes as the layout has; with `stop_after`, until that step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = parse_layout(layout).devices
    words = [recipe_json(recipe), str(folder), str(data), layout, "resume" * resume, str(stop_after or "")]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.parallel.runs", *words], stderr=subprocess.PIPE, text=True,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        errors = [worker.communicate(timeout=300)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert not any(worker.returncode for worker in workers), "\n".join(errors)


def main() -> None:
    """One of the processes."""
    recipe, folder, data, layout, resume, stop_after = sys.argv[1:]
    group = join_world(layout)
    try:
        parsed = parse_recipe(json.loads(recipe), "recipe")
        task, setup = PreTraining(parsed, Path(data)), preflight(parsed)
        trainer = Trainer(
            parsed, Run(folder), task, setup, bool(resume), group=group, layout=parse_layout(layout, group.size)
        )
        trainer.train(lambda record: trainer.stop() if str(record.step) == stop_after else None)
    except BaseException as error:
        group.close(error)
        raise
    group.close()


if __name__ == "__main__":
    main()
