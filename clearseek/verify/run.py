"""Verification: parts of a release made again, and compared bit for bit.

An audit reads; verification re-executes. Level 0 checks hashes and signature; 1 audits, and compares the rows with the
release's own records; 2 computes logits of fixed prompts; 3 evaluates the published weights on the published data; 4
reads the documents out of the tokens, makes documents, tokenizer and tokens again from their sources where these are at
hand, and recomputes the draws of completions that the model learned from; 5 trains segments again: from a published
checkpoint, with the published data and recipe, the steps up to the next checkpoint, whose transcript lines and final
state must be the published ones, byte for byte. The publisher cannot choose the segments: they follow from the
manifest's root and a nonce that the verifier draws afterwards. Level 6 trains all of them, by parts on several machines
where one is too slow (:mod:`clearseek.verify.parts`). Two things remain unproven: that no other run was tried before,
and that the data are lawful.

Cheating in a share f of the steps is missed by s segments of equal length with probability (1 - f)^s.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import sha256_bytes
from clearseek.reading.evidence import Evidence, amount
from clearseek.reading.source import Folder
from clearseek.signing import manifest as manifests
from clearseek.signing.folder import verify_folder
from clearseek.signing.hashing import hash_files
from clearseek.signing.keys import PublicKey, load_public_key
from clearseek.signing.tree import Tree, is_below, is_stray, visible
from clearseek.sysfiles import system_file
from clearseek.train.checkpoints import checkpoint
from clearseek.train.transcript import hasher
from clearseek.training_code import code_here
from clearseek.verify.children import parent_row, writes
from clearseek.verify.data import data_rows
from clearseek.verify.evaluations import RECORDS, Again, evaluation_rows
from clearseek.verify.model import evaluation_row, final_row, logits_row
from clearseek.verify.parts import Part, divide
from clearseek.verify.replay import Release, Replay, Segment, choose_segments, every_segment, open_release
from clearseek.verify.rollouts import rollouts_row
from clearseek.verify.rows import attempted
from clearseek.verify.segments import segment_row, transcript_line
from clearseek.verify.static import compared_rows, static_audit, static_row

LEVELS = (0, 1, 2, 3, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a re-execution, and what has to be the same of all parts."""

    part: Part
    segments: tuple[Segment, ...]
    transcript: str
    """SHA-256 of the transcript's last line, or an empty string where the run could not be read."""
    code: str
    """SHA-256 of the list of the code that trained here."""


@dataclass(frozen=True)
class Verified:
    """Result of a verification, and its scope."""

    rows: tuple[Row, ...]
    """What was verified, and behind ``verify.static`` the rows of the audit that records bear on."""
    manifest_sha256: str
    """SHA-256 of the manifest that the release was checked against."""
    merkle_root: str
    levels: tuple[int, ...]
    nonce: str
    key: str
    """Fingerprint of the publisher's key, or an empty string."""
    segments: tuple[int, int] = (0, 0)
    """Number of segments trained again, and of all segments."""
    steps: tuple[int, int] = (0, 0)
    """Number of steps trained again, and of all steps."""
    share: Share | None = None
    """The part of the re-execution that this was, where it was one."""

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


def verify_release(
    root: str | Path,
    levels: tuple[int, ...] = LEVELS,
    nonce: str = "",
    segments: int = 1,
    public_key: str | Path | None = None,
    read_sources: bool = False,
    say: Callable[[str], None] = lambda _: None,
    trusted: tuple[PublicKey, ...] = (),
    parent: str | Path | None = None,
    part: Part | None = None,
    records: int | None = RECORDS,
    allow_code: bool = False,
) -> Verified:
    """Verify a release.

    Args:
        root: Folder of the release.
        levels: 0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments of the training, 6 the whole training.
        nonce: Any text that the publisher could not know.
        segments: Number of segments to train again at level 5.
        public_key: The publisher's key, from a place that you trust.
        read_sources: Whether the data may be made again from files that the recipe names on this machine.
        say: Called with each stage in words.
        trusted: Keys of others whose signed verifications count as re-execution.
        parent: Folder of the model that the release was made from, where the release only names its weights.
        part: Part of level 6 to do; only the last part does levels 1 to 4, and what needs the whole run.
        records: Records of each task of an evaluation to ask for again at level 3; None for all.
        allow_code: Whether programs that the model wrote may be run, in a cell, to score them again.

    Raises:
        UserError: `root` is not a release, or `public_key` not a key. Every fault of a release is a row instead.
    """
    root = Path(root)
    manifest = read_manifest(root)
    key = None if public_key is None else load_public_key(Path(public_key))
    own = frozenset(levels) if part is None or part.last else frozenset(levels) & {0, 6}
    say("hashing every file")
    rows, tree, intact = _files(root, manifest, key)
    if 1 in own:
        rows += _audit(root, manifest, trusted, intact)
    again = _Again()
    records_again = Again(nonce, records, allow_code)
    if {2, 3, 4, 5, 6} & own and not tree.problems:  # links that lead outside and FIFOs are never opened
        where = None if parent is None else Path(parent)
        again = _made_again(_Asked(root, manifest.root, own, records_again, segments, read_sources, where, part), say)
        rows += again.rows
    decided = {row.id.rpartition(".")[2] for row in rows if row.answer != "unknown" and _is_training(row)}
    trained = tuple(segment for segment in again.chosen if str(segment) in decided)
    return Verified(
        rows=tuple(rows),
        manifest_sha256=sha256_bytes(manifest.to_bytes()),
        merkle_root=manifest.root,
        levels=levels,
        nonce=nonce,
        key="" if key is None else key.fingerprint,
        segments=(len(trained), len(again.every)),
        steps=(_steps(trained), _steps(again.every)),
        share=None if part is None else Share(part, again.chosen, again.transcript, again.code),
    )


def read_manifest(root: Path) -> manifests.Manifest:
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder of a release")
    if not (root / manifests.MANIFEST).is_file():
        raise UserError(
            f"{root}: holds no {manifests.MANIFEST} to verify the release by: clearseek audit reads any release"
        )
    return manifests.read(root)


def _is_training(row: Row) -> bool:
    """Whether the row is of a segment that was trained again."""
    return ask.VERIFY_STEPS.covers(row.id) or ask.VERIFY_DRIFT.covers(row.id)


def _steps(segments: tuple[Segment, ...]) -> int:
    return sum(segment.steps for segment in segments)


def _files(root: Path, manifest: manifests.Manifest, key: PublicKey | None) -> tuple[list[Row], Tree, bool]:
    """Rows of hashes and signature, the files found, and whether all of them are as the manifest says."""
    differences, tree = manifests.check(root, manifest)
    strays = tuple(file.path for file in tree.files if file.path in differences.extra and is_stray(file))
    differences = replace(differences, extra=tuple(path for path in differences.extra if path not in strays))
    rows = [_hashes(root, manifest, differences, tree)]
    if strays:
        rows.append(_strays(root, strays))
    if key is not None:
        rows.append(_signature(root, key, strays))
    return rows, tree, not differences


def _audit(root: Path, manifest: manifests.Manifest, trusted: tuple[PublicKey, ...], intact: bool) -> list[Row]:
    """Rows of level 1."""
    source = Folder(root)
    listed = {entry.path: entry.sha256 for entry in manifest.files}
    source.hashes.update(listed if intact else hash_files(source.root, source.tree.files))
    found = static_audit(source, trusted, intact)
    return [static_row(found), *compared_rows(found)]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What of a release to make again; fields as arguments of :func:`verify_release`."""

    root: Path
    merkle_root: str
    levels: frozenset[int]
    again: Again
    segments: int
    read_sources: bool
    parent: Path | None
    part: Part | None


@dataclass(frozen=True, slots=True)
class _Again:
    """What was made again."""

    rows: tuple[Row, ...] = ()
    every: tuple[Segment, ...] = ()
    """All segments of the run."""
    chosen: tuple[Segment, ...] = ()
    """Segments to train again."""
    transcript: str = ""
    code: str = ""


def _made_again(asked: _Asked, say: Callable[[str], None]) -> _Again:
    """Rows of what is computed again."""
    try:
        release = open_release(asked.root)
    except OtherVersionError as error:
        return _Again((ask.VERIFY_TRANSCRIPT.unknown(Grade.PRESENT, str(error)),))
    except UserError as error:
        return _Again((ask.VERIFY_TRANSCRIPT.no(Grade.CLAIMED, str(error)),))
    every, part, chosen = every_segment(release), asked.part, tuple[Segment, ...]()
    if part is not None:
        chosen = divide(every, part.of)[part.number - 1]
        say(_told(part, chosen, len(every)))
    elif 6 in asked.levels:
        chosen = every
    elif 5 in asked.levels:
        chosen = choose_segments(release, asked.merkle_root, asked.again.nonce, asked.segments)
    replay = Replay(release, asked.read_sources, asked.parent)
    rows = list(_undivided(replay, asked.levels, asked.again, say)) if part is None or part.last else []
    if {5, 6} & asked.levels:
        rows += _trained(replay, chosen, say)
    code = code_here(release.recipe.parent is not None)
    return _Again(tuple(rows), every, chosen, release.transcript.head, code)


def _told(part: Part, chosen: tuple[Segment, ...], every: int) -> str:
    """What a part has to do, in words."""
    if not chosen:
        return f"part {part}: no segment is left to train, for the run has {every:,}"
    steps = ", ".join(map(str, chosen[:8])) + ", ..." * (len(chosen) > 8)
    return f"part {part}: {len(chosen)} of {amount(every, 'segment')}, steps {steps}"


def _undivided(replay: Replay, levels: frozenset[int], again: Again, say: Callable[[str], None]) -> Iterator[Row]:
    """Rows of what is compared and computed again of the whole run."""
    release = replay.release
    yield attempted(ask.VERIFY_COMPLETE, lambda: _complete(release), transcript_line(0))
    if release.begin:
        yield attempted(ask.VERIFY_PARENT, lambda: _parent(release), transcript_line(0))
    elif release.recipe.parent is not None:
        child = (release.run, release.transcript.header, release.recipe)
        yield attempted(ask.VERIFY_PARENT, lambda: parent_row(*child), transcript_line(0))
    if 2 in levels:
        say("comparing the final weights with the last checkpoint")
        yield _with_code(final_row(release), replay)
        yield _with_code(logits_row(release), replay)
    if 3 in levels:
        say("evaluating again")
        yield _with_code(evaluation_row(replay), replay)
        yield from (_with_code(row, replay) for row in evaluation_rows(release, again))
    if 4 in levels:
        say("reading and making the data again")
        yield from data_rows(release, again.nonce, replay.read_sources)
    if writes(release.recipe) and {4, 5, 6} & levels:  # elsewhere, segments learn from the published ones
        say("checking the draws of every round whose weights are here")
        yield _with_code(rollouts_row(replay), replay)


def _trained(replay: Replay, segments: tuple[Segment, ...], say: Callable[[str], None]) -> Iterator[Row]:
    """Rows of segments trained again."""
    yield _code(replay)
    if price := replay.price(segments):
        say(price)
    for segment in segments:
        say(f"training steps {segment.begin + 1} to {segment.end} again")
        yield segment_row(replay, segment)


def _hashes(root: Path, manifest: manifests.Manifest, differences: manifests.Differences, tree: Tree) -> Row:
    wrong = [*differences.lines(), *(f"{each.path}: {each.what}" for each in tree.problems), *_hidden(tree.skipped)]
    if (root / manifests.MANIFEST).read_bytes() != manifest.to_bytes():
        wrong.insert(0, f"{manifests.MANIFEST} is not in the canonical form that its hash is taken of")
    if wrong:
        return ask.VERIFY_FILES.no(Grade.CLAIMED, "; ".join(wrong[:8]), Evidence(manifests.MANIFEST))
    reason = f"{amount(len(manifest.files), 'file')}, Merkle root {manifest.root}"
    return ask.VERIFY_FILES.yes(Grade.CHECKED, reason, Evidence(manifests.MANIFEST))


def _strays(root: Path, paths: tuple[str, ...]) -> Row:
    """Row of files that an operating system left: not the publisher's, and not a sign of tampering."""
    shown = ", ".join(f"{visible(path)} (put there by {system_file(path)})" for path in paths[:4])
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    bases = {path.rpartition("/")[2] for path in paths}
    names = sorted({"._*" if base.startswith("._") else base for base in bases})
    remove = " ; ".join(f"find {shlex.quote(str(root))} -name {shlex.quote(name)} -delete" for name in names[:4])
    reason = f"{shown}{more}: not part of the release, and read by nothing; remove them with: {remove}"
    return ask.VERIFY_STRAYS.unknown(Grade.PRESENT, reason, Evidence(visible(paths[0])))


def _hidden(skipped: tuple[str, ...]) -> list[str]:
    """Lines about files that a manifest leaves out, beyond those that no manifest counts as content."""
    usual = frozenset((manifests.MANIFEST, manifests.SIGNATURE, *manifests.NOT_CONTENT))
    return [f"{visible(path)}: is here and left out on purpose" for path in skipped if not is_below(path, usual)]


def _signature(root: Path, key: PublicKey, strays: tuple[str, ...]) -> Row:
    if not (root / manifests.SIGNATURE).is_file():
        return ask.VERIFY_SIGNATURE.no(Grade.CLAIMED, f"{manifests.SIGNATURE} is missing")
    result = verify_folder(root, key)
    signed = replace(result, extra=tuple(path for path in result.extra if path not in strays))
    wrong = [*signed.problems, *_hidden(result.ignored)]
    if wrong:
        return ask.VERIFY_SIGNATURE.no(Grade.CLAIMED, "; ".join(wrong[:8]), Evidence(manifests.SIGNATURE))
    reason = f"{amount(result.signed, 'file')}, key {result.fingerprint}"
    return ask.VERIFY_SIGNATURE.yes(Grade.CHECKED, reason, Evidence(manifests.SIGNATURE))


def _complete(release: Release) -> Row:
    """Row of whether recipe, transcript and checkpoints end at the same step, without strange files beside them."""
    asked, last, end = release.recipe.train.steps, release.steps[-1], transcript_line(len(release.transcript.steps))
    written = release.begin + len(release.transcript.steps)
    if release.transcript.header.get("recipe") != json.loads(release.run.recipe.read_bytes()):
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, "the transcript began with another recipe", transcript_line(0))
    if not asked == written == last:
        reason = f"the recipe asks for {amount(asked, 'step')}, the transcript has {written}, "
        reason += f"the last checkpoint is of {last}"
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, reason, end)
    train = release.recipe.train
    regular = min(
        train.keep_checkpoints, -(-train.steps // train.checkpoint_every) - release.begin // train.checkpoint_every
    )
    if len(release.steps) - 1 < regular:
        reason = f"the run keeps {amount(regular, 'checkpoint')}, and {len(release.steps) - 1} are here"
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, reason)
    if strange := [each for each in checkpoint.unexpected_files(release.checkpoints) if not system_file(each)]:
        shown = ", ".join(visible(each) for each in strange[:4])
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, f"checkpoints/ holds what no checkpoint has: {shown}")
    return ask.VERIFY_COMPLETE.yes(Grade.CHECKED, f"all are of {amount(asked, 'step')}", end)


def _parent(release: Release) -> Row:
    """Row of a run that continues another run, which remains unproven."""
    stated = release.transcript.header["parent"]
    saved = checkpoint.load(checkpoint.find(release.run.parent, release.begin), checkpoint.MODEL)
    found = hasher(release.transcript.version)(
        pair for group in checkpoint.MODEL for pair in saved.tensors[group].items()
    )
    if found != stated.get("weights_sha256") or release.run.read_parent() != stated:
        reason = "the weights of its first step are not those that the transcript names"
        return ask.VERIFY_PARENT.no(Grade.CLAIMED, reason, transcript_line(0))
    reason = (
        f"it continues another run from step {release.begin}: only a release of that run could prove the steps before; "
        f"that run's weights are {found}, the last line of its transcript {stated['transcript_head']}"
    )
    return ask.VERIFY_PARENT.unknown(Grade.PRESENT, reason, transcript_line(0))


def _with_code(row: Row, replay: Replay) -> Row:
    """The row; where it contradicts the release and this ClearSeek's code differs, with a remark that says so."""
    if row.answer != "no":
        return row
    with suppress(UserError, OSError):  # :func:`_code` gives a row of this error
        if other := replay.other_code:
            return row.adding(f"but this ClearSeek is not the release's: {other}")
    return row


def _code(replay: Replay) -> Row:
    """Row of whether the code that trains here is the code that the release was trained with."""
    try:
        other = replay.other_code
    except OtherVersionError as error:
        return ask.VERIFY_CODE.unknown(Grade.PRESENT, str(error), Evidence("training/"))
    except UserError as error:
        return ask.VERIFY_CODE.no(Grade.CLAIMED, str(error))
    if not other:
        return ask.VERIFY_CODE.yes(Grade.CHECKED, "every file that the trainer imports", Evidence("code/"))
    reason = f"{other}; the release's own was not run: install it only if you trust its publisher as you trust yourself"
    return ask.VERIFY_CODE.unknown(Grade.PRESENT, reason, Evidence("code/"))
