"""One of the processes of test_evaluation.py: ``python -m tests.train.parallel.evaluation_worker FOLDER LAYOUT...``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.layouts import recipe_of
from clearseek import parts
from clearseek.plan.layout import parse_layout
from clearseek.recipe import parse_recipe
from clearseek.train.parallel.work import SharedWork
from clearseek.train.parallel.world import join_world
from clearseek.train.preflight import preflight
from clearseek.train.pretrain import PreTraining
from clearseek.train.step import Training


def measure(folder: Path, case: str, group: Any) -> dict[str, Any]:
    """What is measured of a model that took one step, batches that this process computed, and progress that was told.

    ``merged`` before a layout: experts compute all sources' rows together.
    """
    text, told = case.removeprefix("merged "), list[int]()
    raw = recipe_of("adamw/bf16" if "merged" in case else "adamw/fp32", "lanes").model_dump(mode="json")
    raw["model"] |= {"num_hidden_layers": 4}
    raw["data"] |= {"sequence_length": 16}
    raw["train"] |= {"steps": 2, "lanes": 4, "expert_gradients": "merged" if "merged" in case else "exact"}
    recipe = parse_recipe(raw, "layouts")
    task, layout = PreTraining(recipe, folder / "data"), parse_layout(text)
    training = Training(recipe, task, preflight(recipe), group=group, layout=layout)
    training.advance()
    work, computed = training.work, list[int]()
    if isinstance(work, SharedWork):
        real = work._nats
        work._nats = lambda *batch: (computed.append(len(batch[0])), real(*batch))[1]  # type: ignore[method-assign]
    found = work.evaluate(task, 2, lambda done, total: told.append(done))
    return {"found": {name: value.hex() for name, value in found.items()}, "computed": computed, "told": told}


if __name__ == "__main__":
    world = join_world()
    parts.BUCKET = 40_000  # elements: several rounds
    for wanted in sys.argv[2:]:
        reports = world.gather(measure(Path(sys.argv[1]), wanted, world))
        if world.main:
            print(json.dumps([wanted, reports]), flush=True)
    world.close()
    os._exit(0)
