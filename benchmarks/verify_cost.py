"""What it costs to check a training run by random segments, against what the run cost.

Trains a small model with a checkpoint every few steps, releases it, and verifies ten segments chosen by a nonce: enough
to find fraud in 30 % of the segments with 97 % probability. ``python benchmarks/verify_cost.py`` writes seconds, shares
and the disk space of the checkpoints, which is the price of short segments.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from math import comb
from pathlib import Path

from record import write_result

from clearseek.recipe import load_recipe
from clearseek.release.make import make_release
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.verify.run import verify_release

RESULT = Path(__file__).parent / "results" / "verify_cost.json"
SMALL = (
    "model.hidden_size=128", "model.num_hidden_layers=4", "model.n_routed_experts=8", "model.num_experts_per_tok=2",
    "model.intermediate_size=384", "train.eval_every=0", "data.held_out_fraction=0.02",
)  # fmt: skip


def missed(segments: int, checked: int, fraud: float) -> float:
    """Probability that none of the checked segments is among the false ones."""
    false = round(segments * fraud)
    return comb(segments - false, checked) / comb(segments, checked)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--checked", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    segments = arguments.steps // arguments.every
    with tempfile.TemporaryDirectory() as folder:
        run, release = Run(Path(folder) / "run"), Path(folder) / "Tiny"
        recipe = load_recipe(
            "quickstart",
            [
                *SMALL,
                f"train.steps={arguments.steps}",
                f"train.checkpoint_every={arguments.every}",
                f"train.hash_every={arguments.every}",
                f"train.keep_checkpoints={segments + 1}",
            ],
        )
        begun = time.perf_counter()
        train_recipe(recipe, run)
        trained = time.perf_counter() - begun
        make_release(run, release)
        size = sum(file.stat().st_size for file in (release / "checkpoints").rglob("*") if file.is_file())
        begun = time.perf_counter()
        rows = verify_release(release, (5,), "a nonce drawn afterwards", arguments.checked)
        verified = time.perf_counter() - begun
    passed = sum(row.answer == "yes" for row in rows)
    report = {
        "steps": arguments.steps,
        "segments": segments,
        "checked": arguments.checked,
        "finds_30_percent_fraud_with": 1 - missed(segments, arguments.checked, 0.3),
        "training_seconds": trained,
        "verifying_seconds": verified,
        "share": verified / trained,
        "checkpoint_bytes": size,
        "passed": f"{passed} of {len(rows)}",
    }
    write_result(arguments.out, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
