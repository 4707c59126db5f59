"""One of the processes of test_machines.py: ``python -m tests.train.parallel.machines_worker RECIPE RUN DATA OUT``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from clearseek.data import loader
from clearseek.plan.layout import ParallelLayout
from clearseek.recipe import parse_recipe
from clearseek.train.parallel.world import join_world
from clearseek.train.session import train_recipe


def main(recipe: str, run: str, data: str, out: str) -> None:
    """Train; write how often this process hashed all shards, and the error that it ended with."""
    real, checks = loader.check_files, list[Path]()

    def check(folder: Path, *rest: object, hashes: bool = True) -> None:
        checks.extend([folder] * hashes)
        real(folder, *rest, hashes=hashes)  # type: ignore[arg-type]

    loader.check_files = check  # type: ignore[assignment]
    group, said = join_world(), None
    try:
        with group.together():
            parsed = parse_recipe(json.loads(recipe), "recipe")
            train_recipe(parsed, run, data, group=group, layout=ParallelLayout(dp=group.size))
    except ValueError as error:
        said = str(error)
    Path(out, f"{group.rank}.json").write_text(json.dumps([len(checks), said]))
    group.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
