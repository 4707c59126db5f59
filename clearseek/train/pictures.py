"""Two pictures of a run: how the loss fell, and how the experts shared the work.

The second is the visible side of DeepSeek-V3's load balancing without an auxiliary loss (report, section 2.1.2 and
figure 9): a load of 1 is the fair share, and the bias of the router should pull every expert towards it. Colours are
blind-safe (Okabe and Ito's palette; a blue-orange scale with its middle at the fair share). The same numbers give the
same file.
"""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from clearseek.files import write_atomic
from clearseek.train.record import HELD_OUT, LOSS, StepRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, _GREY = "#0072B2", "#D55E00", "#8A8A8A"
MOST_LAYERS = 8  # panels that fit one picture; of more layers, evenly spaced ones are shown
_MOST_COLUMNS = 400  # of a heat map; more steps are averaged


class LoadHistory(Protocol):
    """Loads of the experts, [layers, experts] a step: an array [steps, layers, experts], or what reads a file."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[NDArray[np.floating]]: ...


def loss_curve(records: Iterable[StepRecord], out_png: Path, bytes_per_token: float, title: str = "") -> None:
    """Draw training and held-out loss over the steps, both in bits per byte.

    Args:
        records: Steps, in order; at least one.
        out_png: File to write.
        bytes_per_token: Mean UTF-8 bytes per training token: it turns nats per token into bits per byte.
        title: Name of the run.

    Raises:
        UserError: the file cannot be written.
    """
    steps, losses, held_out = array("q"), array("d"), []
    for record in records:
        steps.append(record.step)
        losses.append(record.scalars[LOSS])
        if HELD_OUT in record.scalars:
            held_out.append((record.step, record.scalars[HELD_OUT]))
    bits = np.array(losses) / math.log(2) / bytes_per_token
    with figure_in(out_png, 8.0, 4.5) as figure:
        axes = figure.add_subplot()
        axes.plot(steps, bits, color=BLUE, alpha=0.35, linewidth=1, label="training, each step")
        axes.plot(steps, smooth(bits), color=BLUE, linewidth=2, label="training, smoothed")
        if held_out:
            x, y = zip(*held_out, strict=True)
            axes.plot(x, y, color=ORANGE, marker="o", markersize=5, linewidth=1.2, label="held out")
            offset = (0, 8)
            axes.annotate(f"{y[-1]:.3f}", (x[-1], y[-1]), offset, textcoords="offset points", ha="right", color=ORANGE)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (bits per byte)")
        axes.set_title(title or "Loss", loc="left")
        axes.legend(frameon=False)
        clean(axes)


def expert_load(loads: LoadHistory, out_png: Path, layers: Sequence[str] | None = None) -> None:
    """Draw each expert's share of its layer's tokens over the run, and at its end.

    Args:
        loads: For each step an array [layers, experts] of tokens per expert, in any unit; a layer's loads in a step are
            divided by their sum. They are read once and one by one, averaged as they come.
        out_png: File to write.
        layers: Name of each layer; ``layer 0``, ``layer 1``, ... by default.

    Raises:
        UserError: the file cannot be written.
    """
    steps = len(loads)
    columns, final = _summary(loads, steps)
    _, depth, experts = columns.shape
    names = [f"layer {index}" for index in range(depth)] if layers is None else list(layers)
    shown = spread(depth, MOST_LAYERS)
    relative, final = columns[:, shown], final[shown]
    with figure_in(out_png, 9.0, 1.9 + 1.05 * len(shown)) as figure:
        grid = figure.subplots(len(shown), 2, squeeze=False, sharex="col", width_ratios=(4, 1))
        for row, (axes, bars) in enumerate(grid):
            image = axes.imshow(
                np.log2(np.maximum(relative[:, row].T, 2.0**-9)),
                aspect="auto",
                interpolation="nearest",
                origin="lower",
                cmap="PuOr_r",
                vmin=-2,
                vmax=2,
                extent=(0.5, steps + 0.5, -0.5, experts - 0.5),
            )
            axes.set_ylabel(f"{names[shown[row]]}\nexpert")
            bars.barh(range(experts), final[row], height=1.0 if experts > 32 else 0.8, color=BLUE)
            bars.axvline(1.0, color="black", linewidth=0.8, linestyle=":")
            bars.set_ylim(-0.5, experts - 0.5)
            bars.set_yticks([])
            bars.set_xlim(0, max(2.0, float(final.max()) * 1.05))
            axes.set_yticks([0, experts - 1])
            clean(bars)
        some = "" if len(shown) == depth else f", {len(shown)} of {depth} layers"
        grid[0][0].set_title(f"Load of each of {experts} experts over training{some}", loc="left")
        grid[0][1].set_title("at the end", loc="left")
        grid[-1][0].set_xlabel("step")
        grid[-1][1].set_xlabel("x fair share")
        scale = figure.colorbar(
            image, ax=grid[:, 0].tolist(), location="bottom", ticks=range(-2, 3), extend="both", shrink=0.6, aspect=40
        )
        scale.ax.set_xticklabels(["1/4", "1/2", "1", "2", "4"])
        scale.set_label("share of the layer's tokens / fair share")


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a centred window of about a fortieth of the values; it shrinks towards the ends, so none is lost."""
    count = len(values)
    half = np.minimum.reduce([np.arange(count), np.arange(count)[::-1], np.full(count, count // 80)])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(count)
    result: NDArray[np.float64] = (sums[index + half + 1] - sums[index - half]) / (2 * half + 1)
    return result


def relative_load(loads: NDArray[np.floating]) -> NDArray[np.float64]:
    """Loads [..., experts] over the fair share of their layer: 1 is even. A layer that saw no token counts as even."""
    total = loads.sum(-1, keepdims=True, dtype=np.float64)
    ones = np.ones(loads.shape)
    relative: NDArray[np.float64] = np.divide(loads * float(loads.shape[-1]), total, out=ones, where=total > 0)
    return relative


def _summary(loads: LoadHistory, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Relative loads of neighbouring steps, averaged into at most so many columns, and those of the last twentieth."""
    last, reader, columns = max(1, steps // 20), iter(loads), []
    final: NDArray[np.float64] = np.zeros(())
    for part in np.array_split(np.arange(steps), min(steps, _MOST_COLUMNS)):
        read = np.stack([next(reader) for _ in part])
        columns.append(relative_load(read).mean(0))
        final = final + read[part >= steps - last].sum(0)
    return np.stack(columns), relative_load(final)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly spaced, with the first and the last."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(count, most))})


def clean(axes: Axes) -> None:
    """Leave out the frame's upper and right side, and draw a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GREY, alpha=0.2)


@contextmanager
def figure_in(out_png: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw on, in inches; written when the block ends. No global state, no window, no user's style file."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        matplotlib.rcParamsDefault | {"font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"}
    ):
        figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomic(out_png, buffer.getvalue())
