"""Record of the FP8 checkpoint that a conversion to BF16 keeps, so that a conversion back gives the same bytes.

The record is one file, ``fp8_origin/scales.safetensors``: every scale under its own name (``..._scale_inv``, F32 or
E8M0), and as bytes the headers of the weight files (order, metadata, padding), config.json and the index, at most four
bytes for 16,384 weights. Its folder keeps it from inference engines, which load every safetensors file beside
config.json. Nothing in it is trusted: scales are tried block by block (:mod:`clearseek.hub.block_fp8`), and headers and
texts are used only if they describe exactly the present tensors. Without a record, a conversion makes new scales in a
plain order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.hub.config_json import Scales
from clearseek.hub.folder import CONFIG, INDEX, ORIGIN, SCALE_DTYPES, CheckpointFolder, JsonFile, Stored, is_weight_file
from clearseek.hub.safetensors import Header, parse_header, read_header
from clearseek.jsontext import strict_json
from clearseek.tensors import SCALE_SUFFIX, StoredTensor

FILE: Final = f"{ORIGIN}/scales.safetensors"
_MARK: Final = "clearseek-fp8-origin-1"
_HEADER: Final = "header:"
_TEXT: Final = "text:"


@dataclass(frozen=True)
class Origin:
    """The record, read."""

    scales: Scales
    old: dict[str, Stored]
    """Recorded scales by name."""
    headers: dict[str, Header]
    """Recorded headers by weight file."""
    config: JsonFile | None
    index: JsonFile | None

    def fp8_names(self) -> set[str]:
        """Names of the matrices that were in eight bits."""
        return {e.name for header in self.headers.values() for e in header.entries if e.dtype == "F8_E4M3"}

    @property
    def scale_dtype(self) -> str:
        """Type of the scales, ``F32`` or ``F8_E8M0``."""
        return next((found.entry.dtype for found in self.old.values()), "F32")

    def describes(self, tensors: dict[str, StoredTensor]) -> bool:
        """Whether the recorded headers hold exactly these tensors."""
        recorded = [entry.shaped for header in self.headers.values() for entry in header.entries]
        return len(recorded) == len(tensors) and set(recorded) == set(tensors.values())


def origin_tensors(source: CheckpointFolder) -> dict[StoredTensor, Stored | bytes]:
    """Tensors of the record of an FP8 checkpoint, each with its place there or its bytes."""
    found: dict[StoredTensor, Stored | bytes] = {
        stored.entry.shaped: stored for name, stored in source.tensors.items() if name.endswith(SCALE_SUFFIX)
    }
    parts = {_HEADER + file: header.raw for file, header in source.headers.items()}
    parts[_TEXT + CONFIG] = source.config.raw
    if source.index:
        parts[_TEXT + INDEX] = source.index.raw
    return found | {StoredTensor(name, "U8", (len(raw),)): raw for name, raw in parts.items()}


def origin_metadata(scales: Scales) -> dict[str, str]:
    """Metadata that mark the file as a record."""
    return {"format": _MARK, "scales": scales}


def read_origin(folder: Path) -> Origin | None:
    """Read the record beside a BF16 checkpoint, or None without one of ClearSeek's. Raises UserError for damage."""
    file = folder / FILE
    if not file.exists():
        return None
    header = read_header(file)
    metadata = header.metadata or {}
    if metadata.get("format") != _MARK:
        return None
    if metadata.get("scales") not in get_args(Scales):
        raise UserError(f"{file}: damaged: its metadata lack the kind of scales: delete it to compute new ones")
    old: dict[str, Stored] = {}
    parts: dict[str, bytes] = {}
    with reading(file), file.open("rb") as stream:
        for entry in header.entries:
            if entry.name.startswith((_HEADER, _TEXT)) and entry.dtype == "U8":
                stream.seek(entry.begin)
                parts[entry.name] = stream.read(entry.size)
            else:
                old[entry.name] = Stored(FILE, entry)
    headers = {
        name.removeprefix(_HEADER): parse_header(raw, None, f"{file}: {name}")
        for name, raw in parts.items()
        if name.startswith(_HEADER) and is_weight_file(name.removeprefix(_HEADER))
    }
    texts = {name: JsonFile(raw, strict_json(raw, f"{file}: {name}")) for name, raw in parts.items() if _TEXT in name}
    scales = cast(Scales, metadata["scales"])
    return Origin(scales, old, headers, texts.get(_TEXT + CONFIG), texts.get(_TEXT + INDEX))


def same_but_for(key: str, left: dict[str, Any], right: dict[str, Any]) -> bool:
    """Whether two JSON objects are equal when `key` is left out of both."""
    return {k: v for k, v in left.items() if k != key} == {k: v for k, v in right.items() if k != key}


def usable_scale(origin: Origin | None, name: str, shape: tuple[int, ...]) -> Stored | None:
    """Recorded scales of the matrix `name`, or None without scales of this shape."""
    found = origin.old.get(name + SCALE_SUFFIX) if origin else None
    fits = found is not None and found.entry.dtype in SCALE_DTYPES and found.entry.shape == shape
    return found if fits else None
