"""Memory that runs out in a step: one error that says where, how much was asked for, and what to do.

PyTorch raises RuntimeError on a processor and OutOfMemoryError on a GPU, NumPy and Python MemoryError, and a pipeline's
schedule another RuntimeError because of one. Where experts are spread, uneven routing may bring a process many times as
many rows as even routing: so the error names the layer that got most. A system that promises more memory than it has
kills the process instead (SIGKILL), and its launcher says so.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import clearseek
from clearseek.errors import UserError, one_line
from clearseek.files import amount
from clearseek.model.experts import Experts
from clearseek.model.transformer import DeepSeekModel

_PACKAGE = Path(clearseek.__file__).parent
_SAID = re.compile(r"out of memory|can(?:'|no)t allocate memory|ALLOC_FAILED|bad_alloc", re.I)
_ASKED = re.compile(r"tried to allocate ([\d.]+) ?(bytes|[KMGT]iB)", re.I)


@contextmanager
def explained(model: DeepSeekModel, where: str, saved: Callable[[], str]) -> Iterator[None]:
    """Raise UserError where memory runs out in a block.

    Args:
        model: What is trained.
        where: What the block was doing, for the message.
        saved: Says what is kept of the run.
    """
    try:
        yield
        return
    except (MemoryError, RuntimeError, OSError) as error:
        cause = _failed_allocation(error)
        if cause is None:
            raise
        problem = f"{where}: out of memory{_asked(cause)}{_rows(model)}. {saved()} {_cure(model)}"
    raise UserError(problem)  # out here the frames that hold tensors are free


def _failed_allocation(error: BaseException | None) -> BaseException | None:
    """The error of an allocation among an error and what caused it."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _SAID.search(str(error)):
            return error
        error = error.__cause__
    return None


def _asked(error: BaseException) -> str:
    """How much was asked for, and the line of ours that did."""
    found, frames = _ASKED.search(str(error)), traceback.extract_tb(error.__traceback__)
    size = "" if found is None else amount(int(found[1])) if found[2] == "bytes" else f"{found[1]} {found[2]}"
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]
    place = f"in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else one_line(str(error))[:200]
    return f" ({f'{size} more were asked for ' * bool(size)}{place})"


def _rows(model: DeepSeekModel) -> str:
    """Where experts are spread, the layer that got most rows here."""
    named = ((module.arrived, name) for name, module in model.named_modules() if isinstance(module, Experts))
    (most, even), name = max(named, default=((0, 0), ""))
    if not most:
        return ""
    layer = name.removeprefix("model.layers.").partition(".")[0]
    return f"; most rows came to the experts of layer {layer} here: {most:,}, where even routing brings {even:,}"


def _cure(model: DeepSeekModel) -> str:
    spread = any(module.group is not None for module in model.modules() if isinstance(module, Experts))
    uneven = ", or a higher bias_update_speed or balance_loss_weight where routing is uneven" if spread else ""
    return (
        "Go on with --resume on devices with more memory, or of several processes in another --layout; or begin anew "
        f'with a smaller train.micro_batch_size or train.recompute = "selective"{uneven}.'
    )
