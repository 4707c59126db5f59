"""Overlap: how much of the evaluation's data stand in the training data too.

A model that was trained on its test scores what it remembers. Where both are published as tokens it can be counted:
runs of thirteen tokens of the held-out split that occur anywhere in the training split (the length that GPT-3's report
took: Brown et al., 2020, appendix C). Documents share phrases, licences and headings, so some overlap is no leak; a
document most of whose runs are known is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.errors import UserError
from clearseek.reading.evidence import Evidence
from clearseek.reading.subject import Subject, attempt

RUN: Final = 13
"""Tokens of a run."""
MOSTLY: Final = 0.5
"""Share of a document's runs from which on it counts as known."""
_MANIFEST = "data/manifest.json"
_OFFSETS = "data/heldout.offsets"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def rows(subject: Subject) -> Iterator[Row]:
    """One row, where training data and evaluation data are both here as tokens."""
    if not {_MANIFEST, _OFFSETS} <= subject.source.sizes.keys():
        return
    part = attempt(lambda: _shares(subject, subject.source.json(_MANIFEST)))
    place = (Evidence(_MANIFEST),)
    if part.value is None:
        yield ask.DATA_OVERLAP.unknown(Grade.PRESENT, part.error, *place)
        return
    total, known, shares, trained_on = part.value
    leaked = [number for number, share in enumerate(shares, 1) if share > MOSTLY]
    reason = f"{known:,} of {total:,} runs of {RUN} tokens stand in the training data too ({known / max(total, 1):.1%})"
    if not total or not trained_on:
        where = "held out" if trained_on else "in the training data"
        yield ask.DATA_OVERLAP.unknown(Grade.PRESENT, f"{reason}: none is {where}", *place)
        return
    if leaked:
        listed = ", ".join(map(str, leaked[:6])) + (", …" if len(leaked) > 6 else "")
        reason += f"; {len(leaked)} of {len(shares)} held-out documents are mostly known: number {listed}"
        answer: Answer = "no" if len(leaked) > len(shares) / 2 else "partly"
        yield ask.DATA_OVERLAP.answer(answer, Grade.CLAIMED, reason, *place)
        return
    reason += f"; of no document more than {max(shares, default=0):.0%}"
    yield ask.DATA_OVERLAP.yes(Grade.CHECKED, reason, *place)


def _shares(subject: Subject, manifest: dict[str, Any]) -> tuple[int, int, list[float], int]:
    """Runs held out, how many are known, the share of each document's, runs trained on. Raises UserError."""
    source = subject.source
    splits = {split: [f"data/{name}" for name in _names(manifest, split)] for split in ("train", "heldout")}
    size = sum(source.sizes.get(path, 0) for paths in splits.values() for path in paths)
    if size > source.whole_bytes:
        raise UserError(f"{size:,} bytes of tokens are more than is read")
    kind = np.dtype("<u4" if manifest.get("token_bytes") == 4 else "<u2")
    stream = np.concatenate([_tokens(subject, path, kind) for path in splits["heldout"]])
    length, held_out = len(stream), _runs(stream)
    wanted = np.unique(held_out)
    seen = np.zeros(len(wanted), dtype=bool)
    looked_at = 0
    for path in splits["train"]:
        found = _runs(_tokens(subject, path, kind))
        looked_at += len(found)
        place = np.searchsorted(wanted, found)
        hit = (
            (place < len(wanted)) & (wanted[np.minimum(place, len(wanted) - 1)] == found) if len(wanted) else place > 0
        )
        seen[place[hit]] = True
    known = seen[np.searchsorted(wanted, held_out)]
    offsets = np.frombuffer(source.read(_OFFSETS, 8_000_000)[: source.sizes[_OFFSETS] // 8 * 8], "<i8")
    ends = len(offsets) > 1 and offsets[0] == 0 and offsets[-1] == length
    if not ends or (np.diff(offsets) < 0).any():
        raise UserError(f"{_OFFSETS}: not the places of documents")
    pieces = [known[a : max(a, b - RUN + 1)] for a, b in pairwise(offsets)]
    return len(known), int(known.sum()), [float(piece.mean()) if len(piece) else 0.0 for piece in pieces], looked_at


def _names(manifest: dict[str, Any], split: str) -> list[str]:
    held = manifest.get(split)
    names = held.get("shards") if isinstance(held, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UserError(f"{_MANIFEST}: names no shards under {split}")
    return names


def _tokens(subject: Subject, path: str, kind: np.dtype[Any]) -> NDArray[np.uint64]:
    if path not in subject.source.sizes:
        raise UserError(f"{path}: not here")
    size = subject.source.sizes[path] // kind.itemsize * kind.itemsize
    return np.frombuffer(subject.source.read(path, size), kind).astype(np.uint64)


def _runs(tokens: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A 64-bit number for each run of tokens, by where it begins."""
    count = max(0, len(tokens) - RUN + 1)
    out = np.zeros(count, dtype=np.uint64)
    for place in range(RUN):
        out = (out + tokens[place : place + count] + np.uint64(1)) * _FACTOR
        out ^= out >> np.uint64(29)
    return out
