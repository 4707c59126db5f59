"""Pictures of post-training: how rewards rose, and which experts a task uses before and after those were tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from clearseek.errors import UserError
from clearseek.posttrain.experts import Chosen, Usage
from clearseek.posttrain.samples import Shown, visible
from clearseek.train.pictures import BLUE, MOST_LAYERS, ORANGE, clean, figure_in, smooth, spread
from clearseek.train.record import StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_COMPLETIONS = 16
"""Completions of a column in the picture of a ladder."""


def expert_use(before: Usage, after: Usage, chosen: Chosen, out_png: Path) -> None:
    """Draw each expert's score on a task, in each layer, before and after tuning, and mark the experts tuned.

    The scores are those that the experts were chosen by. Of many layers, evenly spaced ones are shown.

    Args:
        before: How the task's tokens used the experts of the frozen model.
        after: The same of the tuned model.
        chosen: The experts that were tuned.
        out_png: File to write.

    Raises:
        UserError: the two are of different layers, or the file cannot be written.
    """
    if before.layers != after.layers:
        raise UserError(f"{out_png}: the models before and after have other layers: measure the same task on both")
    scores = before.scores(chosen.score).numpy(), after.scores(chosen.score).numpy()
    experts = scores[0].shape[1]
    edges = [expert - 0.5 for expert in range(experts + 1)]
    shown = spread(len(before.layers), MOST_LAYERS)
    share = "mean router weight" if chosen.score == "gate" else "share of choices"
    with figure_in(out_png, 9.0, 1.6 + 1.1 * len(shown)) as figure:
        grid = figure.subplots(len(shown), 1, squeeze=False, sharex=True)[:, 0]
        for axes, layer in zip(grid, shown, strict=True):
            tuned = chosen.layers.get(before.layers[layer], ())
            axes.stairs(scores[0][layer], edges, fill=True, color=BLUE, alpha=0.75, label="before")
            axes.plot(range(experts), scores[1][layer], linestyle="", marker="_", color=ORANGE, label="after",
                      markersize=max(2.0, 300 / experts), markeredgewidth=2)  # fmt: skip
            axes.plot(tuned, [0.0] * len(tuned), linestyle="", marker="^", markersize=min(7.0, 200 / experts),
                      color="black", clip_on=False, label=f"tuned (scores sum to {chosen.p:g})")  # fmt: skip
            axes.axhline(1 / experts, color="black", linewidth=0.8, linestyle=":")
            name = before.layers[layer].removeprefix("model.").removesuffix(".mlp.experts")
            axes.set_ylabel(f"{name}\n{len(tuned)} of {experts}")
            axes.set_ylim(0.0, None)
            axes.set_xlim(-0.8, experts - 0.2)
            clean(axes)
        some = "" if len(shown) == len(before.layers) else f", {len(shown)} of {len(before.layers)} layers"
        grid[0].set_title(f"Experts that a task uses ({share}{some}; dotted: fair share)", loc="left")
        handles = dict(zip(*reversed(grid[0].get_legend_handles_labels()), strict=True))
        labels = sorted(handles, key=lambda label: (label.startswith("tuned"), label == "after"))
        figure.legend([handles[each] for each in labels], labels, loc="outside lower center", ncols=3, frameon=False)
        grid[-1].set_xlabel("expert")


def learning_curve(records: Sequence[StepRecord], measured: str, out_png: Path, title: str = "") -> None:
    """Draw rewards and held-out problems solved over the steps, with intervals of 95 %, and below them the entropy.

    Args:
        records: Steps, in order; at least one.
        measured: Name of the scalar of held-out problems; its interval has ``_low`` and ``_high`` behind it, and the
            parent's figures in the first step ``_before``.
        out_png: File to write.
        title: Name of the run.

    Raises:
        UserError: the file cannot be written.
    """
    with figure_in(out_png, 8.0, 6.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _rewards(above, records, measured)
        above.set_title(title or "Rewards", loc="left")
        above.legend(frameon=False)
        below.plot([record.step for record in records], [record.scalars["entropy"] for record in records], color=BLUE,
                   linewidth=1.5)  # fmt: skip
        below.set_ylabel("entropy\n(nats a token)")
        below.set_ylim(0.0, None)
        below.set_xlabel("step")
        clean(below)


def _rewards(axes: Axes, records: Sequence[StepRecord], measured: str) -> None:
    """Draw rewards and held-out problems solved; arguments are those of :func:`learning_curve`."""
    steps, names = [record.step for record in records], [measured, f"{measured}_low", f"{measured}_high"]
    first = records[0].scalars
    points = [(0, [first[f"{name}_before"] for name in names])] if f"{measured}_before" in first else []
    points += [
        (record.step, [record.scalars[name] for name in names]) for record in records if measured in record.scalars
    ]
    reward = np.array([record.scalars["reward"] for record in records])
    axes.plot(steps, reward, color=BLUE, alpha=0.35, linewidth=1, label="mean reward, each step")
    axes.plot(steps, smooth(reward), color=BLUE, linewidth=2, label="mean reward, smoothed")
    if points:
        figures = np.array([each for _, each in points])
        axes.errorbar([step for step, _ in points], figures[:, 0], yerr=np.abs(figures[:, 1:] - figures[:, :1]).T,
                      color=ORANGE, marker="o", markersize=5, capsize=3, label="held-out problems solved")  # fmt: skip
    axes.set_ylim(0.0, 1.02)
    axes.set_ylabel("share solved")
    clean(axes)


class Column(NamedTuple):
    """Completions of one time of a run."""

    title: str
    completions: Sequence[Shown]


def ladder_picture(
    records: Sequence[StepRecord], measured: str, shares: Mapping[str, Sequence[float]], columns: Sequence[Column],
    out_png: Path,
) -> None:  # fmt: skip
    """Draw a ladder: the rewards of its reinforcement, what every rung solves, and completions at some times.

    Args:
        records: Steps of the reinforcement, in order; at least one.
        measured: As for :func:`learning_curve`.
        shares: Share of held-out problems that each rung solves, and the ends of its interval, by name in order.
        columns: Completions, from left to right; at least one.
        out_png: File to write.

    Raises:
        UserError: the file cannot be written.
    """
    with figure_in(out_png, 11.0, 7.5) as figure:
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))[:, 0]
        curve, bars = above.subplots(1, 2, width_ratios=(2, 1))
        _rewards(curve, records, measured)
        curve.set_xlabel("step of grpo")
        curve.set_title("Reinforcement", loc="left")
        curve.legend(frameon=False, loc="lower right")
        figures = np.array([list(each) for each in shares.values()])
        bars.bar(list(shares), figures[:, 0], color=BLUE, width=0.6)
        bars.errorbar(list(shares), figures[:, 0], yerr=np.abs(figures[:, 1:] - figures[:, :1]).T, color="black",
                      linestyle="", capsize=4)  # fmt: skip
        bars.set_ylim(0.0, 1.02)
        bars.set_title("Held-out problems solved, by rung", loc="left")
        clean(bars)
        for axes, column in zip(below.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            axes.set_axis_off()
            axes.set_title(column.title, loc="left")
            for line, each in enumerate(column.completions[:MOST_COMPLETIONS]):
                text = _drawable(visible(each.prompt, 24) + visible(each.text, 24) + ("" if each.ended else "…"))
                axes.text(0.0, 1 - (line + 0.5) / MOST_COMPLETIONS, text, color=BLUE if each.reward else ORANGE,
                          family="monospace", fontsize=9, va="center", parse_math=False)  # fmt: skip
        below.supxlabel("different answers to four training problems each (blue: right, orange: wrong)", fontsize=10)


def _drawable(text: str) -> str:
    """Text with what the pictures' font may lack as numbers."""
    return "".join(c if c.isascii() or c == "…" else f"\\u{ord(c):04x}" for c in text)
