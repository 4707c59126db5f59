"""Whole runs by several processes: ``python -m tests.train.parallel.runs RECIPE RUN DATA LAYOUT [resume]`` is one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from clearseek.config import Recipe
from clearseek.ops.travel import Travel
from clearseek.plan.layout import parse_layout
from clearseek.recipe import parse_recipe, recipe_json
from clearseek.train.parallel.world import join_world
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.trainer import Trainer


def train_together(
    recipe: Recipe, folder: Path, data: Path, layout: str, resume: bool = False, stop_after: int | None = None
) -> None:
    """Train in as many processes as the layout has; with `stop_after`, until that step."""
    ended = run_together(recipe, folder, data, layout, resume, stop_after)
    assert not any(code for code, _ in ended), "\n".join(errors for _, errors in ended)


def run_together(
    recipe: Recipe, folder: Path, data: Path, layout: str, resume: bool = False, stop_after: int | None = None,
    fault: str = "",
) -> list[tuple[int, str]]:  # fmt: skip
    """Exit code and errors of each process; a `fault` such as ``shown 1 3`` happens on process 1 at step 3."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = parse_layout(layout).devices
    words = [recipe_json(recipe), str(folder), str(data), layout, "resume" * resume, str(stop_after or ""), fault]
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
    return [(worker.returncode, error) for worker, error in zip(workers, errors, strict=True)]


def main() -> None:
    """One of the processes."""
    recipe, folder, data, layout, resume, stop_after, fault = sys.argv[1:]
    what, where, when = fault.split() if fault else ("", "", "")
    group = join_world()
    gone = SystemExit(1) if what == "reader" else OSError(28, "No space left on device", "a log")

    def on_step(record: StepRecord) -> None:
        if str(record.step) == stop_after:
            trainer.stop()
        if (where, when) == (str(group.rank), str(record.step)):
            if what == "memory":
                Travel._exchange = lambda *_: torch.empty(1 << 50)  # type: ignore[method-assign,assignment,return-value]
                return
            raise gone

    try:
        with group.together():
            parsed = parse_recipe(json.loads(recipe), "recipe")
            task, setup = PreTraining(parsed, Path(data)), preflight(parsed)
            trainer = Trainer(
                parsed, Run(folder), task, setup, bool(resume), group=group, layout=parse_layout(layout, group.size)
            )
            trainer.train(on_step)
    except BaseException as error:
        group.close(error)
        raise
    group.close()


if __name__ == "__main__":
    main()
