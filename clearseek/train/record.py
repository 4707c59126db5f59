"""The record of a step, and its line in a transcript.

Floats are written in hexadecimal, which is exact. What differs between two identical runs (speed) is in the record for
people to see and never in the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOSS, MTP_LOSS, HELD_OUT = "loss", "mtp_loss", "held_out_bpb"
"""Names of pre-training's scalars: nats per token, nats per token, bits per byte of held-out text."""
MEASURED = "held_out_"
"""How names of scalars begin that were measured on held-out data, now and then."""
HELD_OUT_NATS = "held_out_nats"
"""Nats per token of held-out answers."""
HELD_OUT_NATS_BEFORE = "held_out_nats_before"
"""The same of the parent, before the first step."""
_HASHES = ("weights_sha256", "optimizer_sha256", "rollouts_sha256")
_LINE = {"step", "scalars", "grad_norm", "tokens", "balance", *_HASHES, "prev"}
TAKEN = _LINE | {"lr", "tokens_per_second", "mfu", "load"}
"""Names that a task's scalars may not have: those of fields in the transcript and in metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What a step did."""

    step: int
    """Its number, from 1."""
    scalars: Mapping[str, float]
    """What the task measured, by name: losses in every step, evaluations in those that have one."""
    grad_norm: float
    """Global gradient norm before clipping."""
    tokens: int
    """Tokens trained on since the run began, this step's included."""
    balance: tuple[float, ...] = ()
    """Load of the busiest expert over the mean load, for each layer with experts; 0 for one that saw no token."""
    weights_sha256: str | None = None
    """Hash of all weights after the step, in the steps that take it."""
    optimizer_sha256: str | None = None
    """Hash of the optimiser's state after the step."""
    learning_rate: float = field(default=0.0, compare=False)
    """AdamW's rate in this step. Not in the transcript, as all that follows."""
    tokens_per_second: float = field(default=0.0, compare=False)
    """Tokens trained on per second."""
    mfu: float | None = field(default=None, compare=False)
    """Model FLOP/s over the machine's measured rate of matrix products, 0 to 1; None for a child, whose prompts,
    padding and completions cost work that its tokens do not count."""
    rollouts_sha256: str | None = None
    """Hash of the file of what the model wrote for the step, in the transcript where there is one."""

    def __post_init__(self) -> None:
        if taken := sorted(TAKEN & self.scalars.keys()):
            raise ValueError(f"scalars named as fields of a step's record are: {', '.join(taken)}: choose other names")


def encode(record: StepRecord) -> dict[str, Any]:
    """A step's line without its `prev`; absent values are left out."""
    line: dict[str, Any] = {
        "step": record.step,
        "scalars": {name: value.hex() for name, value in record.scalars.items()},
        "grad_norm": record.grad_norm.hex(),
        "tokens": record.tokens,
        "balance": [value.hex() for value in record.balance],
    }
    return line | {name: value for name in _HASHES if (value := getattr(record, name)) is not None}


def decode(line: Mapping[str, Any], version: int = 2) -> StepRecord:
    """The record of a line of a transcript of this format.

    Raises KeyError, TypeError, ValueError or OverflowError where it is none.
    """
    if version == 1:  # losses stood beside the rest, under the names that they have among the scalars
        others = {name: line[name] for name in (MTP_LOSS, HELD_OUT) if name in line}
        line = {**line, "scalars": {LOSS: line[LOSS]} | others}
        line = {name: value for name, value in line.items() if name not in line["scalars"]}
    for name, kind in (("step", int), ("tokens", int), ("balance", list), ("scalars", dict)):
        if type(line[name]) is not kind:
            raise TypeError(name)
    hashes = [line.get(name) for name in _HASHES]
    if not all(value is None or isinstance(value, str) for value in hashes):
        raise TypeError("a hash is not text")
    if unknown := line.keys() - _LINE:
        raise ValueError(f"unknown: {unknown}")
    scalars = {name: float.fromhex(value) for name, value in line["scalars"].items()}
    balance = tuple(map(float.fromhex, line["balance"]))
    norm = float.fromhex(line["grad_norm"])
    return StepRecord(
        line["step"], scalars, norm, line["tokens"], balance, hashes[0], hashes[1], rollouts_sha256=hashes[2]
    )
