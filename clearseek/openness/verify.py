"""Verify: do parts of a release again, and compare bits.

An audit reads; this re-executes. Hashes and signature (V0); the audit's own checks (V1); logits of fixed prompts
(V2); the evaluation from the published weights and data (V3); the tokens, tokenizer and documents from their sources
where these are here (V4); and segments of the training (V5): from a published checkpoint, with the published data and
recipe, as many steps as lie before the next one, whose transcript lines and final state must be the published ones,
byte for byte. Which segments is not the publisher's choice: they follow from the manifest's root and a nonce that the
verifier draws afterwards. V6 is all of them. What remains unproven: that nothing else was tried before, and that the
data are lawful.

Cheating in a share f of the segments is missed by s of them with probability (1 - f)^s.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from clearseek.data.loader import Stream
from clearseek.data.manifest import check_files, read_documents, read_manifest
from clearseek.data.shards import prepare
from clearseek.errors import UserError
from clearseek.evaluate.bits import compressed_bits_per_byte, held_out_bits, window_count
from clearseek.files import sha256_file
from clearseek.hub.hf import export_hf
from clearseek.hub.hf_config import fp8_scales
from clearseek.hub.safetensors_file import strict_json
from clearseek.openness import manifest as listing
from clearseek.openness.audit import audit
from clearseek.openness.evidence import Answer, Audit, Evidence, Grade, Row
from clearseek.openness.keys import PublicKey, load_public_key
from clearseek.openness.logits import CLOSE, PROMPTS, largest_difference, prompt_logits
from clearseek.openness.replay import Release, Replay, choose_segments, open_release
from clearseek.openness.segment_rows import compared, redone, segment_row, transcript_line
from clearseek.openness.signing import verify_folder
from clearseek.openness.source import Folder
from clearseek.openness.tree import Tree, is_below, visible
from clearseek.train import checkpoint
from clearseek.train.run import model_of
from clearseek.train.trainer import settle_numerics

LEVELS = (0, 1, 2, 3, 4, 5, 6)
_LOGITS = "evaluation/logits.json"
_ROUNDING = 1e-5
"""Relative difference of bits that FP32 sums in another order make: at most 2.2e-8 with AVX2 or SSE for AVX-512."""
_COMPRESSOR = 0.01
"""Relative difference of a compressor's result: other builds of zlib search otherwise."""


def verify(
    root: Path,
    levels: tuple[int, ...] = LEVELS,
    nonce: str = "",
    segments: int = 1,
    public_key: Path | None = None,
    read_sources: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Row, ...]:
    """Verify a release.

    Args:
        root: Its folder.
        levels: Which to do: 0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments, 6 the whole run.
        nonce: Any text the publisher could not know.
        segments: How many to train again at level 5.
        public_key: Of the publisher, from a place you trust.
        read_sources: Whether the data may be made again from files that the recipe names on this machine.
        say: Told what is being done.

    Returns:
        A row for each thing that was done again.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder: give the folder of a release")
    if not (root / listing.MANIFEST).is_file():
        raise UserError(
            f"{root}: holds no {listing.MANIFEST}: there is nothing to verify it by; clearseek audit reads any release"
        )
    manifest = listing.read(root)
    key = None if public_key is None else load_public_key(public_key)
    rows: list[Row] = []
    say("hashing every file")
    differences, tree = listing.check(root, manifest)
    rows.append(_hashes(manifest, differences, tree))
    if key is not None:
        rows.append(_signature(root, key))
    if 1 in levels:
        source = Folder(root)
        source.hashes.update({entry.path: entry.sha256 for entry in manifest.files if not differences})
        rows.append(_static(audit(source)))
    if {2, 3, 4, 5, 6} & set(levels) and not tree.problems:  # links out of it and fifos are never opened
        rows += _again(root, levels, manifest.root, nonce, segments, read_sources, say)
    return tuple(rows)


def _again(
    root: Path,
    levels: tuple[int, ...],
    merkle_root: str,
    nonce: str,
    segments: int,
    read_sources: bool,
    say: Callable[[str], None],
) -> Iterator[Row]:
    """What is computed anew."""
    try:
        release = open_release(root)
    except UserError as error:
        yield compared(
            "verify.transcript", "Recipe and transcript can be read, and no line of it was altered", "no", str(error)
        )
        return
    yield _complete(release)
    if 2 in levels:
        say("comparing the final weights with the last checkpoint")
        yield _final(release)
        yield _logits(release)
    if 3 in levels:
        say("evaluating again")
        yield _evaluation(release)
    if 4 in levels:
        say("making the data again")
        yield from _data(release, read_sources)
    whole = 6 in levels
    if 5 in levels or whole:
        count = len(release.steps) - 1 if whole else segments
        replay = Replay(release)
        for segment in choose_segments(release, merkle_root, nonce, count):
            say(f"training steps {segment.begin + 1} to {segment.end} again")
            yield segment_row(replay, segment)


def _hashes(manifest: listing.Manifest, differences: listing.Differences, tree: Tree) -> Row:
    title = "Every file is the one that the manifest lists"
    wrong = [*differences.lines(), *(f"{each.path}: {each.what}" for each in tree.problems), *_hidden(tree.skipped)]
    if wrong:
        return compared("verify.files", title, "no", "; ".join(wrong[:8]), Evidence(listing.MANIFEST))
    reason = f"{len(manifest.files):,} files, Merkle root {manifest.root}"
    return compared("verify.files", title, "yes", reason, Evidence(listing.MANIFEST))


def _hidden(skipped: tuple[str, ...]) -> list[str]:
    """Files that a list says nothing about, beyond those which no list counts as content."""
    usual = frozenset((listing.MANIFEST, listing.SIGNATURE, *listing.NOT_CONTENT))
    return [f"{visible(path)}: is here and left out on purpose" for path in skipped if not is_below(path, usual)]


def _signature(root: Path, key: PublicKey) -> Row:
    title = "The release is signed by the key that was given"
    if not (root / listing.SIGNATURE).is_file():
        return compared("verify.signature", title, "no", f"there is no {listing.SIGNATURE}")
    result = verify_folder(root, key)
    wrong = [*result.problems, *_hidden(result.ignored)]
    if wrong:
        return compared("verify.signature", title, "no", "; ".join(wrong[:8]), Evidence(listing.SIGNATURE))
    reason = f"{result.signed:,} files, key {result.fingerprint}"
    return compared("verify.signature", title, "yes", reason, Evidence(listing.SIGNATURE))


def _static(found: Audit) -> Row:
    """The audit's rows that say something false about the release."""
    title = "No row of the audit finds a false statement or a damaged file"
    wrong = [
        row.id
        for row in found
        if row.answer in ("no", "partly")
        and row.id.split(".")[0] in ("files", "weights", "parameters", "context", "tokenizer", "claims", "licence")
        and row.dimension == "technical"
    ]
    if wrong:
        return compared("verify.static", title, "no", f"see {', '.join(wrong)}")
    return compared("verify.static", title, "yes", f"{len(found.of('technical'))} technical rows")


def _complete(release: Release) -> Row:
    """Recipe, transcript and checkpoints end at the same step."""
    title = "Transcript and checkpoints reach the recipe's last step"
    asked, written, last = release.run.read_recipe().train.steps, len(release.transcript.steps), release.steps[-1]
    stated = release.transcript.header.get("recipe")
    if stated != json.loads(release.run.recipe.read_bytes()):
        return compared("verify.complete", title, "no", "the transcript began with another recipe", transcript_line(0))
    if not asked == written == last:
        reason = f"the recipe asks for {asked} steps, the transcript has {written}, the last checkpoint is of {last}"
        return compared("verify.complete", title, "no", reason, transcript_line(written))
    return compared("verify.complete", title, "yes", f"all are of {asked} steps", transcript_line(written))


def _final(release: Release) -> Row:
    """The final weights, exported again from the last checkpoint."""
    title, name = "The final weights are the last checkpoint's", "verify.final"
    recipe = release.run.read_recipe()
    raw = strict_json((release.root / "config.json").read_bytes(), "config.json")
    try:
        scales = fp8_scales(raw, release.root / "config.json")
        saved = checkpoint.load(checkpoint.find(release.checkpoints, release.steps[-1]))
        model = model_of(recipe, saved.tensors, torch.float32)
        dtype = torch.float8_e4m3fn if scales else torch.float32 if raw.get("dtype") == "float32" else torch.bfloat16
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / "again"
            tokenizer = release.root / "tokenizer.json"
            export_hf(model.state_dict(), recipe.model, tokenizer, again, dtype, scales=scales or "float")
            for file in sorted([*again.glob("*.safetensors"), again / "config.json"]):
                if sha256_file(file) != sha256_file(release.root / file.name):
                    reason = f"{file.name} is not what the checkpoint of step {saved.step} gives"
                    return redone(name, title, "no", reason, Evidence(file.name))
            extra = {path.name for path in release.root.glob("*.safetensors")} - {path.name for path in again.iterdir()}
    except (UserError, OSError, KeyError, RuntimeError) as error:
        return redone(name, title, "no", f"cannot be exported again: {' '.join(str(error).split())[:200]}")
    if extra:
        return redone(name, title, "no", f"{', '.join(sorted(extra))}: more weights than the checkpoint has")
    return redone(name, title, "yes", f"exported again from step {saved.step}: the same bytes", Evidence("config.json"))


def _logits(release: Release) -> Row:
    """Logits of fixed prompts, from the final weights."""
    title, name, path = "The final weights answer fixed prompts with the published logits", "verify.logits", _LOGITS
    file = release.root / path
    if not file.is_file():
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, f"there is no {path}")
    settle_numerics(release.run.read_recipe().train.threads, "cpu")
    try:
        difference = largest_difference(strict_json(file.read_bytes(), path), prompt_logits(release.root))
    except (UserError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        return redone(name, title, "no", f"{path} or the weights cannot be read: {error}", Evidence(path))
    if difference == 0.0:
        return redone(name, title, "yes", f"{len(PROMPTS)} prompts, every logit to the bit", Evidence(path))
    reason = f"the largest difference of a logit is {difference:.3g}"
    if difference <= CLOSE:
        reason += ": what another machine's rounding makes"
        return Row(name, "impact", title, "unknown", Grade.PRESENT, reason, (Evidence(path),))
    return redone(name, title, "no", reason, Evidence(path))


def _evaluation(release: Release) -> Row:
    """Held-out bits of every window, from the published FP32 weights and tokens."""
    title, name = "The evaluation gives the published numbers", "verify.evaluation"
    path = "evaluation/held_out.json"
    if not (release.root / path).is_file():
        return Row(name, "impact", title, "not applicable", Grade.ABSENT, f"there is no {path}")
    place = Evidence(path)
    try:
        problem, worst, score = _evaluate(release, strict_json((release.root / path).read_bytes(), path))
    except (UserError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError) as error:
        return redone(name, title, "no", f"{path}, the weights or the data cannot be read: {error!r:.200}", place)
    if problem is not None:
        return redone(name, title, "no", problem, place)
    if worst:
        reason = f"a window's bits differ by up to {worst:.2g} of themselves: what another machine's rounding makes"
        return Row(name, "impact", title, "unknown", Grade.PRESENT, reason, (place,))
    return redone(name, title, "yes", f"every window to the bit: {score:.4f} bits per byte", place)


def _evaluate(release: Release, stated: dict[str, Any]) -> tuple[str | None, float, float]:
    """The first contradiction, the largest relative difference that rounding explains, and bits per byte as found."""
    recipe = release.run.read_recipe()
    settle_numerics(recipe.train.threads, "cpu")
    saved = checkpoint.load(checkpoint.find(release.checkpoints, release.steps[-1]))
    model = model_of(recipe, saved.tensors, torch.float32)
    stream = Stream(release.data, "heldout")
    tokens = np.empty(len(stream), dtype=np.int64)
    stream.read(0, tokens)
    length = recipe.data.sequence_length
    count = window_count(len(tokens), length)
    if count == 0 or count != len(stated["windows"]):
        return f"the data have {count} windows, and the file {len(stated['windows'])}", 0.0, 0.0
    total, predicted, worst = 0.0, 0, 0.0
    for index in range(count):
        bits, number = held_out_bits(model, tokens, length, windows=[index])
        total, predicted = total + bits, predicted + number
        said = stated["windows"][index]
        if said == {"bits": bits.hex(), "tokens": number}:
            continue
        away = abs(float.fromhex(said["bits"]) - bits)
        if said["tokens"] != number or not away <= _ROUNDING * bits:
            return f"window {index}: {bits.hex()} bits for {number} tokens, and the file says {said}", 0.0, 0.0
        worst = max(worst, away / bits)
    text = (release.data / "heldout.txt").read_bytes() if (release.data / "heldout.txt").is_file() else b""
    score = total / predicted * (len(tokens) - 1) / read_manifest(release.data).heldout.bytes
    figures = {"bits_per_byte": (stated["bits_per_byte"], score, _ROUNDING)}
    for name, ours in compressed_bits_per_byte(text).items():
        figures[name] = (stated["compressors"][name], ours, _COMPRESSOR)
    for name, (theirs, ours, tolerance) in figures.items():
        if not abs(theirs - ours) <= tolerance * ours:
            return f"{name} is {ours:.4f}, and the file says {theirs}", 0.0, 0.0
    return None, worst, score


def _data(release: Release, read_sources: bool) -> Iterator[Row]:
    """The tokens are those of the manifest; and where the source is at hand, they are made again from it."""
    title, name = "The data are those that the transcript names", "verify.data"
    try:
        manifest = read_manifest(release.data)
        check_files(release.data, manifest)
        documents = sum(1 for _ in read_documents(release.data))
    except UserError as error:
        yield compared(name, title, "no", str(error), Evidence("data/manifest.json"))
        return
    stated = release.transcript.header.get("data_fingerprint")
    if stated != manifest.fingerprint:
        reason = f"the transcript names {stated}, and the data are {manifest.fingerprint}"
        yield compared(name, title, "no", reason, Evidence("data/manifest.json"))
        return
    reason = f"{documents:,} documents, fingerprint {manifest.fingerprint}"
    yield compared(name, title, "yes", reason, Evidence("data/manifest.json"))
    yield _rebuilt(release, manifest.fingerprint, read_sources)


def _rebuilt(release: Release, fingerprint: str, read_sources: bool) -> Row:
    title, name = "The data come out the same when they are made from their source", "verify.data_rebuilt"
    recipe = release.run.read_recipe()
    if recipe.data.source != "python-stdlib" and not read_sources:
        reason = (
            f"its source ({recipe.data.source}) is elsewhere; --read-sources lets the recipe name files to read here"
        )
        return Row(name, "impact", title, "unknown", Grade.PRESENT, reason)
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "data"
        try:
            made = prepare(recipe.data, recipe.model.vocab_size, again)
        except UserError as error:
            return Row(name, "impact", title, "unknown", Grade.PRESENT, f"the source is not at hand: {error}")
        if made.fingerprint == fingerprint:
            reason = f"documents, tokenizer and shards are the same: {made.source}"
            return redone(name, title, "yes", reason, Evidence("data/manifest.json"))
        theirs = read_manifest(release.data).versions
        changed = [
            f"{key} {value} -> {made.versions.get(key)}"
            for key, value in theirs.items()
            if made.versions.get(key) != value
        ]
    why = f"this machine differs: {', '.join(changed)}" if changed else "with the same versions"
    answer: Answer = "unknown" if changed else "no"
    return Row(name, "impact", title, answer, Grade.PRESENT, f"another fingerprint came out; {why}", ())


Verdict = Literal["PASSED", "WARNED", "FAILED"]


def verdict(rows: tuple[Row, ...]) -> Verdict:
    """One word, of in-toto's three: WARNED where something that was to be decided could not be."""
    answers = {row.answer for row in rows}
    return "FAILED" if answers & {"no", "partly"} else "WARNED" if answers & {"unknown", "not applicable"} else "PASSED"


def as_statement(root: str, rows: tuple[Row, ...], environment: dict[str, Any], nonce: str) -> dict[str, Any]:
    """An in-toto statement of the result, to be signed and added to the release: predicate ``test-result``."""
    passed = [row.id for row in rows if row.answer == "yes"]
    failed = [row.id for row in rows if row.answer in ("no", "partly")]
    skipped = [row.id for row in rows if row.answer in ("unknown", "not applicable")]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": listing.MANIFEST, "digest": {"sha256": root}}],
        "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "predicate": {
            "result": verdict(rows),
            "configuration": [
                {"name": "clearseek verify", "digest": {"sha256": hashlib.sha256(nonce.encode()).hexdigest()}}
            ],
            "passedTests": passed,
            "failedTests": failed,
            "warnedTests": skipped,
            "environment": environment,
            "nonce": nonce,
        },
    }
