"""Checkpoint folders, opened without reading a weight: the file of each tensor, and the files beside the weights.

A checkpoint is ``config.json`` and either ``model.safetensors`` or many files with an index of each tensor's file. The
headers alone give names, types, shapes and places, so 640 GiB are checked in a second; index and headers must agree in
both directions.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clearseek.errors import UserError
from clearseek.files import reading
from clearseek.filetypes import HEAD_BYTES, UTF8_BOM, recognise
from clearseek.hub.absent import what_is_there
from clearseek.hub.config_json import Scales, fp8_scales
from clearseek.hub.safetensors import Entry, Header, read_header
from clearseek.jsontext import strict_json
from clearseek.tensors import SCALE_SUFFIX, scale_shape

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
ORIGIN: Final = "fp8_origin"
"""Folder for the record of the FP8 checkpoint in a BF16 one (hub/convert/origin.py)."""
SINGLE_OF_DEEPSEEK: Final = "model0-mp1.safetensors"
SCALE_DTYPES: Final = ("F32", "F8_E8M0")
SMALL_FILE_BYTES: Final = 64_000_000
"""Largest size of a file beside the weights that is copied."""
_READ_LIMIT = 200_000_000


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor and the file that holds it."""

    file: str
    """Path of the file, relative to the folder."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class JsonFile:
    """A JSON object, as bytes and parsed."""

    raw: bytes
    content: dict[str, Any]


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder whose headers, index and configuration have been read and agree."""

    folder: Path
    config: JsonFile
    index: JsonFile | None
    """The index, or None for a single file."""
    headers: dict[str, Header]
    """Headers by weight file, in order of name."""
    tensors: dict[str, Stored]
    """Tensors by name, in the order of the index, or of the file."""
    small_files: tuple[str, ...]
    """Other files to copy along, relative to the folder."""
    left_out: tuple[str, ...]
    """Other files that are too large to be copied along."""

    def where(self, name: str) -> str:
        """File and tensor: the beginning of a message."""
        return f"{self.folder / self.tensors[name].file}: {name}"


def open_checkpoint(folder: Path) -> CheckpointFolder:
    """Read config.json, the index and all headers.

    Raises:
        UserError: a file is missing, cut off or of another form, a header is wrong, or index and headers disagree; the
            message names file and tensor.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder: give a folder with {CONFIG} and safetensors")
    if not (folder / CONFIG).is_file():
        weights = (folder / SINGLE).is_file() or (folder / INDEX).is_file()
        says = "the weights are there" if weights else what_is_there(folder)
        raise UserError(f"{folder / CONFIG}: cannot read: no such file: fetch it; {says}")
    config = _read_json(folder / CONFIG)
    index = _read_json(folder / INDEX) if (folder / INDEX).exists() else None
    weight_map = _weight_map(folder / INDEX, index.content) if index else None
    files = sorted(set(weight_map.values())) if weight_map else [_single(folder)]
    _refuse_unlisted(folder, files, weight_map is not None)
    headers: dict[str, Header] = {}
    where: dict[str, Stored] = {}
    for file in files:
        headers[file] = read_header(folder / file)
        for entry in headers[file].entries:
            if entry.name in where:
                first = where[entry.name].file
                raise UserError(f"{folder / file}: {entry.name} is also in {first}: keep the file that is right")
            where[entry.name] = Stored(file, entry)
    if weight_map is not None:
        where = _in_index_order(folder, weight_map, where)
    small, left_out = _other_files(folder, {CONFIG, INDEX, *files})
    return CheckpointFolder(folder, config, index, headers, where, small, left_out)


def _single(folder: Path) -> str:
    """Name of the one weight file: model.safetensors, or the name that DeepSeek's convert.py gives it."""
    name = next((name for name in (SINGLE, SINGLE_OF_DEEPSEEK) if (folder / name).is_file()), None)
    if name is None:
        raise UserError(f"{folder / SINGLE}: no such file, nor {INDEX}: {what_is_there(folder)}")
    return name


def fp8_form(source: CheckpointFolder) -> Scales | None:
    """Kind of scales of a checkpoint's FP8 tensors, or None without FP8 tensors.

    The tensors decide, not config.json, in which DeepSeek's cast to BF16 (``fp8_cast_bf16.py``) leaves
    ``quantization_config``. Raises UserError for FP8 tensors without a ``quantization_config``.
    """
    said = fp8_scales(source.config.content, source.folder / CONFIG)
    eight = next((name for name, found in source.tensors.items() if found.entry.dtype == "F8_E4M3"), None)
    if eight is None:
        return None
    if said is None:
        raise UserError(
            f"{source.where(eight)} is in FP8, but {CONFIG} has no quantization_config: take over that of the "
            "original config.json"
        )
    packed = any(found.entry.dtype == "F8_E8M0" for found in source.tensors.values())
    return "power-of-two" if packed else said


def check_scales_fit(source: CheckpointFolder) -> None:
    """Raise UserError unless every FP8 matrix has its scales, of the right shape, and every scale its matrix."""
    for name, found in source.tensors.items():
        if name.endswith(SCALE_SUFFIX):
            matrix = source.tensors.get(name.removesuffix(SCALE_SUFFIX))
            if matrix is None or matrix.entry.dtype != "F8_E4M3":
                raise UserError(f"{source.where(name)} is a scale without an FP8 tensor that it belongs to")
        elif found.entry.dtype == "F8_E4M3":
            scale = source.tensors.get(name + SCALE_SUFFIX)
            if len(found.entry.shape) != 2 or 0 in found.entry.shape:
                raise UserError(f"{source.where(name)} is in FP8, but no matrix: its shape is {[*found.entry.shape]}")
            if scale is None:
                says = f"is in FP8, but {name}{SCALE_SUFFIX} is missing{_scales_of(source, name)}"
                raise UserError(f"{source.where(name)} {says}")
            expected = scale_shape(found.entry.shape)
            if scale.entry.dtype not in SCALE_DTYPES or scale.entry.shape != expected:
                raise UserError(
                    f"{source.where(name + SCALE_SUFFIX)} is {scale.entry.dtype} {[*scale.entry.shape]}, but blocks of "
                    f"128 x 128 in {[*found.entry.shape]} need F32 {[*expected]}"
                )


def _scales_of(source: CheckpointFolder, name: str) -> str:
    """Remark on scales under another name, or an empty string."""
    for other in (name.removesuffix("weight") + "scale", name + "_scale"):
        if other in source.tensors:
            return f": {other} is there, the name of another format: fetch the Hugging Face form of DeepSeek's FP8"
    return ""


def _read_json(file: Path) -> JsonFile:
    with reading(file), file.open("rb") as stream:
        raw = stream.read(_READ_LIMIT + 1)
    if len(raw) > _READ_LIMIT:
        raise UserError(f"{file}: larger than {_READ_LIMIT:,} bytes, which no such file has: fetch it again")
    plain = raw.removeprefix(UTF8_BOM)
    if kind := recognise(plain[:HEAD_BYTES], file.name):
        raise UserError(f"{file}: this is {kind.phrase}, not JSON: {kind.cure}")
    return JsonFile(raw, strict_json(plain, str(file)))


def _weight_map(file: Path, index: dict[str, Any]) -> dict[str, str]:
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file}: weight_map is missing or empty")
    for tensor, name in found.items():
        if not is_weight_file(name):
            raise UserError(
                f"{file}: {tensor} is said to be in {name!r}, which is not the name of a weight file: mend the index"
            )
    if not isinstance(index.get("metadata") or {}, dict):
        raise UserError(f"{file}: metadata must be a JSON object")
    return found


def is_weight_file(name: Any) -> bool:
    """Whether this is a plain file name that a weight file may have."""
    return (
        isinstance(name, str)
        and name.endswith(".safetensors")
        and not name.startswith(".")
        and not set(name) & {"/", "\\", "\0"}
        and len(name.encode("utf-8")) <= 200
    )


def _refuse_unlisted(folder: Path, files: list[str], indexed: bool) -> None:
    """Raise UserError for weight files that nothing names, and for named files that are missing."""
    unlisted = sorted({path.name for path in folder.glob("model*.safetensors")} - set(files))
    if unlisted and indexed:
        raise UserError(f"{folder / unlisted[0]}: {INDEX} does not name this file: remove it, or mend the index")
    if unlisted:
        raise UserError(f"{folder / unlisted[0]}: a shard without {INDEX}: fetch the index too")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        many = f"{len(missing)} of its {len(files)} files are missing" if len(files) > 1 else what_is_there(folder)
        link = ", and the folder has only a dead link" if (folder / missing[0]).is_symlink() else ""
        raise UserError(f"{folder / missing[0]}: no such file, {INDEX} names it{link}: {many}: fetch them")


def _in_index_order(folder: Path, weight_map: dict[str, str], where: dict[str, Stored]) -> dict[str, Stored]:
    index = folder / INDEX
    for name, file in weight_map.items():
        if name not in where:
            whose = ": the index is of the FP8 weights: fetch the one of these" if name.endswith(SCALE_SUFFIX) else ""
            raise UserError(f"{index}: {name} is said to be in {file}, which does not hold it{whose}")
        if where[name].file != file:
            raise UserError(f"{index}: {name} is said to be in {file}, but is in {where[name].file}")
    for name, stored in where.items():
        if name not in weight_map:
            raise UserError(f"{index}: lacks {name}, which is in {stored.file}")
    return {name: where[name] for name in weight_map}


def _other_files(folder: Path, known: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files beside the weights and below, hidden ones left out: those small enough to copy, and the others."""
    small: list[str] = []
    large: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if name.startswith(".") or relative in known or relative.startswith(f"{ORIGIN}/"):
                continue
            if path.is_file():  # true of a link to a file, as in a download cache, and false of a dead link or a socket
                (small if path.stat().st_size <= SMALL_FILE_BYTES else large).append(relative)
    return tuple(small), tuple(large)
