"""Release: a Hugging Face repository that carries all that made a model, so that anyone can make it again.

Beside weights, tokenizer and card, a release has the training code, the recipe, the software versions, the tokens and
their making, the transcript, the checkpoints with optimiser state, the evaluation with raw results, a manifest with one
hash over all of these, and a signature. Everything is computed from the run, never typed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from clearseek.audit.audit import audit_release
from clearseek.audit.render.exports import as_cyclonedx, as_spdx
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.evaluate.logits import as_json, prompt_logits
from clearseek.files import atomic_folder, remove_unfinished
from clearseek.hub.write import DTYPES, export_hf, export_scales
from clearseek.posttrain.rollouts import ROUNDS
from clearseek.reading.source import Folder
from clearseek.release import documents, evaluations
from clearseek.release.gather import Made, gather
from clearseek.release.lineage import OURS, lineage_of
from clearseek.release.problems import makes_problems, write_problems
from clearseek.release.source_archive import environment_lock, source_archive
from clearseek.signing import manifest as manifests
from clearseek.signing.folder import sign_folder
from clearseek.signing.keys import PrivateKey
from clearseek.sysfiles import system_file
from clearseek.train.checkpoints import checkpoint
from clearseek.train.checkpoints.consolidate import consolidate
from clearseek.train.checkpoints.record import RECORD, read_record
from clearseek.train.run import Run
from clearseek.training_code import CODE

CODE_LICENCE: Final = "LICENSE-CODE-AND-DOCUMENTS"
"""Licence of code and documents, where the weights have another."""
_GIT = b"""* -text
*.safetensors filter=lfs diff=lfs merge=lfs -text
*.bin filter=lfs diff=lfs merge=lfs -text
*.gz filter=lfs diff=lfs merge=lfs -text
"""
"""Content of .gitattributes: no change of line ends, which are part of every hash; large files apart, on the hub."""


@dataclass(frozen=True, slots=True)
class ReleaseSummary:
    """A release that was written."""

    out: Path
    """Folder of the release."""
    files: int
    """Number of files in the manifest."""
    bytes: int
    """Bytes of these files."""
    root: str
    """Merkle root over these files."""
    fingerprint: str
    """Fingerprint of the signing key, or an empty string."""


def make_release(
    run: Run,
    out: str | Path,
    data: str | Path | None = None,
    key: PrivateKey | None = None,
    dtype: str = "bf16",
    name: str = "",
    provider: str = "",
    languages: str = "",
    say: Callable[[str], None] = lambda _: None,
    base: str = "",
    base_licence: str = "",
    with_parent: bool = True,
    evaluated: Sequence[Path] | None = None,
) -> ReleaseSummary:
    """Write the release of a finished run.

    Args:
        run: The run.
        out: Folder to make; it must not exist.
        data: Folder of the run's data, where it is not in the run's folder.
        key: Private key to sign with.
        dtype: Type of the exported weights: ``bf16``, ``fp32`` or ``fp8``. Checkpoints are always FP32.
        name: Name of the model; by default the name of `out`.
        provider: Publisher and contact, for the card and the AI Act's summary.
        languages: Languages of the data, for that summary.
        say: Called with each stage in words.
        base: Name on the hub of the model that this one was made from, ``owner/name``.
        base_licence: That model's licence, where its folder does not say.
        with_parent: Whether the release holds that model's weights, or names them by their hash alone.
        evaluated: Folders of evaluations to carry; by default the one in the run's folder, where there is one.

    Raises:
        UserError: the run is unfinished or unsound, its data were changed, an evaluation is of other weights or would
            not pass a verification, or `out` exists or lies in the run.
    """
    out = Path(out)
    with ExitStack() as stack:
        folder = _data(run, None if data is None else Path(data), stack)
        _refuse_place(out, run, folder)
        remove_unfinished(out)
        say("checking the run and evaluating its last checkpoint")
        carried = evaluations.wanted(run, evaluated)
        archive, content = source_archive()  # with the list of its files that `gather` makes, before what takes long
        made = replace(gather(run, folder, dtype, name or out.name), provider=provider, languages=languages)
        lineage = lineage_of(made.recipe, made.transcript.header, base_licence, base, with_parent)
        made = replace(made, lineage=lineage, carried=carried)
        place = stack.enter_context(atomic_folder(out))
        say("writing weights and logits")
        _weights(run, place, made)
        _write_json(place / "evaluation" / "logits.json", as_json(prompt_logits(place)))
        _evaluations(run, place, made, folder, say)
        say(f"copying {len(made.steps)} checkpoint{'s' * (len(made.steps) != 1)} and the data")
        _training(run, place, made)
        _copy(folder, place / "data")
        _write(place / "code" / archive, content)
        if made.transcript.version > 1:  # before, transcripts did not say by what code
            _write_json(place / CODE, made.code)
        for path, text in documents.all_documents(made, place).items():
            _write(place / path, text)
        _licences(place, made)
        _write(place / ".gitattributes", _GIT)
        say("hashing every file, and signing")
        manifest = manifests.build(place, known=_bills(place, made))
        _write(place / manifests.MANIFEST, manifest.to_bytes())
        if key is not None:
            sign_folder(place, key)
    size = sum(entry.size for entry in manifest.files)
    return ReleaseSummary(out, len(manifest.files), size, manifest.root, key.public.fingerprint if key else "")


def _data(run: Run, data: Path | None, stack: ExitStack) -> Path:
    """The folder of a run's data; of problems that are made while it trains, one that is made now and deleted later."""
    if run.begun and makes_problems(recipe := run.read_recipe()):
        if data is not None:
            raise UserError("--data: [problems] are made, not read: leave the option out")
        folder = Path(stack.enter_context(TemporaryDirectory())) / "data"
        write_problems(recipe, Tokenizer.load(run.parent / "tokenizer.json"), folder)
        return folder
    if data is None and run.begun and not run.data.is_dir():
        raise UserError(f"{run.data}: the run's data are not in its folder: say where they are with --data FOLDER")
    return run.data if data is None else data


def _refuse_place(out: Path, run: Run, data: Path) -> None:
    """Raise UserError for a folder that exists, or lies in the run, its data or another release."""
    if out.exists():
        raise UserError(f"{out}: exists: choose a new folder for the release")
    above = list(out.resolve().parents)
    if run.root.resolve() in above or data.resolve() in above:
        raise UserError(f"{out}: lies in the run that it would be copied from: choose a folder elsewhere")
    inside = next((parent for parent in above if (parent / manifests.MANIFEST).is_file()), None)
    if inside is not None:
        raise UserError(f"{out}: lies in the release {inside}, which it would break: choose a folder elsewhere")


def _weights(run: Run, place: Path, made: Made) -> None:
    model, _ = run.load_model()
    recipe = made.recipe
    export_hf(
        model.state_dict(), recipe.model, run.tokenizer, place, DTYPES[made.dtype], scales=export_scales(recipe),
        conversational=recipe.conversational,
    )  # fmt: skip


def _evaluations(run: Run, place: Path, made: Made, data: Path, say: Callable[[str], None]) -> None:
    """Evaluations of the released weights, whose records are scored again first."""
    if made.carried:
        say("scoring the records of its evaluations again")
    evaluations.check(made.carried, place, run, data, made.dtype)
    evaluations.copy(made.carried, place)


def _training(run: Run, place: Path, made: Made) -> None:
    """Recipe, transcript, software and checkpoints, which are of the same form whoever trained."""
    for path in (run.recipe, run.transcript, run.metrics):
        if path.is_file():
            _write(place / "training" / path.name, path.read_bytes())
    _write(place / "training" / "requirements.lock", environment_lock())
    environment = json.dumps(made.transcript.header["environment"], indent=1, sort_keys=True) + "\n"
    _write(place / "training" / "environment.json", environment)
    for step in made.steps:
        source = checkpoint.find(run.checkpoints, step)
        if problems := checkpoint.find_problems(source):
            raise UserError("\n".join(problems))
        target = place / "checkpoints" / source.name
        _copy(source, target)
    for folder in _beside(run, made.lineage.here):
        _copy(folder, place / "training" / folder.relative_to(run.root))
    for picture in sorted(run.pictures.glob("*.png")) if run.pictures.is_dir() else ():
        _write(place / "pictures" / picture.name, picture.read_bytes())


def _beside(run: Run, with_parent: bool) -> Iterator[Path]:
    """Folders of what a run began with, and of what its teacher and the model itself wrote."""
    for folder in (run.parent, run.teacher, run.root / ROUNDS):
        if folder.is_dir():
            yield folder
            if with_parent or folder != run.parent:
                yield from (each for each in sorted(folder.iterdir()) if each.is_dir())


def _licences(place: Path, made: Made) -> None:
    """Licence texts: the model's, and those of the sources for the data."""
    texts, lineage = files("clearseek.licences") / "texts", made.lineage
    if lineage.licence == OURS:
        _write(place / "LICENSE", (texts / f"{OURS}.txt").read_bytes())
    else:  # the weights stay under their base's
        _write(place / CODE_LICENCE, (texts / f"{OURS}.txt").read_bytes())
        if lineage.text is not None:
            _write(place / "LICENSE", lineage.text)
    for licence in made.data.licences:
        text = texts / f"{licence}.txt"
        if text.is_file():
            _write(place / "data" / f"LICENSE.{licence}", text.read_bytes())


def _bills(place: Path, made: Made) -> dict[str, str]:
    """Write bills of materials: files with hashes, packages, licences. Returns the hashes of all files but the bills.

    Findings are left to the reader's own audit.
    """
    source = Folder(place)
    source.hashes.update({entry.path: entry.sha256 for entry in manifests.build(place).files})
    found = replace(audit_release(source, made.name), subject=made.name)
    for name, render in (("bom.cdx.json", as_cyclonedx), ("bom.spdx.json", as_spdx)):
        _write_json(place / name, render(found, findings=False))
    return source.hashes


def _copy(source: Path, target: Path) -> None:
    """Copy a folder of plain files, without those that an operating system left; a checkpoint as of one process."""
    if (source / RECORD).is_file() and read_record(source).of_many:
        consolidate(source, target)
        return
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and not system_file(path.name):
            shutil.copyfile(path, target / path.name)


def _write_json(path: Path, value: Any) -> None:
    _write(path, json.dumps(value, indent=1) + "\n")


def _write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
