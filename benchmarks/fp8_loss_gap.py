"""What FP8 costs in quality: twins that differ in nothing but precision, trained on the same tokens in the same order.

For each model size and seed, a BF16 run, an FP8 run, and a BF16 run whose micro-batches are half as large: the same
mathematics in another order of sums, which says how far two runs drift apart by rounding alone. Then, at the small
size, what DeepSeek-V3's report says matters: gradients quantised 1 x 128 or 128 x 128, sums promoted to FP32 or left in
a tensor core's accumulator, E5M2 gradients, free scales, BF16 moments. The measure is the report's (appendix B.1): the
relative difference of training loss, smoothed by an exponential moving average with factor 0.9.

``python benchmarks/fp8_loss_gap.py`` runs what the result file lacks, so that it may be stopped and started again, and
draws the pictures of docs/fp8.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import matplotlib
from fp8_comparisons import block_gradients, e5m2_gradients, in_place_of_dequantised, tensor_core_sums
from record import write_result

from clearseek.data.shards import prepare_data
from clearseek.recipe import load_recipe
from clearseek.train.run import Run, read_metrics
from clearseek.train.session import train_recipe

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RESULT = Path(__file__).parent / "results" / "fp8_loss_gap.json"
PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
COMMON = (
    "optimizer.name=adamw", "optimizer.learning_rate=5e-4", "data.held_out_fraction=0.02", "train.eval_every=0",
    "train.checkpoint_every=100000", "train.hash_every=100000", "train.precision=bf16", "train.batch_size=16",
    'optimizer.schedule=[{shape="linear",until=0.15,to=1.0},{shape="constant",until=0.5,to=1.0},'
    '{shape="cosine",until=1.0,to=0.1}]',
)  # fmt: skip
SMALL = (
    "model.hidden_size=128", "model.num_hidden_layers=4", "model.n_routed_experts=8", "model.num_experts_per_tok=2",
    "model.intermediate_size=384",
)  # fmt: skip
SIZES = {
    "small, 3.7 M": SMALL,
    "quickstart, 12.4 M": (),
    "small, rate 3e-4": (*SMALL, "optimizer.learning_rate=3e-4"),
}
"""The last one is the first with a lower rate, at which rounding alone makes less of a difference."""
FP8 = ("train.precision=fp8",)
OTHER_ORDER = "bf16, other order"
TWINS = {"bf16": (), "fp8": FP8, OTHER_ORDER: ("train.micro_batch_size=8",)}
ABLATIONS = {
    "gradients 128x128": (*FP8, "fp8.backend=dequantised"),
    "sums in a 14-bit accumulator": (*FP8, "fp8.backend=dequantised"),
    "gradients E5M2": (*FP8, "fp8.backend=dequantised"),
    "free scales": (*FP8, "fp8.scales=float"),
    "scales as in V3": (*FP8, "fp8.scales=deepseek-v3"),
    "BF16 moments": (*FP8, "optimizer.moments=bf16"),
}
"""At the small size, seed 0."""
BACKENDS = {
    "gradients 128x128": block_gradients,
    "sums in a 14-bit accumulator": tensor_core_sums,
    "gradients E5M2": e5m2_gradients,
}
"""Of an ablation: what computes in place of `dequantised`."""
WARM_UP = 0.2
"""Share of the steps left out of the comparison: warm-up, and the average settling."""


def train(overrides: list[str], data: Path, kind: str) -> dict[str, Any]:
    """Loss of every step, and the held-out bits per byte at the end."""
    recipe = load_recipe("quickstart", overrides)
    computing = in_place_of_dequantised(BACKENDS[kind]) if kind in BACKENDS else nullcontext()
    with tempfile.TemporaryDirectory() as folder, computing:
        run = Run(Path(folder) / "run")
        ended = train_recipe(recipe, run, data)
        steps = list(read_metrics(run.metrics))
    return {"loss": [step["loss"] for step in steps], "held_out_bpb": ended.scalars["held_out_bpb"]}


def smoothed(losses: list[float]) -> list[float]:
    """Exponential moving average, factor 0.9."""
    out = [losses[0]]
    for loss in losses[1:]:
        out.append(0.9 * out[-1] + 0.1 * loss)
    return out


def gap(run: dict[str, Any], twin: dict[str, Any]) -> list[float]:
    """Relative difference of smoothed losses in percent, for the steps after warm-up."""
    first = int(WARM_UP * len(twin["loss"]))
    pairs = zip(smoothed(run["loss"]), smoothed(twin["loss"]), strict=True)
    return [100 * (ours - theirs) / theirs for ours, theirs in pairs][first:]


def summary(runs: dict[str, Any]) -> dict[str, Any]:
    """Gaps against the BF16 twin in percent: mean, mean of magnitudes, largest; and bits per byte."""
    out: dict[str, Any] = {}
    for name, run in runs.items():
        size, seed, kind = name.split(" / ")
        twin = runs.get(f"{size} / {seed} / bf16")
        if kind == "bf16" or twin is None:
            continue
        values = gap(run, twin)
        out[name] = {
            "mean": statistics.mean(values),
            "mean_magnitude": statistics.mean(map(abs, values)),
            "largest": max(values, key=abs),
            "at_the_end": values[-1],
            "held_out_bpb": run["held_out_bpb"],
            "held_out_difference": run["held_out_bpb"] - twin["held_out_bpb"],
        }
    return out


def draw(runs: dict[str, Any]) -> None:
    """The gaps over the steps, per size; and the ablations."""
    figure, axes = plt.subplots(1, len(SIZES) + 1, figsize=(18, 4.2), sharey=True)
    for axis, size in zip(axes, SIZES, strict=False):
        for name, run in runs.items():
            if name.startswith(f"{size} / ") and (kind := name.split(" / ")[2]) in ("fp8", OTHER_ORDER):
                twin = runs[f"{name.rsplit(' / ', 1)[0]} / bf16"]
                label = kind if "seed 0" in name else None
                values = gap(run, twin)
                steps = range(len(run["loss"]) - len(values) + 1, len(run["loss"]) + 1)
                axis.plot(steps, values, color="tab:blue" if kind == "fp8" else "tab:gray", lw=1.2, label=label)
        axis.set_title(f"{size}; each line one seed", fontsize=10)
    axis = axes[-1]
    for kind in ("fp8", *ABLATIONS):
        name = f"{next(iter(SIZES))} / seed 0 / {kind}"
        if name in runs:
            values = gap(runs[name], runs[f"{next(iter(SIZES))} / seed 0 / bf16"])
            first = len(runs[name]["loss"]) - len(values) + 1
            axis.plot(range(first, first + len(values)), values, lw=1.2, label=kind)
    axis.set_title("FP8 done otherwise (small, seed 0)", fontsize=10)
    for axis in axes:
        axis.axhspan(-0.25, 0.25, color="tab:green", alpha=0.12)
        axis.axhline(0, color="black", lw=0.6)
        axis.set_xlabel("step")
        beside = {"bbox_to_anchor": (1.02, 1.0)} if axis is axes[-1] else {}
        axis.legend(fontsize=8, loc="upper left", **beside)
    axes[0].set_ylabel("training loss against BF16, % (EMA 0.9)")
    figure.tight_layout()
    figure.savefig(PICTURES / "fp8-loss-gap.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, help="only this one")
    parser.add_argument("--threads", type=int, default=1, help="one, so that two processes can share two cores")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    jobs: dict[str, tuple[str, ...]] = {}
    for size, settings in SIZES.items():
        for seed in range(arguments.seeds):
            for kind, changes in TWINS.items():
                jobs[f"{size} / seed {seed} / {kind}"] = (
                    *settings,
                    *changes,
                    f"train.seed={seed}",
                    f"data.seed={seed}",
                )
    small = next(iter(SIZES))
    for kind, changes in ABLATIONS.items():
        jobs[f"{small} / seed 0 / {kind}"] = (*SIZES[small], *changes, "train.seed=0", "data.seed=0")
    if arguments.size:
        jobs = {name: job for name, job in jobs.items() if name.startswith(f"{arguments.size} / ")}
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {"runs": {}}
    report |= {"steps": arguments.steps, "threads": arguments.threads}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        first = load_recipe("quickstart", COMMON)
        prepare_data(first.data, first.model.vocab_size, data)
        for name, overrides in jobs.items():
            if name not in report["runs"]:
                print(name, flush=True)
                common = [*COMMON, f"train.steps={arguments.steps}", f"train.threads={arguments.threads}"]
                report["runs"][name] = train([*common, *overrides], data, name.split(" / ")[2])
                report["summary"] = summary(report["runs"])
                write_result(arguments.out, report)
    for name, row in report["summary"].items():
        print(
            f"{name:56} mean {row['mean']:+.3f} %  magnitude {row['mean_magnitude']:.3f} %  largest "
            f"{row['largest']:+.3f} %  held-out {row['held_out_bpb']:.4f} ({row['held_out_difference']:+.4f})"
        )
    draw(report["runs"])


if __name__ == "__main__":
    main()
