"""Evaluations that a release carries: records that anyone can score again, and ask the released weights for again.

An evaluation belongs into a release only if both can be done from the release alone: it must be whole, of the weights
that are released and in the type in which they are, made by the ClearSeek whose source is in `code/`, and have read no
other text than `data/heldout.txt`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import clearseek
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.evaluate.check import look
from clearseek.evaluate.records import INDEX, LONGEST_LINE, Head, Index, read_head, read_index
from clearseek.files import reading
from clearseek.hub.read import import_hf
from clearseek.inference.model import weights_hash
from clearseek.train.run import Run

FOLDER: Final = "evaluation"
"""Folder of a release with what was measured; each carried evaluation is a folder in it."""
OWN: Final = "records"
"""Name in a release of the evaluation that lies in the run's folder."""
HELD_OUT: Final = "heldout.txt"
"""Name of the text in a release's data that was held out."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Carried:
    """An evaluation, in a release or on the way into one."""

    name: str
    """Name of its folder in the release's `evaluation/`."""
    folder: Path
    index: Index
    heads: Mapping[str, Head]
    """First line of each task's file."""

    @staticmethod
    def read(name: str, folder: Path) -> Carried:
        """Read index and first lines. Raises UserError for those that are absent or not of the form."""
        index = read_index(folder)
        heads = {task: _head(folder / listed.file) for task, listed in index.tasks.items()}
        return Carried(name, folder, index, heads)


def _head(path: Path) -> Head:
    if not path.is_file():  # a pipe would have no beginning
        raise UserError(f"{path}: no such file: evaluate again")
    with reading(path), path.open("rb") as file:
        return read_head(file.readline(LONGEST_LINE), f"{path}:1")


def carried(release: Path) -> tuple[Carried, ...]:
    """The evaluations in a release. Raises UserError for one that cannot be read."""
    place = release / FOLDER
    folders = sorted(path for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
    return tuple(Carried.read(folder.name, folder) for folder in folders)


def wanted(run: Run, given: Sequence[Path] | None) -> tuple[Carried, ...]:
    """Evaluations to carry: those that are `given`, or, for None, the one in the run's folder, where there is one.

    Raises UserError for one that cannot be looked at again by whoever has the release.
    """
    own = run.root / FOLDER
    folders = list(given) if given is not None else [own] * (own / INDEX).is_file()
    found = tuple(_read(folder, OWN if folder == own else folder.resolve().name) for folder in folders)
    found = tuple(sorted(found, key=lambda each: each.name))
    names = [each.name for each in found]
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(f"--evaluation: {name!r:.80}: give the folder a name of letters, digits, '.', '_' and '-'")
        if names.count(name) > 1:
            raise UserError(f"--evaluation: two folders named {name}: rename one")
    return found


def _read(folder: Path, name: str) -> Carried:
    found = Carried.read(name, folder)
    if not found.index.tasks:
        raise UserError(f"{folder}: an evaluation of no task: leave it out")
    if "weights_sha256" not in found.index.model:
        raise UserError(
            f"{folder}: of a model behind an API, whose weights nobody can see: evaluate the weights that are released"
        )
    for task, head in found.heads.items():
        made_by = head.environment.get("clearseek")
        if made_by != clearseek.__version__:
            raise UserError(
                f"{folder}: {task} was asked by ClearSeek {made_by}, and the release carries the source of "
                f"{clearseek.__version__}: evaluate again"
            )
    return found


def check(found: Sequence[Carried], place: Path, run: Run, data: Path, dtype: str) -> None:
    """Refuse evaluations that a verification of the release would find fault with.

    Args:
        found: The evaluations.
        place: The release's folder, with its weights and tokenizer.
        run: The run that is released.
        data: The run's data.
        dtype: Type of the release's weights.

    Raises:
        UserError: an evaluation is of other weights, not whole, read another text, or does not have its own scores.
    """
    if not found:
        return
    released = weights_hash(import_hf(place, allow_missing_mtp=True)[1])
    tokenizer = Tokenizer.load(place / "tokenizer.json")
    for each in found:
        if each.index.model["weights_sha256"] != released:
            raise UserError(_other_weights(each, run, data, dtype))
        for looked in look(each.folder, each.index, tokenizer, texts=held_out(data)):
            if looked.faults:
                raise UserError(f"{looked.faults[0]}: a verification of the release would find it: evaluate again")


def _other_weights(each: Carried, run: Run, data: Path, dtype: str) -> str:
    """What is wrong with an evaluation of other weights, and the ways out."""
    from clearseek.release.scores import again  # which shows what this module reads

    text = ("--text", data / HELD_OUT) if data != run.data and (data / HELD_OUT).is_file() else ()
    asked = again(each, str(run.root), "--dtype", dtype, *text, out="FOLDER")
    return (
        f"{each.folder}: not of the weights that are released, in {dtype}, but of those with the SHA-256 "
        f"{each.index.model['weights_sha256']!s:.16}…: evaluate the run as it is released ({' ; '.join(asked)}) and "
        "give --evaluation FOLDER; or release the type that was evaluated (--dtype fp32 for a run that was evaluated "
        "without --dtype); or leave the evaluation out with --without-evaluation"
    )


def held_out(data: Path) -> list[tuple[str, str]]:
    """The text that bits per byte are read of, as `clearseek evaluate` takes it from a run or a release."""
    file = data / HELD_OUT
    return [(file.name, file.read_bytes().decode("utf-8"))] if file.is_file() else []


def copy(found: Sequence[Carried], place: Path) -> None:
    """Copy evaluations into a release: their index, and the files that it lists."""
    for each in found:
        target = place / FOLDER / each.name
        target.mkdir(parents=True)
        for name in (INDEX, *(task.file for task in each.index.tasks.values())):
            shutil.copyfile(each.folder / name, target / name)
