"""A picture of post-training: which experts a task uses, before and after those were tuned."""

from __future__ import annotations

from pathlib import Path

from clearseek.errors import UserError
from clearseek.posttrain.experts import Chosen, Usage
from clearseek.train.pictures import BLUE, MOST_LAYERS, ORANGE, clean, figure_in, spread


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
