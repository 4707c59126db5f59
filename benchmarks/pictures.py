"""Draws the pictures of the pages of ideas, from results that lie in ``benchmarks/results`` and from arithmetic.

``python benchmarks/pictures.py`` draws all of them into ``docs/pictures``; a name draws one.

| picture | source |
|---|---|
| ``mla-cache.png`` | the dimensions of V3; formulas of the DeepSeek-V2 report, table 1 |
| ``experts-counts.png`` | the dimensions of the shipped recipes |
| ``experts-kinds.png`` | ``idea_experts.json`` |
| ``balance.png`` | ``idea_balance.json`` |
| ``mtp-drafts.png`` | ``generate.json``, ``generate_deep.json`` |
| ``fp8-outliers.png`` | ``idea_fp8.json`` |
| ``grpo.png`` | ``learning.json`` |
| ``evidence.png`` | ``idea_grades.json`` |
| ``verification.png`` | arithmetic |
| ``cost.png`` | the published runs that ``clearseek plan --published`` lists |
| ``size.png`` | ``size_ladder.json`` |
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clearseek.counts import count_parameters
from clearseek.plan.calibration import validate
from clearseek.recipe import load_recipe
from clearseek.train.pictures import BLUE, ORANGE, clean, figure_in, smooth

HERE = Path(__file__).parent
PICTURES = HERE.parent / "docs" / "pictures"
GREY, GREEN = "#8A8A8A", "#009E73"
COLOURS = 64
"""Colours of a picture: few, so that a file is small."""
DTYPE_BYTES = 2
"""Bytes of a cached number in BF16."""


def result(name: str) -> Any:
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def cache_numbers() -> dict[str, int]:
    """Numbers that V3's attention caches for a token and a layer, in four forms of attention.

    The DeepSeek-V2 report's table 1, with V3's 128 heads of 128 channels: a key and a value for each head; for each of
    eight groups; for one; or a latent and one rotary key.
    """
    v3 = load_recipe("v3-671b").model
    heads, width = v3.num_attention_heads, v3.v_head_dim
    return {
        "multi-head": 2 * heads * width,
        "grouped, 8 groups": 2 * 8 * width,
        "MLA": v3.kv_lora_rank + v3.qk_rope_head_dim,
        "multi-query": 2 * width,
    }


def mla_cache(out: Path) -> None:
    """Bytes of a token's cache in all of V3's layers."""
    layers = load_recipe("v3-671b").model.num_hidden_layers
    names, numbers = zip(*cache_numbers().items(), strict=True)
    sizes = [each * layers * DTYPE_BYTES for each in numbers]
    with figure_in(out, 7.0, 2.3) as figure:
        axes = figure.add_subplot()
        bars = axes.barh(names, sizes, color=[ORANGE if name == "MLA" else BLUE for name in names])
        axes.bar_label(bars, [f"{size:,} bytes" for size in sizes], padding=4)
        axes.set(xscale="log", xlim=(1e4, 4e7), xlabel="bytes a token, BF16, 61 layers (logarithmic)")
        axes.invert_yaxis()
        axes.set_title("What a token leaves in the cache", loc="left")
        axes.spines[["top", "right"]].set_visible(False)


def experts_counts(out: Path) -> None:
    """Parameters in total and for one token, of recipes with experts."""
    names = ("ladder-base", "quickstart", "gpu-2b", "v2-lite-16b", "v3-671b")
    counts = [count_parameters(load_recipe(name).model) for name in names]
    with figure_in(out, 7.0, 2.9) as figure:
        axes, rows = figure.add_subplot(), np.arange(len(names))
        for shift, colour, label, values in (
            (-0.2, BLUE, "all", [each.total for each in counts]),
            (0.2, ORANGE, "of one token", [each.activated for each in counts]),
        ):
            bars = axes.barh(rows + shift, values, height=0.38, color=colour, label=label)
            axes.bar_label(bars, [_si(value) for value in values], padding=3, fontsize=8)
        axes.set(xscale="log", xlim=(1e5, 1e13), xlabel="parameters (logarithmic)", yticks=rows, yticklabels=names)
        axes.invert_yaxis()
        axes.legend(frameon=False, loc="upper right")
        axes.set_title("Parameters, and those that a token uses", loc="left")
        axes.spines[["top", "right"]].set_visible(False)


def experts_kinds(out: Path) -> None:
    """Share of a kind's visits that each expert gets."""
    found = result("idea_experts")
    names = list(found["shares"])
    shares = np.array([found["shares"][name] for name in names])
    with figure_in(out, 7.5, 3.2) as figure:
        panels = figure.subplots(1, shares.shape[1], sharey=True, squeeze=False)[0]
        for layer, axes in enumerate(panels):
            image = axes.imshow(shares[:, layer], cmap="Blues", vmin=0, vmax=0.5, aspect="auto")
            axes.set_title(f"layer {layer + 1}", loc="left")
            axes.set(xlabel="expert", xticks=range(shares.shape[2]), yticks=range(len(names)), yticklabels=names)
        figure.colorbar(image, ax=panels.tolist(), label="share of the kind's visits", extend="max")


def balance(out: Path) -> None:
    """Busiest expert over the mean, step by step."""
    found = result("idea_balance")["arms"]
    labels = {"bias": "moving biases", "auxiliary loss": "auxiliary loss", "neither": "neither"}
    with figure_in(out, 7.0, 3.2) as figure:
        axes = figure.add_subplot()
        for (name, label), colour in zip(labels.items(), (BLUE, GREEN, ORANGE), strict=True):
            line = np.array(found[name]["busiest"])
            axes.plot(np.arange(1, len(line) + 1), smooth(line), color=colour, label=label)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlabel="step", ylabel="busiest expert / mean", ylim=(0.9, None))
        axes.set_title("Load of the busiest expert", loc="left")
        axes.legend(frameon=False)
        clean(axes)


def mtp_drafts(out: Path) -> None:
    """Share of drafts that the model itself would have drawn."""
    with figure_in(out, 6.0, 2.9) as figure:
        axes = figure.add_subplot()
        for shift, (name, label), colour in (
            (-0.2, ("generate", "6 layers"), BLUE),
            (0.2, ("generate_deep", "16 layers"), ORANGE),
        ):
            drafts = result(name)["drafts"]
            bars = axes.bar(
                np.arange(len(drafts)) + shift, [each["accepted"] for each in drafts], 0.38, color=colour, label=label
            )
            axes.bar_label(bars, [f"{each['accepted']:.0%}" for each in drafts], padding=2, fontsize=8)
        axes.set(xticks=range(len(drafts)), ylim=(0, 1), ylabel="drafts accepted", xlabel="temperature")
        axes.set_xticklabels([f"{each['temperature']:g}" for each in drafts])
        axes.legend(frameon=False, ncols=2, loc="upper right")
        axes.set_title("Tokens that the MTP layer guessed right", loc="left")
        clean(axes)


def fp8_outliers(out: Path) -> None:
    """Error of the numbers beside an outlier."""
    found = result("idea_fp8")
    lines = {"tensor": ("one scale a tensor", ORANGE), "block": ("a scale for 128 x 128", GREEN),
             "tile": ("a scale for 1 x 128", BLUE), "BF16": ("BF16, no scale", GREY)}  # fmt: skip
    with figure_in(out, 7.0, 3.2) as figure:
        axes = figure.add_subplot()
        for name, (label, colour) in lines.items():
            axes.plot(found["outliers"], found["error"][name], color=colour, marker="o", markersize=3, label=label)
        axes.set(xscale="log", yscale="log", xlabel="one number of each row is so many times as large",
                 ylabel="relative error of the others")  # fmt: skip
        axes.set_title("What an outlier does to its neighbours in E4M3", loc="left")
        axes.legend(frameon=False)
        clean(axes)


def grpo(out: Path) -> None:
    """Share of problems solved, and of groups that teach nothing, along the ladder's reinforcement."""
    found = result("learning")["two-digits"]
    with figure_in(out, 8.0, 3.0) as figure:
        left, right = figure.subplots(1, 2)
        for (seed, entry), colour in zip(found.items(), (BLUE, ORANGE, GREEN), strict=True):
            curve, start = entry["found"]["grpo"]["curve"], entry["found"]["start"]["pass_at_1"][0]
            steps = [point["step"] for point in curve]
            left.plot([0, *steps], [start, *(point["pass_at_1"] for point in curve)], color=colour, label=seed)
            right.plot(steps, [point["without_spread"] for point in curve], color=colour, label=seed)
        left.set(xlabel="step", ylabel="held-out sums solved", ylim=(0, 1))
        right.set(xlabel="step", ylabel="groups without spread", ylim=(0, 1))
        left.set_title("It gets better …", loc="left")
        right.set_title("… and finds less to compare", loc="left")
        left.legend(frameon=False)
        clean(left)
        clean(right)


def evidence(out: Path) -> None:
    """Rows of an audit that were answered with yes, by grade."""
    found = result("idea_grades")["rows"]
    names = [f"E{grade}" for grade in range(1, 6)]
    colours = ("#D9D9D9", "#B3CDE3", "#6BAED6", BLUE, ORANGE)
    with figure_in(out, 7.5, 2.4) as figure:
        axes, left = figure.add_subplot(), np.zeros(len(found))
        for grade, colour in zip(names, colours, strict=True):
            values = np.array([rows.get(grade, 0) for rows in found.values()])
            bars = axes.barh(list(found), values, left=left, color=colour, label=grade)
            axes.bar_label(bars, [str(value) if value else "" for value in values], label_type="center", fontsize=8)
            left += values
        axes.invert_yaxis()
        axes.set(xlabel="rows answered with yes")
        axes.set_title("How far one model's claims are shown", loc="left")
        axes.legend(frameon=False, ncols=5, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)


def verification(out: Path) -> None:
    """Chance that a publisher who cheated in a share of the steps is caught by segments trained again."""
    segments = np.arange(1, 61)
    with figure_in(out, 6.5, 3.0) as figure:
        axes = figure.add_subplot()
        for share, colour in ((0.3, BLUE), (0.1, GREEN), (0.03, ORANGE), (0.01, GREY)):
            found = 1 - (1 - share) ** segments
            axes.plot(segments, found, color=colour)
            at = 14 if share > 0.05 else 40
            axes.annotate(f"{share:.0%} of the steps false", (at, found[at]), (6, -13), textcoords="offset points",
                          color=colour)  # fmt: skip
        axes.set(xlabel="segments trained again", ylabel="chance to be found", ylim=(0, 1.02), xlim=(0, 60))
        axes.set_title("Chance that fraud is found: 1 - (1 - f)^s", loc="left")
        clean(axes)


def cost(out: Path) -> None:
    """Published hours of 18 runs, and what a constant fitted without each predicts."""
    predictions = validate()
    published = np.array([each.run.hours for each in predictions])
    predicted = np.array([each.hours for each in predictions])
    with figure_in(out, 6.0, 4.0) as figure:
        axes = figure.add_subplot()
        ends = np.array([5e4, 1e8])
        axes.fill_between(ends, ends / 2, ends * 2, color=GREY, alpha=0.15, linewidth=0, label="half to twice")
        axes.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
        ours = np.array([each.run.name.startswith("DeepSeek") for each in predictions])
        axes.scatter(published[~ours], predicted[~ours], color=BLUE, s=22, label="other models")
        axes.scatter(published[ours], predicted[ours], color=ORANGE, s=28, label="DeepSeek's")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="published device hours",
                 ylabel="predicted device hours")  # fmt: skip
        axes.set_title("18 trainings, each predicted without itself", loc="left")
        axes.legend(frameon=False)
        clean(axes)


def size(out: Path) -> None:
    """Bits of every rung by the factor on its rates, and the lines through the best of each."""
    found = result("size_ladder")
    runs, best, lines = found["runs"].values(), found["best"], found["lines"]
    active = np.array([each["active"] for each in best])
    with figure_in(out, 9.0, 3.2) as figure:
        curves, *panels = figure.subplots(1, 3)
        for shade, each in zip(np.linspace(0.4, 1.0, len(best)), best, strict=True):
            of_rung = [run for run in runs if (run["layers"], run["batch"]) == (each["layers"], each["batch"])]
            points = sorted((run["factor"], run["bpb"]) for run in of_rung if run["bpb"] is not None)
            curves.plot(*zip(*points, strict=True), ".-", color=BLUE, alpha=shade)
            curves.text(1.08 * points[-1][0], points[-1][1], f"size {each['layers']}", va="center")
            curves.plot(each["factor"], each["bpb"], "o", color=ORANGE, markersize=5)
        curves.set(xscale="log", xlabel="factor on the peak rates", ylabel="held-out bits per byte")
        curves.set_xticks(found["settings"]["factors"], [f"{factor:g}" for factor in found["settings"]["factors"]])
        curves.set_xlim(right=1.6 * max(found["settings"]["factors"]))
        for axes, name, label in zip(panels, ("factor", "bpb"), ("best factor", "bits per byte"), strict=True):
            line = lines[name]["scale"] * active ** lines[name]["exponent"]
            axes.plot(active, line, color="black", linewidth=0.8, linestyle=":")
            axes.plot(active, [each[name] for each in best], "o", color=ORANGE, markersize=5)
            axes.set(xscale="log", xlabel="active parameters, millions", ylabel=label)
            axes.set_xticks(active, [f"{each / 1e6:.1f}" for each in active])
        for axes in (curves, *panels):
            axes.minorticks_off()
            clean(axes)


def _si(value: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


DRAWN: dict[str, Callable[[Path], None]] = {
    "mla-cache": mla_cache, "experts-counts": experts_counts, "experts-kinds": experts_kinds, "balance": balance,
    "mtp-drafts": mtp_drafts, "fp8-outliers": fp8_outliers, "grpo": grpo, "evidence": evidence,
    "verification": verification, "cost": cost, "size": size,
}  # fmt: skip


def draw(name: str, folder: Path) -> None:
    """Draw one picture, in few colours."""
    file = folder / f"{name}.png"
    DRAWN[name](file)
    with Image.open(file) as drawn:
        few = drawn.convert("RGB").quantize(COLOURS)
    few.save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", metavar="PICTURE", help=f"of {', '.join(DRAWN)}; all, unless said")
    parser.add_argument("--out", type=Path, default=PICTURES)
    arguments = parser.parse_args()
    if wrong := [name for name in arguments.pictures if name not in DRAWN]:
        parser.error(f"no picture {wrong[0]!r}: use {', '.join(DRAWN)}")
    for name in arguments.pictures or DRAWN:
        draw(name, arguments.out)


if __name__ == "__main__":
    main()
