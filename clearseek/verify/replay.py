"""Training a piece of a release again: from a published checkpoint, with the published data and recipe.

The pieces are the segments between two checkpoints; the first begins at step 0, whose weights follow from the seed.
Which are trained again is decided by hashing the release's root with a nonce that came after it, so a publisher cannot
prepare the ones that will be looked at.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path, PurePosixPath

import torch
from rich.console import Console

import clearseek
from clearseek.audit.read.archive import members
from clearseek.audit.read.source import Folder
from clearseek.cli.progress import Display
from clearseek.config import Recipe
from clearseek.counts import flops_per_token
from clearseek.errors import UserError
from clearseek.fp8.backends.choose import choose
from clearseek.machine import pick_precision
from clearseek.ops.compiled import choose_kernels
from clearseek.train import checkpoint
from clearseek.train.run import RunFolder
from clearseek.train.session import refuse_device
from clearseek.train.trainer import Trainer
from clearseek.train.transcript import Summary
from clearseek.train.transcript import verify as verify_transcript
from clearseek.verify.drift import NUDGES, nudge
from clearseek.verify.rows import MachineError

_LONGEST_SOURCE = 10_000_000


@dataclass(frozen=True)
class Release:
    """A release's parts, as paths and as what was read of them."""

    root: Path
    run: RunFolder
    """Recipe and transcript as a run folder would have them."""
    transcript: Summary
    recipe: Recipe
    lines: tuple[bytes, ...]
    """Of the transcript: the header, then one a step."""
    begin: int
    """The step after which the run began: 0, or the last of the run that it goes on from."""
    steps: tuple[int, ...]
    """That have a checkpoint, the beginning first, which follows from the seed or is the parent's end."""

    def line(self, step: int) -> bytes:
        """A step's line."""
        return self.lines[step - self.begin]

    @property
    def data(self) -> Path:
        """Tokens."""
        return self.root / "data"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.root / "checkpoints"


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps `begin` + 1 to `end` of a run."""

    begin: int
    end: int


def open_release(root: Path) -> Release:
    """Read what re-execution needs. Raises UserError where the release does not carry it, or it is not sound."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder of a release")
    run = RunFolder(root / "training")
    if not run.recipe.is_file() or not run.transcript.is_file():
        raise UserError(f"{root}: carries no recipe and transcript (training/): there is nothing to train again")
    transcript = verify_transcript(run.transcript)
    lines = tuple(run.transcript.read_bytes().split(b"\n")[:-1])
    if not isinstance(transcript.header.get("environment"), dict):
        raise UserError(f"{run.transcript}: its header does not say on what machine the run was")
    begin = transcript.begin
    later = (step for step in checkpoint.steps(root / "checkpoints") if step > begin)
    return Release(root, run, transcript, run.read_recipe(), lines, begin, (begin, *later))


def every_segment(release: Release) -> tuple[Segment, ...]:
    """From each checkpoint to the next, the first from the beginning."""
    return tuple(Segment(begin, end) for begin, end in pairwise(release.steps))


def choose_segments(release: Release, root: str, nonce: str, count: int) -> tuple[Segment, ...]:
    """Segments that nobody could know before the nonce.

    Drawn without putting back, a segment of twice the steps twice as likely: the publisher sets where segments end,
    and must not hide steps in a long one among many short. The draw of segment i is -log(u)/steps with u from
    SHA-256(root, nonce, i), and the smallest are taken (Efraimidis and Spirakis, 2006).
    """
    every = every_segment(release)

    def draw(index: int) -> float:
        digest = hashlib.sha256(f"{root} {nonce} {index}".encode()).digest()
        return -math.log((int.from_bytes(digest[:6]) + 1) / 2**48) / (every[index].end - every[index].begin)

    chosen = sorted(range(len(every)), key=lambda index: (draw(index), index))[:count]
    return tuple(every[index] for index in sorted(chosen))


class Replay:
    """Trains segments of a release again. One trainer serves all: to begin takes longer than a short segment."""

    def __init__(self, release: Release) -> None:
        self.release = release
        self._trainer: Trainer | None = None

    @property
    def differs(self) -> tuple[str, ...]:
        """What is other than the release's about this machine, in words; known once something was trained."""
        changes = {} if self._trainer is None else self._trainer.differs
        return tuple(f"{key} {_short(was)} -> {_short(now)}" for key, (was, now) in changes.items())

    @cached_property
    def other_code(self) -> str:
        """What is other about this ClearSeek than about the one in the release; empty where the code is the same.

        Only what trains is compared, and not what audits.
        """
        source = Folder(self.release.root)
        package = Path(clearseek.__file__).parent
        archives = [path for path in source.sizes if path.startswith("code/") and path.endswith(".tar.gz")]
        try:
            published = {
                PurePosixPath(*parts[2:]): content
                for path in archives
                for name, content in members(source, path, _LONGEST_SOURCE)
                if (parts := PurePosixPath(name).parts)[1:2] == ("clearseek",)
                and name.endswith(".py")
                and ".." not in parts
            }
        except UserError as error:
            return str(error)
        changed = [
            str(name)
            for name, content in published.items()
            if name.parts[0] not in ("audit", "release", "verify", "signing", "licences", "plan")
            and not ((package / name).is_file() and (package / name).read_bytes() == content)
        ]
        if not published:
            return "there is no source archive in code/"
        return f"{len(changed)} files, such as {changed[0]}" if changed else ""

    def train(self, segment: Segment, nudged: float = 0.0) -> tuple[list[bytes], dict[str, dict[str, torch.Tensor]]]:
        """Lines of the steps, and the tensors after the last, from the checkpoint before the first.

        Args:
            segment: Which steps.
            nudged: Begin from weights changed by this much of themselves, to measure what rounding does.

        Raises:
            UserError: the recipe cannot be trained on this machine.
        """
        with tempfile.TemporaryDirectory() as folder:
            run = self._folder(Path(folder) / "run", segment)
            if self._trainer is None:
                recipe, device = self.release.recipe, self._device()
                self._refuse(recipe, device)
                self._trainer = Trainer(recipe, run, self.release.data, device, resume=True, elsewhere=True)
            else:
                self._trainer.go_to(run, segment.begin)
            if nudged:
                nudge(self._trainer.optimizer.masters, nudged)
                self._trainer.optimizer.round_into_model()
            with Display(segment.end, self._trainer.recipe.name, console=Console(quiet=True)) as display:
                self._trainer.train(display, until=segment.end)
            lines = run.transcript.read_bytes().split(b"\n")[segment.begin - self.release.begin + 1 : -1]
            if len(lines) != segment.end - segment.begin:  # stopped by Ctrl-C or SIGTERM: nothing was found either way
                raise KeyboardInterrupt
        return lines, self._trainer.state_tensors()

    def price(self, segments: tuple[Segment, ...]) -> str:
        """What it takes at least to train these segments here, where this machine emulates the run's type; else empty.

        From the operations that the model's shapes need, at the measured rate of products.
        """
        recipe, device = self.release.recipe, self._device()
        if device != "cpu" or self.release.transcript.header["environment"].get("precision") != "bfloat16":
            return ""
        found = pick_precision("bf16")
        if not found.emulated:
            return ""
        steps = sum(segment.end - segment.begin for segment in segments)
        length = recipe.data.sequence_length
        operations = steps * recipe.train.batch_size * length * flops_per_token(recipe.model, length)
        hours = operations / found.rates["bf16"] / 3600
        return (
            f"the run computed in BF16, for which this machine has no instructions: {found.rates['bf16'] / 1e9:,.1f} "
            f"GFLOP/s, in FP32 {found.rates['fp32'] / 1e9:,.0f}: these {steps} steps take at least {_time(hours)}, and "
            f"up to {1 + len(NUDGES)} times that where bits differ"
        )

    def _refuse(self, recipe: Recipe, device: str) -> None:
        """What this machine cannot do, before it is tried: a stranger's recipe may ask for more than there is."""
        try:
            refuse_device(recipe, device)
            recorded = self.release.transcript.header["environment"].get("precision")
            asked = recipe.train.precision in ("auto", "fp8")
            short = recorded == "bfloat16" if asked else recipe.train.precision == "bf16"
            precision = pick_precision("bf16" if short else "fp32", device)
            choose_kernels(recipe.train.kernels, precision.dtype, device)
            if recipe.train.precision == "fp8":
                choose(recipe.fp8, torch.device(device))
        except UserError as error:
            raise MachineError(str(error)) from None

    def _device(self) -> str:
        """The kind that the run was trained on, where this machine has one."""
        trained = self.release.transcript.header["environment"].get("device")
        return "cuda" if trained == "cuda" and torch.cuda.is_available() else "cpu"

    def _folder(self, root: Path, segment: Segment) -> RunFolder:
        """A run folder as it was when the segment began."""
        run = RunFolder(root)
        root.mkdir(parents=True)
        shutil.copyfile(self.release.run.recipe, run.recipe)
        before = self.release.lines[: segment.begin - self.release.begin + 1]
        run.transcript.write_bytes(b"".join(line + b"\n" for line in before))
        if self.release.begin:
            run.parent.symlink_to(self.release.run.parent.resolve())
        if segment.begin > self.release.begin:
            path = checkpoint.find(self.release.checkpoints, segment.begin)
            run.checkpoints.mkdir()
            (run.checkpoints / path.name).symlink_to(path.resolve())
        return run


def _time(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:,.0f} s"
    return f"{60 * hours:,.0f} minutes" if hours < 2 else f"{hours:,.0f} hours"


def _short(value: object) -> str:
    """A setting of an environment in few words; one that a record does not have is unknown there."""
    if value is None:
        return "unknown"
    if isinstance(value, dict):
        value = [f"{name}={each}" for name, each in value.items()] or "none"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
