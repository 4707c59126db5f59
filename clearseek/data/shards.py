"""Documents to token shards: read, split, tokenise, write, describe.

Content decides everything. A document is held out when the first eight bytes of its SHA-256, as a fraction of 2^64, lie
below `held_out_fraction`: adding or renaming documents moves no other document across. Exact duplicates are dropped
first, so no held-out document is also trained on. The tokenizer learns from training documents only. In the shards
every document is ``<bos> tokens <eos>``, one after another without padding (DeepSeek-V3 packs so too, without masking
across documents: report, section 4.1). The sources are read twice, first to check and count, then to tokenise: nothing
is written before all input is known to be good, and memory holds one batch of documents and 16 bytes of each document.

Folder: ``train-00000.bin`` ... and ``heldout-00000.bin`` ... (token ids, little-endian uint16, or uint32 for more than
65,536 tokens), ``train.offsets`` and ``heldout.offsets`` (int64: first token of each document, end of the last),
``heldout.txt`` (the held-out documents' bytes, for comparison with other compressors), ``tokenizer.json``,
``documents.jsonl`` and ``manifest.json``.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

import clearseek
from clearseek.config import DataConfig
from clearseek.data import tokenizer as tokenizers
from clearseek.data.find import home
from clearseek.data.manifest import (
    FORMAT,
    SPLITS,
    DocumentEntry,
    FileEntry,
    Manifest,
    Remarks,
    Split,
    SplitEntry,
    canonical_sha256,
    check_files,
    content_of,
    fingerprint_of,
    read_manifest,
)
from clearseek.data.scan import Scan
from clearseek.data.scan import scan as read_once
from clearseek.data.sources import Document, Source, open_source
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_folder, reading, sha256_bytes, sha256_file

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total): "read" counts documents (total 0: unknown), "tokenizer" and "tokenise" bytes."""

SHARD_BYTES = 512 * 2**20
"""Size at which a shard is full."""
BATCH_BYTES = 4 * 2**20
"""Text tokenised at once."""
_DOCUMENT_OVERHEAD = 1024
"""Approximate bytes of memory that tokenising a document takes besides its text."""
TOKENIZER_SAMPLE_BYTES = 64 * 2**20
"""Bytes of training text for the tokenizer; of a larger corpus, the documents with the smallest hashes."""
_FIM_MARKS = (tokenizers.FIM_BEGIN, tokenizers.FIM_HOLE, tokenizers.FIM_END)


def prepare_data(
    config: DataConfig, vocab_size: int, out: str | Path, progress: Progress | None = None, base: Path | None = None
) -> Manifest:
    """Make the data folder `out`, or check and reuse it when it was made from the same inputs.

    Args:
        config: Source and settings.
        vocab_size: Size of the tokenizer to train; an existing one (`config.tokenizer`) may be smaller.
        out: The folder to make, which appears whole or not at all.
        progress: Callback for the work done so far.
        base: Folder from which relative paths in `config` start; the working directory by default.

    Raises:
        UserError: the text or tokenizer is unusable, `out` holds something else or is damaged, or the disk is full.
    """
    out = Path(out)
    base, report = base or Path.cwd(), progress or (lambda stage, done, total: None)
    source = open_source(config, base)
    given = Tokenizer.load(base / home(config.tokenizer)) if config.tokenizer else None
    if given and given.vocab_size > vocab_size:
        raise UserError(
            f"{config.tokenizer}: {given.vocab_size} tokens, more than model.vocab_size = {vocab_size}: raise "
            "model.vocab_size"
        )
    if given and config.fim_rate:
        for mark in _FIM_MARKS:
            given.id_of(mark)  # raises now rather than after reading
    source, scan = read_once(source, config.held_out_fraction, lambda count: report("read", count, 0))
    inputs = canonical_sha256(
        {**content_of(config, scan.sha256), "vocab_size": vocab_size, "tokenizer": given.sha256 if given else None}
    )
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file: choose a folder")
    if out.exists():
        return reuse(out, inputs)
    tokenizer = given or _train(source, scan, vocab_size, report)
    token_bytes: Literal[2, 4] = 2 if vocab_size <= 2**16 else 4
    with atomic_folder(out) as folder:
        tokenizer.save(folder / "tokenizer.json")
        writer = _Writer(folder, token_bytes)
        _tokenise(source, scan, config, tokenizer, writer, report)
        splits = writer.finish()
        files = [
            FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
            for path in sorted(folder.iterdir())
        ]
        manifest = Manifest(
            format=FORMAT,
            fingerprint=fingerprint_of(config, scan.sha256, tokenizer.sha256, token_bytes),
            inputs=inputs,
            source=source.name,
            licences={source.licence: sum(split.documents for split in splits.values())},
            config=config,
            vocab_size=vocab_size,
            token_bytes=token_bytes,
            duplicates=scan.duplicates,
            skipped=tuple(scan.tally.skipped),
            train=splits["train"],
            heldout=splits["heldout"],
            tokenizer_sha256=tokenizer.sha256,
            files=tuple(files),
            versions={
                "clearseek": clearseek.__version__,
                "python": platform.python_version(),
                "tokenizers": version("tokenizers"),
            },
            remarks=_remarks(source, scan, 0 if given or tokenizer.vocab_size == vocab_size else tokenizer.vocab_size),
        )
        (folder / "manifest.json").write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return manifest


def _remarks(source: Source, scan: Scan, vocabulary: int) -> Remarks:
    return Remarks(
        unusable=dict(scan.tally.unusable), passed_over=dict(source.passed_over), as_text=dict(scan.tally.as_text),
        rowless=scan.tally.rowless, part_bytes=source.part_bytes, vocabulary=vocabulary,
    )  # fmt: skip


def held_out_bytes(folder: Path) -> bytes:
    """The held-out documents' bytes, one after another. Raises UserError when the file is not the manifest's."""
    entry = next(entry for entry in read_manifest(folder).files if entry.name == "heldout.txt")
    path = folder / entry.name
    with reading(path, "prepare the data again"):
        content = path.read_bytes()
    if sha256_bytes(content) != entry.sha256:
        raise UserError(f"{path}: changed file: delete {folder} and prepare the data again")
    return content


def reuse(out: Path, inputs: str) -> Manifest:
    """The manifest of a folder that was made before. Raises UserError where it has other inputs, or is damaged."""
    manifest = read_manifest(out)
    if manifest.inputs != inputs:
        raise UserError(
            f"{out}: holds data prepared from other documents or settings: delete it, or choose another folder"
        )
    check_files(out, manifest)
    return manifest


def _train(source: Source, scan: Scan, vocab_size: int, report: Progress) -> Tokenizer:
    wanted, total = scan.sample(TOKENIZER_SAMPLE_BYTES)
    report("tokenizer", 0, total)
    sample = (document.text for document, split in scan.again(source) if split == "train" and wanted(document.sha256))
    tokenizer = tokenizers.train(sample, vocab_size)
    report("tokenizer", total, total)
    return tokenizer


def _tokenise(
    source: Source, scan: Scan, config: DataConfig, tokenizer: Tokenizer, writer: _Writer, report: Progress
) -> None:
    total = scan.bytes
    done = size = 0
    batch: list[tuple[Document, Split]] = []
    for document, split in scan.again(source):
        batch.append((document, split))
        size += document.bytes
        if size + len(batch) * _DOCUMENT_OVERHEAD >= BATCH_BYTES:
            _write_batch(batch, config, tokenizer, writer)
            done, size, batch = done + size, 0, []
            report("tokenise", done, total)
    _write_batch(batch, config, tokenizer, writer)
    report("tokenise", total, total)


def _write_batch(
    batch: list[tuple[Document, Split]], config: DataConfig, tokenizer: Tokenizer, writer: _Writer
) -> None:
    """Tokenise documents together and write each: ``bos text eos``, or rearranged (:func:`rearranged`)."""
    pieces: list[tuple[str, ...]] = []
    for document, split in batch:
        rate = config.fim_rate if split == "train" else 0.0
        cut = rearranged(document.text, document.sha256, rate, config.seed)
        pieces.append((cut[0], cut[2], cut[1]) if cut else (document.text,))
    encoded = iter(tokenizer.encode_batch([piece for group in pieces for piece in group]))
    bos, eos = [tokenizer.bos_id], [tokenizer.eos_id]
    for (document, split), group in zip(batch, pieces, strict=True):
        fim = len(group) == 3
        if fim:
            marks = [tokenizer.id_of(mark) for mark in _FIM_MARKS]
            ids = bos + [i for mark in marks for i in (mark, *next(encoded))] + eos
        else:
            ids = bos + next(encoded) + eos
        writer.add(document, split, fim, ids)
    writer.flush()


def rearranged(text: str, sha256: str, rate: float, seed: int) -> tuple[str, str, str] | None:
    """Prefix, middle and suffix of a document for fill in the middle, or None for an unchanged document.

    A model that only continues text cannot complete a gap, so DeepSeek-V3 (report, section 4.1) rearranges a tenth of
    its documents before packing: ``<fim_begin> prefix <fim_hole> suffix <fim_end> middle <eos>`` (PSM, after Bavarian
    et al., 2022, arXiv:2207.14255). The seed and the document's own hash decide whether and where a document is cut:
    neither order nor neighbours matter.

    Args:
        text: The document, cut between characters at two places that are each uniform over the text.
        sha256: Hex digest of its bytes.
        rate: Share of documents to rearrange, 0 to 1.
        seed: Another seed chooses other documents and places.
    """
    draws = hashlib.sha256(f"fim {seed} {sha256}".encode()).digest()
    chance, *places = (int.from_bytes(draws[at : at + 8], "big") for at in (0, 8, 16))
    if chance >= rate * 2**64:
        return None
    first, second = sorted(place * (len(text) + 1) >> 64 for place in places)
    return text[:first], text[first:second], text[second:]


class _Writer:
    """Appends documents to a folder's shards, document list and held-out text, a batch at a time."""

    def __init__(self, folder: Path, token_bytes: int) -> None:
        self._folder = folder
        self._dtype = np.dtype(f"<u{token_bytes}")
        self._counts = {split: Counter(documents=0, bytes=0, tokens=0) for split in SPLITS}
        self._pending: dict[str, bytearray] = {"documents.jsonl": bytearray(), "heldout.txt": bytearray()}
        self._pending |= {f"{split}.offsets": bytearray(8) for split in SPLITS}

    def add(self, document: Document, split: Split, fim: bool, ids: list[int]) -> None:
        """Add one document, which `flush` will write."""
        entry = DocumentEntry(
            id=document.id, sha256=document.sha256, bytes=document.bytes, licence=document.licence,
            source=document.source, split=split, tokens=len(ids), fim=fim,
        )  # fmt: skip
        self._pending["documents.jsonl"] += entry.model_dump_json().encode() + b"\n"
        if split == "heldout":
            self._pending["heldout.txt"] += document.text.encode()
        position = self._counts[split]["tokens"]
        self._counts[split].update(documents=1, bytes=document.bytes, tokens=len(ids))
        self._pending[f"{split}.offsets"] += (position + len(ids)).to_bytes(8, "little")
        tokens, per_shard = np.array(ids, dtype=self._dtype), SHARD_BYTES // self._dtype.itemsize
        while len(tokens):
            name, room = f"{split}-{position // per_shard:05d}.bin", per_shard - position % per_shard
            self._pending.setdefault(name, bytearray()).extend(tokens[:room].tobytes())
            position, tokens = position + room, tokens[room:]

    def flush(self) -> None:
        """Append the added documents to the files."""
        for name, content in self._pending.items():
            with (self._folder / name).open("ab") as file:
                file.write(content)
            content.clear()

    def finish(self) -> dict[Split, SplitEntry]:
        """Counts and shards of each split, once all documents are flushed."""
        return {
            split: SplitEntry(
                **self._counts[split], shards=tuple(sorted(path.name for path in self._folder.glob(f"{split}-*.bin")))
            )
            for split in SPLITS
        }
