"""The run folder: what a training run leaves behind, and where.

recipe.json        every setting, resolved
data/              token shards, tokenizer, manifest (or elsewhere, as given)
transcript.jsonl   what happened, hash-chained: the same bytes in every identical run
metrics.jsonl      speed and expert loads per step: differs from run to run
sessions.jsonl     which processes took which steps, where there were several; ranks/ has what they said
checkpoints/       everything needed to go on
parent/            what a run that goes on from another one began with
teacher/           what a run that learns from another model asked of it
pictures/          loss curve, expert loads
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clearseek.config import Recipe
from clearseek.errors import UserError
from clearseek.files import append, reading, write_atomic, writing
from clearseek.recipe import parse_recipe, recipe_json

if TYPE_CHECKING:  # a path and a recipe need none of it
    import torch

    from clearseek.model.transformer import DeepSeekModel
    from clearseek.train.checkpoints.stored import LazyTensor
    from clearseek.train.record import StepRecord

PARENT = "parent.json"
"""In the parent's folder: step, hashes of weights and optimiser, and of the transcript's last line."""
TEACHER = "teacher.json"
"""In the teacher's folder: which model it is, what it was asked, and the hashes of what it answered."""
_LONGEST_LINE = 64 * 2**20
"""Bytes of a line of metrics: without a limit, a file without line ends would be read whole."""


@dataclass(frozen=True, init=False)
class Run:
    """A run folder: where everything is, and what can be read of it."""

    root: Path

    def __init__(self, root: str | Path) -> None:
        object.__setattr__(self, "root", Path(root))

    @property
    def recipe(self) -> Path:
        """The resolved recipe, as canonical JSON."""
        return self.root / "recipe.json"

    @property
    def data(self) -> Path:
        """Token shards, unless the run was given others."""
        return self.root / "data"

    @property
    def transcript(self) -> Path:
        """The hash-chained record."""
        return self.root / "transcript.jsonl"

    @property
    def begun(self) -> bool:
        """Whether there is a run to go on with: a transcript with its first line, which a kill may have cut off."""
        try:
            with self.transcript.open("rb") as file:
                return file.readline().endswith(b"\n")
        except (FileNotFoundError, NotADirectoryError):
            return False

    @property
    def metrics(self) -> Path:
        """Speed and expert loads, one JSON line a step."""
        return self.root / "metrics.jsonl"

    @property
    def sessions(self) -> Path:
        """Which processes took which steps, where there were several."""
        return self.root / "sessions.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"

    @property
    def parent(self) -> Path:
        """Where a run that goes on from another one keeps the state that it began with."""
        return self.root / "parent"

    @property
    def extends(self) -> bool:
        """Whether the run goes on from another one."""
        return (self.parent / PARENT).is_file()

    @property
    def teacher(self) -> Path:
        """Where a run that learns from another model keeps what it asked of it."""
        return self.root / "teacher"

    @property
    def pictures(self) -> Path:
        """Folder of pictures."""
        return self.root / "pictures"

    @property
    def export(self) -> Path:
        """What a quickstart exports."""
        return self.root / "export"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer of its data."""
        return self.root / "tokenizer.json"

    def read_recipe(self, record: bool = False) -> Recipe:
        """Recipe that the run was made with, by which to train on, or as a `record` of what its model is.

        Raises UserError where the folder holds no run, OtherVersionError where only another version can train on.
        """
        try:
            raw = json.loads(self.recipe.read_text(encoding="utf-8"))
        except FileNotFoundError:
            what = "not a run folder: it has no recipe.json" if self.root.is_dir() else "no such folder"
            raise UserError(f"{self.root}: {what}: give a run's folder") from None
        except OSError as error:
            raise UserError(f"{self.recipe}: cannot read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.recipe}: damaged: {error}: restore it from a copy") from None
        return parse_recipe(raw, str(self.recipe), record=record)

    def read_parent(self) -> dict[str, Any] | None:
        """What the run began from, where that was the end of another one. Raises UserError when it is damaged."""
        file = self.parent / PARENT
        with reading(file), suppress(ValueError, RecursionError, KeyError, TypeError):
            if not self.extends:
                return None
            record = json.loads(file.read_bytes())
            numbers = {"step": record["step"], "tokens": record.get("tokens", 0)}  # tokens since transcript format 2
            texts = (value for name, value in record.items() if name not in numbers)
            if all(type(each) is int for each in numbers.values()) and all(isinstance(each, str) for each in texts):
                return dict(record)
        raise UserError(f"{file}: damaged: restore it from a copy")

    def read_teacher(self) -> dict[str, Any] | None:
        """The model that the run learns from, and what was asked of it. Raises UserError when the record is damaged."""
        file = self.teacher / TEACHER
        with reading(file), suppress(ValueError, RecursionError):
            if not file.is_file():
                return None
            record = json.loads(file.read_bytes())
            if isinstance(record, dict):
                return record
        raise UserError(f"{file}: damaged: restore it from a copy")

    def write_recipe(self, recipe: Recipe) -> None:
        """Record the resolved recipe."""
        write_atomic(self.recipe, recipe_json(recipe) + "\n")

    def load_model(
        self, step: int | None = None, dtype: torch.dtype | None = None, merged: bool = True
    ) -> tuple[DeepSeekModel, int]:
        """The model of a checkpoint (the newest unless `step` says which), in FP32 unless `dtype` says what; its step.

        Adapters that were trained are folded in, or with `merged` False stay beside the frozen matrices.

        Raises UserError where the run has no checkpoint, or a damaged one.
        """
        import torch

        from clearseek.train.checkpoints import checkpoint

        recipe, path = self.read_recipe(record=True), self._checkpoint(step)
        saved = checkpoint.load(path, checkpoint.MODEL)
        try:
            return model_of(recipe, saved.tensors, dtype or torch.float32, merged), saved.step
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}: not of the model that {self.recipe} describes: restore that file. {reason}"
            ) from None

    def open_weights(self, step: int | None = None) -> tuple[dict[str, LazyTensor], int]:
        """The tensors of a model without adapters, read from a checkpoint as they are asked for, and its step.

        Raises UserError as :meth:`load_model`.
        """
        from clearseek.train.checkpoints import checkpoint

        stored = checkpoint.open_stored(self._checkpoint(step))
        return {name: each for group in checkpoint.MODEL for name, each in stored[group].items()}, stored.step

    def _checkpoint(self, step: int | None) -> Path:
        from clearseek.train.checkpoints import checkpoint

        path = checkpoint.latest(self.checkpoints) if step is None else checkpoint.find(self.checkpoints, step)
        if path is None:
            raise UserError(f"{self.root}: no checkpoint yet: train first, or give another run folder")
        return path


def is_imported(run: Run) -> bool:
    """Whether a run folder was made from somebody else's weights, without training."""
    if run.transcript.exists():
        return False
    from clearseek.train.checkpoints import checkpoint

    return checkpoint.steps(run.checkpoints) == [0]


def model_of(
    recipe: Recipe, tensors: dict[str, dict[str, torch.Tensor]], dtype: torch.dtype, merged: bool = True
) -> DeepSeekModel:
    """A model with the weights of a checkpoint, adapters folded in unless `merged` is False.

    Raises KeyError or RuntimeError where they are of another model.
    """
    import torch

    from clearseek.model.lora import attach_as, merge
    from clearseek.model.transformer import DeepSeekModel

    with torch.device("meta"):
        model = DeepSeekModel(recipe.model)
        if recipe.lora is not None:
            attach_as(model, tensors["weights"], recipe.lora.alpha)
    model.load_state_dict({**tensors["weights"], **tensors["buffers"]}, assign=True)
    model.set_dtype(dtype).requires_grad_(False)
    return merge(model) if merged else model


class Metrics:
    """``metrics.jsonl``: one line a step, cut back to the checkpoint on resume."""

    def __init__(self, path: Path, step: int) -> None:
        """Open for appending after `step`; later lines, and an unfinished last one, are dropped."""
        self._path = path
        size = 0
        for entry, end in _entries(path) if step else ():
            if entry["step"] > step:
                break
            size = end
        with writing(path):
            self._file = FileIO(path, "a")
            self._file.truncate(size)

    def append(self, record: StepRecord, load_LE: torch.Tensor) -> None:
        """Add a step's record and its tokens per expert [L, E]."""
        shown = {
            "step": record.step,
            **record.scalars,
            "grad_norm": record.grad_norm,
            "lr": record.learning_rate,
            "tokens_per_second": record.tokens_per_second,
            **({} if record.mfu is None else {"mfu": record.mfu}),
            "balance": record.balance,
            "load": load_LE.tolist(),
        }
        line = json.dumps(shown).encode() + b"\n"
        with writing(self._path, len(line)):
            append(self._file, line)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Complete lines of a metrics file up to the first that is damaged; none where there is no file.

    Raises UserError where there is one that cannot be read.
    """
    return (entry for entry, _ in _entries(path))


@dataclass(frozen=True)
class Loads:
    """Tokens per expert in each step, arrays of shape [L, E], read from a metrics file as they are asked for."""

    path: Path

    def __len__(self) -> int:
        return sum(1 for _ in read_metrics(self.path))

    def __iter__(self) -> Iterator[NDArray[np.float64]]:
        return (np.array(entry["load"], dtype=np.float64) for entry in read_metrics(self.path))


def _entries(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Complete lines up to the first that is damaged, each with the bytes to its end, one in memory at a time."""
    with reading(path), suppress(FileNotFoundError), path.open("rb") as file:
        end = 0
        while (line := file.readline(_LONGEST_LINE)).endswith(b"\n"):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(entry, dict) or not isinstance(entry.get("step"), int) or "load" not in entry:
                return
            end += len(line)
            yield entry, end
