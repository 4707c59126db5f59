"""Verification of the model: weights exported again, logits of fixed prompts, the evaluation computed again."""

from __future__ import annotations

import tempfile
from math import inf
from pathlib import Path
from typing import Any, Final

import torch

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Grade, Row
from clearseek.data.loader import Stream
from clearseek.data.manifest import check_files, read_manifest
from clearseek.evaluate.bits import compressed_bits_per_byte, every_window, per_byte, window_count
from clearseek.evaluate.logits import CLOSE, PROMPTS, largest_difference, prompt_logits
from clearseek.files import sha256_file
from clearseek.hub.config_json import fp8_scales
from clearseek.hub.write import export_hf
from clearseek.jsontext import strict_json
from clearseek.posttrain.solved import PASS
from clearseek.reading.evidence import Evidence
from clearseek.sysfiles import system_file
from clearseek.train.checkpoints import checkpoint
from clearseek.train.preflight import settle_numerics
from clearseek.train.record import MEASURED
from clearseek.train.run import model_of
from clearseek.verify.replay import Release, Replay
from clearseek.verify.rows import attempted

_LOGITS: Final = "evaluation/logits.json"
_HELD_OUT: Final = "evaluation/held_out.json"
_ROUNDING: Final = 1e-5
"""Largest relative difference of bits by FP32 rounding; with AVX2 or SSE for AVX-512, 2.2e-8 was measured."""
_ROUNDED: Final = "as another machine's rounding, or other code, makes"
_COMPRESSOR: Final = 0.01
"""Largest relative difference of a compressor's result: builds of zlib search differently."""


def final_row(release: Release) -> Row:
    """Row of the final weights, exported again from the last checkpoint."""
    return attempted(ask.VERIFY_FINAL, lambda: _final(release), Evidence("config.json"))


def _final(release: Release) -> Row:
    raw = strict_json((release.root / "config.json").read_bytes(), "config.json")
    scales = fp8_scales(raw, release.root / "config.json")
    saved = checkpoint.load(checkpoint.find(release.checkpoints, release.steps[-1]), checkpoint.MODEL)
    model = model_of(release.recipe, saved.tensors, torch.float32)
    dtype = torch.float8_e4m3fn if scales else torch.float32 if raw.get("dtype") == "float32" else torch.bfloat16
    with tempfile.TemporaryDirectory() as folder:
        again = Path(folder) / "again"
        tokenizer = release.root / "tokenizer.json"
        export_hf(model.state_dict(), release.recipe.model, tokenizer, again, dtype, scales=scales or "float")
        for file in sorted([*again.glob("*.safetensors"), again / "config.json"]):
            if sha256_file(file) != sha256_file(release.root / file.name):
                reason = f"{file.name} is not what the checkpoint of step {saved.step} gives"
                return ask.VERIFY_FINAL.no(Grade.CLAIMED, reason, Evidence(file.name))
        there = {path.name for path in release.root.glob("*.safetensors") if not system_file(path.name)}
        extra = there - {path.name for path in again.iterdir()}
    if extra:
        return ask.VERIFY_FINAL.no(Grade.CLAIMED, f"{', '.join(sorted(extra))}: more weights than the checkpoint has")
    return ask.VERIFY_FINAL.yes(
        Grade.REEXECUTED, f"exported again from step {saved.step}: the same bytes", Evidence("config.json")
    )


def logits_row(release: Release) -> Row:
    """Row of the logits of fixed prompts, from the final weights."""
    if not (release.root / _LOGITS).is_file():
        return ask.VERIFY_LOGITS.not_applicable(f"the release has no {_LOGITS}")
    return attempted(ask.VERIFY_LOGITS, lambda: _logits(release), Evidence(_LOGITS))


def _logits(release: Release) -> Row:
    settle_numerics(release.recipe.train.threads, "cpu")
    stated = strict_json((release.root / _LOGITS).read_bytes(), _LOGITS)
    difference = largest_difference(stated, prompt_logits(release.root))
    place = Evidence(_LOGITS)
    if difference == 0.0:
        return ask.VERIFY_LOGITS.yes(Grade.REEXECUTED, f"{len(PROMPTS)} prompts, every logit to the bit", place)
    reason = f"the largest difference of a logit is {difference:.3g}"
    if difference <= CLOSE:
        return ask.VERIFY_LOGITS.unknown(Grade.PRESENT, f"{reason}: {_ROUNDED}", place)
    return ask.VERIFY_LOGITS.no(Grade.CLAIMED, reason, place)


def evaluation_row(replay: Replay) -> Row:
    """Row of the evaluation: the bits of every held-out window, or what the run itself measured, from the weights."""
    release = replay.release
    if not (release.root / _HELD_OUT).is_file():
        return ask.VERIFY_EVALUATION.not_applicable(f"the release has no {_HELD_OUT}")
    return attempted(ask.VERIFY_EVALUATION, lambda: _evaluation(replay), Evidence(_HELD_OUT))


def _evaluation(replay: Replay) -> Row:
    place, release = Evidence(_HELD_OUT), replay.release
    stated = strict_json((release.root / _HELD_OUT).read_bytes(), _HELD_OUT)
    if "measured" in stated:
        return _measured(replay, {name: float.fromhex(text) for name, text in stated["measured"].items()})
    problem, worst, score = _evaluate(release, stated)
    if problem is not None:
        return ask.VERIFY_EVALUATION.no(Grade.CLAIMED, problem, place)
    if worst:
        reason = f"a window's bits differ by up to {worst:.2g} of themselves"
        return ask.VERIFY_EVALUATION.unknown(Grade.PRESENT, f"{reason}: {_ROUNDED}", place)
    return ask.VERIFY_EVALUATION.yes(Grade.REEXECUTED, f"every window to the bit: {score:.4f} bits per byte", place)


def _measured(replay: Replay, stated: dict[str, float]) -> Row:
    """Row of what a tuning measures after its last step: answers' nats, or the share of problems that are solved."""
    place, release = Evidence(_HELD_OUT), replay.release
    last = release.steps[-1]
    said = {name: value for name, value in release.record(last).scalars.items() if name.startswith(MEASURED)}
    if said != stated:
        return ask.VERIFY_EVALUATION.no(Grade.CLAIMED, "not the figures of the transcript's last line", place)
    training = replay.at(last)
    found = training.task.evaluate(training.model, last)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(found.items()))
    if found == stated:
        return ask.VERIFY_EVALUATION.yes(Grade.REEXECUTED, f"every figure to the bit: {shown}", place)
    low, high = (found.get(f"{PASS}_{end}", 0.0) for end in ("low", "high"))
    for name in sorted(found.keys() | stated.keys()):
        ours, theirs = found.get(name, inf), stated.get(name, inf)
        near = low <= theirs <= high if name == PASS else abs(ours - theirs) <= _ROUNDING * abs(ours)
        if not near and not name.startswith(f"{PASS}_"):
            return ask.VERIFY_EVALUATION.no(
                Grade.CLAIMED, f"{name} is {ours:.4f}, and the file says {theirs:.4f}", place
            )
    return ask.VERIFY_EVALUATION.unknown(Grade.PRESENT, f"{shown}: near what the file says, {_ROUNDED}", place)


def _evaluate(release: Release, stated: dict[str, Any]) -> tuple[str | None, float, float]:
    """First contradiction or None, largest relative difference that rounding explains, and bits per byte found."""
    recipe, manifest = release.recipe, read_manifest(release.data)
    check_files(release.data, manifest)
    settle_numerics(recipe.train.threads, "cpu")
    saved = checkpoint.load(checkpoint.find(release.checkpoints, release.steps[-1]), checkpoint.MODEL)
    model = model_of(recipe, saved.tensors, torch.float32)
    tokens = Stream(release.data, "heldout")
    length = recipe.data.sequence_length
    count, worst = window_count(len(tokens), length), 0.0
    if count == 0 or count != len(stated["windows"]):
        return f"the data have {count} windows, and the file {len(stated['windows'])}", 0.0, 0.0
    windows = every_window(model, tokens, length)
    for index, (said, (bits, number)) in enumerate(zip(stated["windows"], windows, strict=True)):
        if said == {"bits": bits.hex(), "tokens": number}:
            continue
        away = abs(float.fromhex(said["bits"]) - bits)
        if said["tokens"] != number or not away <= _ROUNDING * bits:
            return f"window {index}: {bits.hex()} bits for {number} tokens, and the file says {said}", 0.0, 0.0
        worst = max(worst, away / bits)
    text = (release.data / "heldout.txt").read_bytes() if (release.data / "heldout.txt").is_file() else b""
    if text and len(text) != manifest.heldout.bytes:
        return f"heldout.txt has {len(text):,} bytes, and the manifest counts {manifest.heldout.bytes:,}", 0.0, 0.0
    score = per_byte(windows, tokens, manifest.heldout.bytes)
    figures = {"bits_per_byte": (stated["bits_per_byte"], score, _ROUNDING)}
    for name, ours in compressed_bits_per_byte(text).items():
        figures[name] = (stated["compressors"][name], ours, _COMPRESSOR)
    for name, (theirs, ours, tolerance) in figures.items():
        if not abs(theirs - ours) <= tolerance * ours:
            return f"{name} is {ours:.4f}, and the file says {theirs}", 0.0, 0.0
    return None, worst, score
