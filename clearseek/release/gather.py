"""Parts of a release: run, data and evaluation, read and checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from clearseek.config import Recipe
from clearseek.data.loader import Stream
from clearseek.data.manifest import Manifest, check_files, read_manifest, taught_fingerprint
from clearseek.errors import UserError
from clearseek.evaluate.bits import compressed_bits_per_byte, every_window, per_byte
from clearseek.posttrain.lessons import DIVERGENCE
from clearseek.program import command
from clearseek.release.evaluations import Carried
from clearseek.release.lineage import OURS, Lineage
from clearseek.train.checkpoints import checkpoint
from clearseek.train.preflight import settle_numerics
from clearseek.train.record import HELD_OUT, LOSS, MEASURED
from clearseek.train.run import Run, is_imported, read_metrics
from clearseek.train.transcript import RunRecord, check_transcript, hasher
from clearseek.training_code import CHILDS_ROOTS, ROOTS, code_list, package_sources, trainers_code


@dataclass(frozen=True)
class Made:
    """Parts that a release and its documents are made from."""

    name: str
    recipe: Recipe
    transcript: RunRecord
    data: Manifest
    dtype: str
    evaluation: dict[str, Any]
    steps: tuple[int, ...]
    """Steps that have a checkpoint."""
    seconds: float
    """Seconds of training by the metrics, or 0 without metrics."""
    code: dict[str, Any]
    """List of the code that trained (:mod:`clearseek.training_code`)."""
    lineage: Lineage = field(default_factory=lambda: Lineage(OURS))
    """What the weights were made from."""
    provider: str = ""
    """Publisher and contact, or an empty string."""
    languages: str = ""
    """Languages of the data, or an empty string."""
    carried: tuple[Carried, ...] = ()
    """Evaluations of tasks."""

    @property
    def loss(self) -> str:
        """Name of the scalar that was minimised."""
        return LOSS if LOSS in self.transcript.steps[-1].scalars else DIVERGENCE


def gather(run: Run, data: Path, dtype: str, name: str) -> Made:
    """Read all parts. Raises UserError for a part that would make a release fail its own audit."""
    recipe = run.read_recipe()
    if is_imported(run):
        raise UserError(
            f"{run.root}: an imported model has no training to release: publish its weights as they are, with "
            f"{command('export', run.root, 'OUT')}, or release a run that was trained here"
        )
    transcript = check_transcript(run.transcript)
    roots = ROOTS if recipe.parent is None else CHILDS_ROOTS
    code = code_list(trainers_code(package_sources(), roots), roots)
    if transcript.version > 1 and transcript.header.get("code_sha256") != code["sha256"]:
        raise UserError(f"{run.root}: trained by other code than this ClearSeek's: release it with the one that did")
    settle_numerics(recipe.train.threads, "cpu")  # others must get the following figures to the bit
    reached = transcript.begin + len(transcript.steps)
    if reached < recipe.train.steps:
        raise UserError(
            f"{run.root}: stopped after step {reached} of {recipe.train.steps}: finish it first, with: "
            f"{command('train', '--resume', run.root)}"
        )
    manifest = read_manifest(data)
    check_files(data, manifest)
    if taught_fingerprint(manifest.fingerprint, run.read_teacher()) != transcript.header["data_fingerprint"]:
        raise UserError(f"{data}: not the data that the run's transcript names: give the right ones with --data")
    steps = tuple(checkpoint.steps(run.checkpoints))
    if not steps or steps[-1] != recipe.train.steps:
        raise UserError(f"{run.root}: the last step's checkpoint is missing: train again, or go on from an older one")
    return Made(
        name, recipe, transcript, manifest, dtype, _evaluate(run, recipe, data, manifest, transcript), steps,
        _training_seconds(run.metrics, recipe, transcript), code,
    )  # fmt: skip


def _evaluate(run: Run, recipe: Recipe, data: Path, manifest: Manifest, transcript: RunRecord) -> dict[str, Any]:
    """Evaluate every held-out window in FP32 from the last checkpoint, whose hash must be the transcript's."""
    saved = checkpoint.load(checkpoint.find(run.checkpoints, recipe.train.steps), checkpoint.MODEL)
    found = hasher(transcript.version)([*saved.tensors["weights"].items(), *saved.tensors["buffers"].items()])
    if found != transcript.steps[-1].weights_sha256:
        raise UserError(f"{run.checkpoints}: the last checkpoint's weights are not those of the transcript")
    del saved
    if manifest.packs is not None or manifest.problems is not None:  # the transcript holds what was measured
        last = transcript.steps[-1].scalars
        measured = {name: value.hex() for name, value in sorted(last.items()) if name.startswith(MEASURED)}
        counts = {"documents": manifest.heldout.documents, "bytes": manifest.heldout.bytes}
        return {"measured": measured, **counts} if measured else {}
    model, _ = run.load_model()
    tokens = Stream(data, "heldout")
    if len(tokens) < 2:
        return {}
    length = recipe.data.sequence_length
    windows = every_window(model, tokens, length)
    text = (data / "heldout.txt").read_bytes() if (data / "heldout.txt").is_file() else b""
    return {
        "bits_per_byte": per_byte(windows, tokens, manifest.heldout.bytes),
        "in_training": transcript.steps[-1].scalars.get(HELD_OUT),
        "documents": manifest.heldout.documents,
        "bytes": manifest.heldout.bytes,
        "tokens": sum(number for _, number in windows),
        "compressors": compressed_bits_per_byte(text),
        "windows": [{"bits": bits.hex(), "tokens": number} for bits, number in windows],
    }


def _training_seconds(metrics: Path, recipe: Recipe, transcript: RunRecord) -> float:
    """Seconds of the steps, evaluations and checkpoints left out; 0 without metrics."""
    tokens = float(recipe.train.batch_size * recipe.data.sequence_length)
    if recipe.parent is not None:  # steps of different sizes
        before = (transcript.header["parent"]).get("tokens", 0)
        tokens = (transcript.steps[-1].tokens - before) / len(transcript.steps)
    rates = [line["tokens_per_second"] for line in read_metrics(metrics) if line.get("tokens_per_second")]
    return len(rates) * tokens / median(rates) if rates else 0.0
