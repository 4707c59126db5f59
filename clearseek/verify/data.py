"""Verification of the data: the tokens are those of the transcript, of the documents listed, made by the recipe.

Three steps, each stronger. Every file has the manifest's hash, the list of documents gives the manifest's counts and
fingerprint, and the transcript names the fingerprint. The documents read out of the shards have the list's hashes. And
where the source is at hand, documents, tokenizer and shards are made again.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.data.decode import check_documents
from clearseek.data.manifest import Manifest, check_files, read_manifest, taught_fingerprint
from clearseek.data.shards import prepare_data
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.posttrain import asked
from clearseek.posttrain.conversations import prepare
from clearseek.reading.evidence import Evidence
from clearseek.release.problems import makes_problems, write_problems
from clearseek.verify.replay import Release
from clearseek.verify.rows import MachineError, attempted

_PLACE: Final = Evidence("data/manifest.json")
_ALL_TOKENS: Final = 200_000_000
"""Tokens up to which every document is read again; of larger data, a share that the nonce chooses."""
_NOT_COMPARED: Final = frozenset(("versions", "config", "remarks"))
"""Keys of the manifest that may differ where the data are the same."""


def data_rows(release: Release, nonce: str, read_sources: bool) -> Iterator[Row]:
    """Rows of the three steps; the first that fails ends them."""
    row = attempted(ask.VERIFY_DATA, lambda: _named(release), _PLACE)
    yield row
    if row.answer != "yes":
        return
    if not makes_problems(release.recipe):  # nothing was read
        yield attempted(ask.VERIFY_DOCUMENTS, lambda: _documents(release, nonce), _PLACE)
    yield attempted(ask.VERIFY_DATA_REBUILT, lambda: _rebuilt(release, read_sources), _PLACE)


def _named(release: Release) -> Row:
    manifest = read_manifest(release.data)
    check_files(release.data, manifest)
    header, found = release.transcript.header, manifest.fingerprint
    if release.recipe.distil is not None:
        if asked.check(release.run) != header.get("teacher"):
            reason = "training/teacher does not hold what the transcript says of the teacher"
            return ask.VERIFY_DATA.no(Grade.CLAIMED, reason, Evidence("training/teacher/"))
        found = taught_fingerprint(found, header.get("teacher"))
    if (stated := header.get("data_fingerprint")) != found:
        reason = f"the transcript names {stated!r:.80}, and the data are {found}"
        return ask.VERIFY_DATA.no(Grade.CLAIMED, reason, _PLACE)
    reason = f"{len(manifest.files)} files, fingerprint {manifest.fingerprint}"
    return ask.VERIFY_DATA.yes(Grade.CHECKED, reason, _PLACE)


def _documents(release: Release, nonce: str) -> Row:
    manifest = read_manifest(release.data)
    total = manifest.train.documents + manifest.heldout.documents
    tokens = manifest.train.tokens + manifest.heldout.tokens
    count = check_documents(release.data, _chosen(nonce, tokens))
    which = "all" if count == total else f"{count:,}, chosen by the nonce,"
    reason = (
        f"{which} of {total:,} documents read from the shards have the hashes of the list, which makes the fingerprint"
    )
    return ask.VERIFY_DOCUMENTS.yes(Grade.REEXECUTED, reason, Evidence("data/documents.jsonl"))


def _chosen(nonce: str, tokens: int) -> Callable[[int], bool]:
    """Whether to read the document of a number again."""
    limit = min(1.0, _ALL_TOKENS / max(tokens, 1)) * 2**64

    def wanted(number: int) -> bool:
        return int.from_bytes(hashlib.sha256(f"{nonce} document {number}".encode()).digest()[:8]) < limit

    return wanted


def _rebuilt(release: Release, read_sources: bool) -> Row:
    recipe = release.recipe
    generated = makes_problems(recipe) or (recipe.sft is not None and recipe.sft.demonstrations)
    if recipe.data.source != "python-stdlib" and not generated and not read_sources:
        reason = (
            f"the source ({recipe.data.source}) is elsewhere; --read-sources reads files here that the recipe names"
        )
        return ask.VERIFY_DATA_REBUILT.unknown(Grade.PRESENT, reason)
    theirs = read_manifest(release.data)
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = _prepared(release, Path(folder) / "data")
        except UserError as error:
            raise MachineError(f"the source is not at hand: {error}") from None
    differing = _differing(made, theirs)
    if not differing:
        reason = f"documents, tokenizer and shards are the same: {made.source}"
        return ask.VERIFY_DATA_REBUILT.yes(Grade.REEXECUTED, reason, _PLACE)
    changed = [
        f"{key} {value} -> {made.versions.get(key)}"
        for key, value in theirs.versions.items()
        if made.versions.get(key) != value
    ]
    reason = f"what was made differs in {', '.join(differing)}"
    if changed:
        reason += f"; this machine differs: {', '.join(changed)}"
        return ask.VERIFY_DATA_REBUILT.unknown(Grade.PRESENT, reason, _PLACE)
    return ask.VERIFY_DATA_REBUILT.no(Grade.CLAIMED, f"{reason}; with the same versions", _PLACE)


def _prepared(release: Release, out: Path) -> Manifest:
    """The data made again from their source; a fine-tuned model's with the tokenizer that it has from its parent."""
    recipe = release.recipe
    if makes_problems(recipe):
        return write_problems(recipe, Tokenizer.load(release.run.parent / "tokenizer.json"), out)
    if recipe.sft is not None:
        return prepare(recipe, Tokenizer.load(release.data / "tokenizer.json"), out)
    given = {"tokenizer": str(release.data / "tokenizer.json")} if recipe.distil is not None else {}
    return prepare_data(recipe.data.model_copy(update=given), recipe.model.vocab_size, out)


def _differing(made: Manifest, theirs: Manifest) -> list[str]:
    """Keys of the manifest whose values differ."""
    ours: dict[str, Any] = made.model_dump()
    return [key for key, value in theirs.model_dump().items() if key not in _NOT_COMPARED and ours[key] != value]
