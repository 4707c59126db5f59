"""Conversations to packs: rows of one length, each of whole conversations that do not see each other.

A conversation is seldom as long as the model's context, and computing on padding is waste. So conversations are packed,
once, by *best fit decreasing*: the longest first, each into the fullest row that still has room, or into a new one
(Johnson, "Near-optimal bin packing algorithms", 1973: at most 11/9 of the fewest rows, and 6/9 of a row). Nothing is
cut unless `sft.too_long` says so, and a model sees each conversation as if it were alone: attention ends and positions
restart where it begins (DeepSeek-V3 report, section 5.1: "a sample masking strategy").

*A pack is a window*: a row has exactly the inputs of a sequence and its look-ahead, so the order of batches is the
loader's. Conversations fill no more than `sequence_length` + 1 tokens, of which the last is only a target; the rest is
padding, a document of its own.

Content decides everything, as for documents (:mod:`clearseek.data.shards`): duplicates are dropped, the hash of a
conversation holds it out, and rows follow from the set of conversations. Neither the order of lines nor the names of
files change a token.

Folder: ``train-00000.bin`` ... and ``heldout-00000.bin`` ... (token ids, as a stream's), beside each a file ``.mask``
(uint8: 0 read only, 1 learnt, 2 padding) and a file ``.starts`` (uint16, or uint32 for rows above 65,536 tokens: place
in the row of the first token of each token's conversation), ``tokenizer.json``, ``documents.jsonl`` with the row and
place of each conversation, and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import platform
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import clearseek
from clearseek.config import DataConfig, ProblemsConfig, SftConfig
from clearseek.data import shards
from clearseek.data.loader import CONTEXT, LEARNT, PADDING, Part, Stream
from clearseek.data.manifest import (
    FORMAT,
    SPLITS,
    FileEntry,
    Manifest,
    PackedEntry,
    PackEntry,
    Remarks,
    Split,
    SplitEntry,
    check_lists,
    documents_sha256,
    pack_fingerprint,
    read_documents,
    read_manifest,
)
from clearseek.data.scan import split_of
from clearseek.data.sources import Tally
from clearseek.data.tokenizer import PAD, Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_folder, sha256_file


class Example(NamedTuple):
    """A conversation as tokens."""

    id: str
    """Where it comes from: a file's name and line, or a problem's number."""
    ids: Sequence[int]
    written: Sequence[bool]
    """Of each token, whether a model learns to write it. The first is never learnt: nothing stands before it."""
    source: str
    licence: str


@dataclass
class Reading(Tally):
    """What a reading of conversations left out, and how often texts spell a special token."""

    passed_over: Counter[str] = field(default_factory=Counter)
    """Numbers of entries that the patterns passed over, by cause."""
    spelled: int = 0


class _Kept(NamedTuple):
    sha256: str
    id: str
    first: int
    """Place of the first token among all that are kept."""
    tokens: int
    learnt: int
    bytes: int
    source: str
    licence: str


class _Conversations:
    """The distinct conversations that fit into a row; five bytes of memory a token."""

    def __init__(self, room: int, sft: SftConfig, tokenizer: Tokenizer) -> None:
        self._room, self._sft, self._tokenizer = room, sft, tokenizer
        self.ids, self.written = array("I"), bytearray()
        self.kept: dict[str, _Kept] = {}
        self.duplicates = self.too_long = self.cropped = self.longest = 0

    def add(self, example: Example) -> None:
        """Keep a conversation. Raises UserError for one without anything to learn, or too long where that is refused"""
        ids, written = list(example.ids), [False, *map(bool, example.written[1:])]
        assert len(ids) == len(written)
        if not any(written):
            raise UserError(f"{example.id}: no token to learn: give an answer of the assistant")
        self.longest = max(self.longest, len(ids))
        if len(ids) > self._room:
            if self._sft.too_long == "refuse":
                raise UserError(
                    f"{example.id}: {len(ids):,} tokens, and data.sequence_length = {self._room - 1} takes "
                    f'{self._room:,}: raise it, or say sft.too_long = "skip" or "crop"'
                )
            if self._sft.too_long == "skip" or not any(written[: self._room]):
                self.too_long += 1
                return
            self.cropped += 1
            ids, written = ids[: self._room], written[: self._room]
        sha256, size = content_of(ids, written, self._tokenizer)
        if sha256 in self.kept:
            self.duplicates += 1
            return
        self.kept[sha256] = _Kept(
            sha256, example.id, len(self.ids), len(ids), sum(written), size, example.source, example.licence
        )
        self.ids.extend(ids)
        self.written.extend(written)


def content_of(ids: Sequence[int], written: Sequence[bool], tokenizer: Tokenizer) -> tuple[str, int]:
    """SHA-256 of a conversation's texts, special tokens and what of them is learnt; bytes of the texts.

    The same for every tokenizer: tokens between special ones count as their text.
    """
    pieces: list[tuple[str, str, bool]] = []
    size = 0
    for (special, own), group in itertools.groupby(
        zip(ids, written, strict=True), lambda pair: (pair[0] if pair[0] in tokenizer.added else None, pair[1])
    ):
        run = [token for token, _ in group]
        if special is None:
            text = tokenizer.decode(run)
            size += len(text.encode())
            pieces.append(("text", text, own))
        else:
            pieces += [("special", tokenizer.token_of(special) or "", own)] * len(run)
    return hashlib.sha256(json.dumps(pieces, separators=(",", ":")).encode()).hexdigest(), size


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Rows of indices into `sizes` (descending, none above `room`): each goes where the least room is left.

    Rows by the room that is left are a bit each of one number, so the fullest row with room for n tokens is the lowest
    bit from n on: the time is that of n log n for the usual sizes of a row.
    """
    assert all(a >= b for a, b in itertools.pairwise(sizes)) and (not sizes or 0 < sizes[0] <= room)
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}
    present = 0
    for index, size in enumerate(sizes):
        fitting = present >> size
        if fitting:
            left = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[left].pop()
            if not open_rows[left]:
                present &= ~(1 << left)
        else:
            left, row = room, len(rows)
            rows.append([])
        rows[row].append(index)
        if left > size:
            open_rows.setdefault(left - size, []).append(row)
            present |= 1 << (left - size)
    return rows


def prepare_packs(
    examples: Iterable[Example], tokenizer: Tokenizer, config: DataConfig, sft: SftConfig, lookahead: int,
    vocab_size: int, out: str | Path, *, source: str, reading: Reading | None = None,
    problems: ProblemsConfig | None = None, progress: shards.Progress | None = None,
) -> Manifest:  # fmt: skip
    """Make the folder `out` of packed conversations, or check and reuse it when it holds the same.

    Args:
        examples: The conversations, which are read once.
        tokenizer: Whose ids they are.
        config: `sequence_length`, `held_out_fraction`, and what the manifest says of the source.
        sft: What a conversation that is longer than a row does, and what the manifest says of the lines' form.
        lookahead: Tokens after a row's inputs: 1 for the next token, one more for each MTP module.
        vocab_size: Ids of the model.
        out: The folder to make, which appears whole or not at all.
        source: Kind of source.
        reading: What the reading of `examples` counts.
        problems: The problems whose solutions `examples` are.
        progress: Callback for the work done so far.

    Raises:
        UserError: what `examples` raises; a conversation is too long, or has nothing to learn; one split stays empty;
            `out` holds something else or is damaged, or the disk is full.
    """
    out, reading, report = Path(out), reading or Reading(), progress or (lambda stage, done, total: None)
    room = config.sequence_length + 1
    found = _Conversations(room, sft, tokenizer)
    for number, example in enumerate(examples, 1):
        found.add(example)
        report("conversations", number, 0)
    splits = _split(found, config.held_out_fraction, reading)
    entries = [entry for split in SPLITS for entry in _packed(splits[split], room, split)]
    row = config.sequence_length + lookahead
    listed = documents_sha256((entry.sha256, entry.split) for entry, _ in entries)
    fingerprint = pack_fingerprint(listed, tokenizer.sha256, row, room)
    if out.exists():
        if not out.is_dir():
            raise UserError(f"{out}: is a file: choose a folder")
        return shards.reuse(out, fingerprint)
    token_bytes, start_bytes = _width(vocab_size), _width(row)
    counts = {split: [entry for entry, _ in entries if entry.split == split] for split in SPLITS}
    with atomic_folder(out) as folder:
        tokenizer.save(folder / "tokenizer.json")
        lines = (entry.model_dump_json() + "\n" for entry, _ in entries)
        (folder / "documents.jsonl").write_text("".join(lines), encoding="utf-8")
        for split in SPLITS:
            rows = itertools.groupby((pair for pair in entries if pair[0].split == split), lambda pair: pair[0].row)
            for number, members in rows:
                content = _row(members, found, row, tokenizer, token_bytes, start_bytes)
                _append(folder, split, number, content)
        manifest = Manifest(
            format=FORMAT, fingerprint=fingerprint, inputs=fingerprint, source=source,
            licences=dict(Counter(entry.licence for entry, _ in entries)), config=config, vocab_size=vocab_size,
            token_bytes=token_bytes, duplicates=found.duplicates, skipped=tuple(reading.skipped),
            train=_counts(folder, "train", counts["train"]), heldout=_counts(folder, "heldout", counts["heldout"]),
            tokenizer_sha256=tokenizer.sha256, files=tuple(map(_file, sorted(folder.iterdir()))),
            versions=_versions(), remarks=_remarks(reading),
            packs=PackEntry(
                row=row, room=room, start_bytes=start_bytes,
                rows={split: len({entry.row for entry in counts[split]}) for split in SPLITS},
                learnt={split: sum(entry.learnt for entry in counts[split]) for split in SPLITS},
                longest=found.longest, too_long=found.too_long, cropped=found.cropped, spelled=reading.spelled,
                sft=sft, problems=problems,
            ),
        )  # fmt: skip
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _file(path: Path) -> FileEntry:
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _versions() -> dict[str, str]:
    python, library = platform.python_version(), version("tokenizers")
    return {"clearseek": clearseek.__version__, "python": python, "tokenizers": library}


def _remarks(reading: Reading) -> Remarks:
    return Remarks(
        unusable=dict(reading.unusable), passed_over=dict(reading.passed_over), rowless=reading.rowless,
    )  # fmt: skip


def _split(found: _Conversations, held_out_fraction: float, reading: Reading) -> dict[Split, list[_Kept]]:
    """Conversations of each split, the longest first, equal ones by their hashes. Raises UserError for an empty one."""
    splits: dict[Split, list[_Kept]] = {split: [] for split in SPLITS}
    for kept in sorted(found.kept.values(), key=lambda each: (-each.tokens, each.sha256)):
        splits[split_of(kept.sha256, held_out_fraction)].append(kept)
    if splits["train"] and (splits["heldout"] or not held_out_fraction):
        return splits
    left_out = Counter({"duplicates": found.duplicates, "too long": found.too_long}) + reading.unusable
    why = ", ".join(f"{count} {cause}" for cause, count in left_out.items()) or "none"
    total = len(found.kept)
    if not total:
        raise UserError(f"no conversations (left out: {why}): check data.paths")
    smallest = math.ceil(min(int(sha256[:16], 16) for sha256 in found.kept) / 2**64 * 1000 + 1e-9) / 1000
    works = f"{smallest} is the smallest that works; " * (total > 1 and smallest < 1.0)
    raise UserError(
        f"data.held_out_fraction = {held_out_fraction} leaves {len(splits['train'])} for training and "
        f"{len(splits['heldout'])} held out of {total} conversations (left out: {why}): add some; {works}0 holds out "
        "none"
    )


def _packed(kept: Sequence[_Kept], room: int, split: Split) -> Iterator[tuple[PackedEntry, int]]:
    """The list's lines of a split in the order of its rows, with each conversation's place among those kept."""
    for row, members in enumerate(best_fit([each.tokens for each in kept], room)):
        first = 0
        for each in (kept[index] for index in members):
            entry = PackedEntry(
                id=each.id, sha256=each.sha256, bytes=each.bytes, licence=each.licence, source=each.source,
                split=split, tokens=each.tokens, fim=False, row=row, first=first, learnt=each.learnt,
            )  # fmt: skip
            first += each.tokens
            yield entry, each.first


def _width(numbers: int) -> Literal[2, 4]:
    return 2 if numbers <= 2**16 else 4


def _row(
    members: Iterable[tuple[PackedEntry, int]], found: _Conversations, row: int, tokenizer: Tokenizer,
    token_bytes: int, start_bytes: int,
) -> dict[Part, bytes]:  # fmt: skip
    """The bytes of one row in each kind of file."""
    padding = tokenizer.eos_id if (pad := tokenizer.find(PAD)) is None else pad
    tokens = np.full(row, padding, dtype=f"<u{token_bytes}")
    mask, starts = np.full(row, PADDING, dtype=np.uint8), np.zeros(row, dtype=f"<u{start_bytes}")
    end = 0
    for entry, place in members:
        here, end = slice(entry.first, entry.first + entry.tokens), entry.first + entry.tokens
        tokens[here] = found.ids[place : place + entry.tokens]
        written = np.frombuffer(found.written[place : place + entry.tokens], dtype=np.uint8)
        mask[here] = np.where(written, LEARNT, CONTEXT)
        starts[here] = entry.first
    starts[end:] = end
    return {"bin": tokens.tobytes(), "mask": mask.tobytes(), "starts": starts.tobytes()}


def _append(folder: Path, split: Split, number: int, content: dict[Part, bytes]) -> None:
    """Append a row to its shard, which holds as many rows as it takes."""
    per_shard = max(1, shards.SHARD_BYTES // len(content["bin"]))
    for part, data in content.items():
        with (folder / f"{split}-{number // per_shard:05d}.{part}").open("ab") as file:
            file.write(data)


def _counts(folder: Path, split: Split, entries: Sequence[PackedEntry]) -> SplitEntry:
    return SplitEntry(
        documents=len(entries), bytes=sum(entry.bytes for entry in entries),
        tokens=sum(entry.tokens for entry in entries),
        shards=tuple(sorted(path.name for path in folder.glob(f"{split}-*.bin"))),
    )  # fmt: skip


def check_packs(folder: Path, wanted: Callable[[int], bool] = lambda number: True) -> int:
    """Count the list of conversations again, and read conversations out of the rows, with what of them is learnt.

    Arguments, result and errors are those of :func:`clearseek.data.decode.check_documents`.
    """
    manifest, tokenizer = read_manifest(folder), Tokenizer.load(folder / "tokenizer.json")
    check_lists(manifest, read_documents(folder), tokenizer.sha256)
    assert manifest.packs is not None
    row, streams = manifest.packs.row, {split: _streams(folder, split, manifest.packs) for split in SPLITS}
    count = 0
    ends: dict[tuple[Split, int], int] = {}
    for number, entry in enumerate(read_documents(folder)):
        assert isinstance(entry, PackedEntry)
        where = f"{entry.id!r:.100}"
        if entry.first != ends.get((entry.split, entry.row), 0) or entry.first + entry.tokens > manifest.packs.room:
            raise UserError(f"documents.jsonl: {where} does not stand behind its neighbour in row {entry.row}")
        ends[entry.split, entry.row] = entry.first + entry.tokens
        if not wanted(number):
            continue
        begin = entry.row * row + entry.first
        tokens, mask, starts = (part[begin : begin + entry.tokens] for part in streams[entry.split])
        if len(tokens) != entry.tokens or (starts != entry.first).any() or (mask >= PADDING).any():
            raise UserError(f"the masks or starts of {where} differ from its place in the list")
        written = (mask == LEARNT).tolist()
        found = (*content_of(tokens.tolist(), written, tokenizer), sum(written))
        if found != (entry.sha256, entry.bytes, entry.learnt):
            raise UserError(f"the tokens of {where} belong to another conversation than the list's")
        count += 1
    return count


def _streams(folder: Path, split: Split, packs: PackEntry) -> list[Stream]:
    """A split's files. Raises UserError where they are not of as many rows, or more is learnt than is listed."""
    parts: tuple[Part, ...] = ("bin", "mask", "starts")
    streams = [Stream(folder, split, part) for part in parts]
    if any(len(stream) != packs.rows[split] * packs.row for stream in streams):
        raise UserError(f"the {split} files are not of {packs.rows[split]:,} rows of {packs.row:,} tokens")
    mask = streams[1]
    learnt = sum(int((mask[at : at + 2**20] == LEARNT).sum()) for at in range(0, len(mask), 2**20))
    if learnt != packs.learnt[split]:
        raise UserError(f"the {split} masks have {learnt:,} tokens to learn, and manifest.json {packs.learnt[split]:,}")
    return streams
