"""Verify: do parts of a release again, and compare bits.

An audit reads; this re-executes. Hashes and signature (V0); the audit's own checks (V1); logits of fixed prompts
(V2); the evaluation from the published weights and data (V3); the documents read out of the tokens, and documents,
tokenizer and tokens made again from their sources where these are here (V4); and segments of the training (V5): from a
published checkpoint, with the published data and recipe, as many steps as lie before the next one, whose transcript
lines and final state must be the published ones, byte for byte. Which segments is not the publisher's choice: they
follow from the manifest's root and a nonce that the verifier draws afterwards. V6 is all of them. What remains
unproven: that nothing else was tried before, and that the data are lawful.

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
from clearseek.audit.audit import audit_release
from clearseek.audit.evidence import Audit, Evidence, Grade, Row
from clearseek.audit.read.source import Folder
from clearseek.errors import OtherVersionError, UserError
from clearseek.files import sha256_bytes
from clearseek.signing import manifest as listing
from clearseek.signing.folder import verify_folder
from clearseek.signing.keys import PublicKey, load_public_key
from clearseek.signing.tree import Tree, is_below, is_stray, visible
from clearseek.sysfiles import system_file
from clearseek.train import checkpoint
from clearseek.train.transcript import hasher
from clearseek.verify.data import data_rows
from clearseek.verify.model import evaluation_row, final_row, logits_row
from clearseek.verify.replay import Release, Replay, Segment, choose_segments, every_segment, open_release
from clearseek.verify.rows import attempted
from clearseek.verify.segments import segment_row, transcript_line

LEVELS = (0, 1, 2, 3, 4, 5, 6)
_TRAINING = (ask.VERIFY_STEPS, ask.VERIFY_DRIFT)
"""What is asked of a segment that was trained again."""
_FIGURES = (
    ask.CLAIMS_CONSISTENT, ask.CLAIMS_POSSIBLE, ask.COST_COMPUTE, ask.COST_OPERATIONS, ask.COST_DEVICES, ask.COST_PRICE,
    ask.DOCUMENTS_DATA_SUMMARY,
)  # fmt: skip
"""Rows of what it means in practice that a false figure makes false."""


@dataclass(frozen=True)
class Verified:
    """What came of it, and what was looked at."""

    rows: tuple[Row, ...]
    manifest_sha256: str
    """Of the manifest's bytes that all of this was checked against."""
    merkle_root: str
    levels: tuple[int, ...]
    nonce: str
    key: str
    """Fingerprint of the publisher's key that was given; empty without one."""
    segments: tuple[int, int] = (0, 0)
    """Trained again, of how many."""
    steps: tuple[int, int] = (0, 0)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)


@dataclass(frozen=True)
class Request:
    """What to verify, and how."""

    levels: tuple[int, ...] = LEVELS
    """0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments, 6 the whole run."""
    nonce: str = ""
    """Any text the publisher could not know."""
    segments: int = 1
    """How many to train again at level 5."""
    read_sources: bool = False
    """Whether the data may be made again from files that the recipe names on this machine."""


def verify_release(
    root: str | Path,
    levels: tuple[int, ...] = LEVELS,
    nonce: str = "",
    segments: int = 1,
    public_key: str | Path | None = None,
    read_sources: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Verified:
    """Verify a release.

    Args:
        root: Its folder.
        levels: As in `Request`, and the next three too.
        nonce: Any text the publisher could not know.
        segments: How many to train again at level 5.
        public_key: Of the publisher, from a place you trust.
        read_sources: Whether the data may be made again from files that the recipe names on this machine.
        say: Told what is being done.

    Raises:
        UserError: there is no release, or no key, to begin with. All that is wrong with a release is in the rows.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder of a release")
    if not (root / listing.MANIFEST).is_file():
        raise UserError(
            f"{root}: holds no {listing.MANIFEST}: there is nothing to verify it by; clearseek audit reads any release"
        )
    key = None if public_key is None else load_public_key(Path(public_key))
    manifest = listing.read(root)
    digest = sha256_bytes(manifest.to_bytes())
    request = Request(levels, nonce, segments, read_sources)
    rows: list[Row] = []
    say("hashing every file")
    differences, tree = listing.check(root, manifest)
    strays = tuple(file.path for file in tree.files if file.path in differences.extra and is_stray(file))
    differences = replace(differences, extra=tuple(path for path in differences.extra if path not in strays))
    rows.append(_hashes(root, manifest, differences, tree))
    if strays:
        rows.append(_strays(root, strays))
    if key is not None:
        rows.append(_signature(root, key, strays))
    if 1 in levels:
        source = Folder(root)
        source.hashes.update({entry.path: entry.sha256 for entry in manifest.files if not differences})
        rows.append(_static(audit_release(source)))
    done: tuple[Segment, ...] = ()
    every: tuple[Segment, ...] = ()
    if {2, 3, 4, 5, 6} & set(levels) and not tree.problems:  # links out of it and fifos are never opened
        try:
            release = open_release(root)
        except UserError as error:
            rows.append(ask.VERIFY_TRANSCRIPT.no(Grade.CLAIMED, str(error)))
        else:
            every = every_segment(release)
            done = _segments(release, manifest.root, request)
            rows += _again(release, request, done, say)
    trained = [row for row in rows if row.answer != "unknown" and any(each.covers(row.id) for each in _TRAINING)]
    steps = sum(segment.end - segment.begin for segment in done) if len(trained) == len(done) else 0
    total = every[-1].end - every[0].begin if every else 0
    fingerprint = "" if key is None else key.fingerprint
    return Verified(
        tuple(rows), digest, manifest.root, levels, nonce, fingerprint, (len(trained), len(every)), (steps, total)
    )


def _segments(release: Release, merkle_root: str, request: Request) -> tuple[Segment, ...]:
    """Which to train again."""
    if 6 in request.levels:
        return every_segment(release)
    if 5 in request.levels:
        return choose_segments(release, merkle_root, request.nonce, request.segments)
    return ()


def _again(
    release: Release, request: Request, segments: tuple[Segment, ...], say: Callable[[str], None]
) -> Iterator[Row]:
    """What is computed anew."""
    levels = request.levels
    yield attempted(ask.VERIFY_COMPLETE, lambda: _complete(release), transcript_line(0))
    if release.begin:
        yield attempted(ask.VERIFY_PARENT, lambda: _parent(release), transcript_line(0))
    replay = Replay(release)
    if 2 in levels:
        say("comparing the final weights with the last checkpoint")
        yield _with_code(final_row(release), replay)
        yield _with_code(logits_row(release), replay)
    if 3 in levels:
        say("evaluating again")
        yield _with_code(evaluation_row(release), replay)
    if 4 in levels:
        say("reading and making the data again")
        yield from data_rows(release, request.nonce, request.read_sources)
    if 5 in levels or 6 in levels:
        yield _code(replay)
        if price := replay.price(segments):
            say(price)
        for segment in segments:
            say(f"training steps {segment.begin + 1} to {segment.end} again")
            yield segment_row(replay, segment)


def _hashes(root: Path, manifest: listing.Manifest, differences: listing.Differences, tree: Tree) -> Row:
    wrong = [*differences.lines(), *(f"{each.path}: {each.what}" for each in tree.problems), *_hidden(tree.skipped)]
    if (root / listing.MANIFEST).read_bytes() != manifest.to_bytes():
        wrong.insert(0, f"{listing.MANIFEST} is not written as such lists are: its hash stands for another text")
    if wrong:
        return ask.VERIFY_FILES.no(Grade.CLAIMED, "; ".join(wrong[:8]), Evidence(listing.MANIFEST))
    reason = f"{len(manifest.files):,} files, Merkle root {manifest.root}"
    return ask.VERIFY_FILES.yes(Grade.CHECKED, reason, Evidence(listing.MANIFEST))


def _strays(root: Path, paths: tuple[str, ...]) -> Row:
    """Nobody tampered, and these files are still not the publisher's."""
    shown = ", ".join(f"{visible(path)} (put there by {system_file(path)})" for path in paths[:4])
    more = f" and {len(paths) - 4} more" if len(paths) > 4 else ""
    bases = {path.rpartition("/")[2] for path in paths}
    names = sorted({"._*" if base.startswith("._") else base for base in bases})
    remove = " ; ".join(f"find {shlex.quote(str(root))} -name {shlex.quote(name)} -delete" for name in names[:4])
    reason = f"{shown}{more}: no part of the release, and nothing reads them; remove them with: {remove}"
    return ask.VERIFY_STRAYS.unknown(Grade.PRESENT, reason, Evidence(visible(paths[0])))


def _hidden(skipped: tuple[str, ...]) -> list[str]:
    """Files that a list says nothing about, beyond those which no list counts as content."""
    usual = frozenset((listing.MANIFEST, listing.SIGNATURE, *listing.NOT_CONTENT))
    return [f"{visible(path)}: is here and left out on purpose" for path in skipped if not is_below(path, usual)]


def _signature(root: Path, key: PublicKey, strays: tuple[str, ...]) -> Row:
    if not (root / listing.SIGNATURE).is_file():
        return ask.VERIFY_SIGNATURE.no(Grade.CLAIMED, f"there is no {listing.SIGNATURE}")
    result = verify_folder(root, key)
    signed = replace(result, extra=tuple(path for path in result.extra if path not in strays))
    wrong = [*signed.problems, *_hidden(result.ignored)]
    if wrong:
        return ask.VERIFY_SIGNATURE.no(Grade.CLAIMED, "; ".join(wrong[:8]), Evidence(listing.SIGNATURE))
    reason = f"{result.signed:,} files, key {result.fingerprint}"
    return ask.VERIFY_SIGNATURE.yes(Grade.CHECKED, reason, Evidence(listing.SIGNATURE))


def _static(found: Audit) -> Row:
    """The audit's rows that say something false about the release."""
    wrong = [row.id for row in found if _is_false(row)]
    if wrong:
        return ask.VERIFY_STATIC.no(Grade.CLAIMED, f"see {', '.join(wrong)} (clearseek audit --evidence)")
    return ask.VERIFY_STATIC.yes(Grade.CHECKED, f"{len(found.rows)} rows")


def _is_false(row: Row) -> bool:
    """Whether a row refutes something, and does not only say that something is missing.

    What is refuted stays at E1, somebody's claim; what is missing is E0.
    """
    if row.dimension == "technical":
        kind = row.id.split(".")[0]
        return row.answer in ("no", "partly") and kind in (
            "files", "weights", "parameters", "context", "tokenizer", "claims", "licence",
        )  # fmt: skip
    if row.dimension == "definition":
        return row.answer == "no" and row.grade == Grade.CLAIMED
    return row.answer == "no" and row.question in _FIGURES and bool(row.evidence)


def _complete(release: Release) -> Row:
    """Recipe, transcript and checkpoints end at the same step, and there is nothing beside them."""
    asked, last, end = release.recipe.train.steps, release.steps[-1], transcript_line(len(release.transcript.steps))
    written = release.begin + len(release.transcript.steps)
    if release.transcript.header.get("recipe") != json.loads(release.run.recipe.read_bytes()):
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, "the transcript began with another recipe", transcript_line(0))
    if not asked == written == last:
        reason = f"the recipe asks for {asked} steps, the transcript has {written}, the last checkpoint is of {last}"
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, reason, end)
    train = release.recipe.train
    regular = min(
        train.keep_checkpoints, -(-train.steps // train.checkpoint_every) - release.begin // train.checkpoint_every
    )
    if len(release.steps) - 1 < regular:
        reason = f"the run keeps {regular} checkpoints, and {len(release.steps) - 1} are here"
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, reason)
    if strange := [each for each in checkpoint.unexpected_files(release.checkpoints) if not system_file(each)]:
        shown = ", ".join(visible(each) for each in strange[:4])
        return ask.VERIFY_COMPLETE.no(Grade.CLAIMED, f"checkpoints/ holds what no checkpoint has: {shown}")
    return ask.VERIFY_COMPLETE.yes(Grade.CHECKED, f"all are of {asked} steps", end)


def _parent(release: Release) -> Row:
    """What a run that goes on from another one leaves unproven: all of the other one."""
    stated = release.transcript.header["parent"]
    saved = checkpoint.load(checkpoint.find(release.run.parent, release.begin), checkpoint.MODEL)
    found = hasher(release.transcript.version)(
        pair for group in checkpoint.MODEL for pair in saved.tensors[group].items()
    )
    if found != stated.get("weights_sha256") or release.run.read_parent() != stated:
        reason = "the weights that it began from are not those that the transcript names"
        return ask.VERIFY_PARENT.no(Grade.CLAIMED, reason, transcript_line(0))
    reason = (
        f"it goes on from another run's step {release.begin}: those steps are not covered here, only a release of that "
        f"run could prove them; its weights are {found}, the last line of its transcript {stated['transcript_head']}"
    )
    return ask.VERIFY_PARENT.unknown(Grade.PRESENT, reason, transcript_line(0))


def _with_code(row: Row, replay: Replay) -> Row:
    """The row, and where it contradicts the release with other code than the release's, that this may be why."""
    if row.answer != "no":
        return row
    with suppress(UserError, OSError):  # a row of its own says so
        if other := replay.other_code:
            return row.adding(f"but this ClearSeek is not the release's: {other}")
    return row


def _code(replay: Replay) -> Row:
    """Whether what trains here is what the release says it was trained with."""
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
