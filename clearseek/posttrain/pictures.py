"""Pictures of post-training: how rewards rose, and which experts a task uses before and after those were tuned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clearseek.errors import UserError
from clearseek.posttrain.experts import Chosen, Usage
from clearseek.train.pictures import BLUE, MOST_LAYERS, ORANGE, clean, figure_in, smooth, spread
from clearseek.train.record import StepRecord


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
    steps = [record.step for record in records]
    names = [measured, f"{measured}_low", f"{measured}_high"]
    points = (
        [(0, [records[0].scalars[f"{name}_before"] for name in names])]
        if f"{measured}_before" in records[0].scalars
        else []
    )
    points += [
        (record.step, [record.scalars[name] for name in names]) for record in records if measured in record.scalars
    ]
    with figure_in(out_png, 8.0, 6.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        reward = np.array([record.scalars["reward"] for record in records])
        above.plot(steps, reward, color=BLUE, alpha=0.35, linewidth=1, label="mean reward, each step")
        above.plot(steps, smooth(reward), color=BLUE, linewidth=2, label="mean reward, smoothed")
        if points:
            x, figures = [step for step, _ in points], np.array([each for _, each in points])
            errors = np.abs(figures[:, 1:] - figures[:, :1]).T
            above.errorbar(
                x,
                figures[:, 0],
                yerr=errors,
                color=ORANGE,
                marker="o",
                markersize=5,
                capsize=3,
                label="held-out problems solved",
            )
        above.set_ylim(0.0, 1.02)
        above.set_ylabel("share solved")
        above.set_title(title or "Rewards", loc="left")
        above.legend(frameon=False)
        below.plot(steps, [record.scalars["entropy"] for record in records], color=BLUE, linewidth=1.5)
        below.set_ylabel("entropy\n(nats a token)")
        below.set_ylim(0.0, None)
        below.set_xlabel("step")
        clean(above)
        clean(below)
