"""Plan of a conversion, made before the first byte is written: every output file's header, and each tensor's source.

Headers are small and hold everything but the numbers, so a conversion is planned, checked and measured (bytes to read,
bytes of disk) in a second, and then streamed. To BF16, each weight file keeps its name and order and loses its scales.
To FP8, files and order are those of the FP8 checkpoint that the source was made from, where its record fits
(:mod:`clearseek.hub.convert.origin`); otherwise each file keeps its name and order, with the scales right after their
matrix. Formats: DeepSeek-V3's README_WEIGHTS.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from clearseek.errors import UserError
from clearseek.hub.aliases import our_names, what_they_are
from clearseek.hub.config_json import Scales, fp8_scales, parse_hf_config, quantization_config
from clearseek.hub.convert.origin import (
    FILE,
    Origin,
    origin_metadata,
    origin_tensors,
    read_origin,
    same_but_for,
    usable_scale,
)
from clearseek.hub.folder import (
    CONFIG,
    INDEX,
    SCALE_DTYPES,
    SINGLE,
    CheckpointFolder,
    Stored,
    check_scales_fit,
    fp8_form,
)
from clearseek.hub.safetensors import Entry, Header, build_header
from clearseek.tensors import SCALE_SUFFIX, StoredTensor, is_fp8_name, scale_shape, tensors

Dtype = Literal["fp8", "bf16"]
KEPT_DTYPES = ("BF16", "F16", "F32")


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor copied from the source."""

    target: Entry
    source: Stored


@dataclass(frozen=True, slots=True)
class Inline:
    """A tensor whose bytes the plan holds."""

    target: Entry
    content: bytes


@dataclass(frozen=True, slots=True)
class Decode:
    """A matrix from eight bits to BF16."""

    target: Entry
    source: Stored
    scale: Stored


@dataclass(frozen=True, slots=True)
class Encode:
    """A matrix from a wide type to eight bits: its codes, its scales, or both when one file takes both."""

    target: Entry | None
    scale_target: Entry | None
    source: Stored
    old: Stored | None
    """Old scales to try first, or None."""


Task = Copy | Inline | Decode | Encode


@dataclass(frozen=True)
class Output:
    """One file to write."""

    name: str
    header: Header
    tasks: tuple[Task, ...]

    @property
    def read_bytes(self) -> int:
        """Bytes of tensors to read for this file."""
        return sum(task.source.entry.size for task in self.tasks if not isinstance(task, Inline))

    @property
    def sources(self) -> list[str]:
        """Files to read for this file, relative to the source folder."""
        found = {task.source.file for task in self.tasks if not isinstance(task, Inline)}
        found |= {task.scale.file for task in self.tasks if isinstance(task, Decode)}
        found |= {task.old.file for task in self.tasks if isinstance(task, Encode) and task.old}
        return sorted(found)


@dataclass(frozen=True)
class ConversionPlan:
    """Plan of a conversion."""

    source: CheckpointFolder
    dtype: Dtype
    scales: Scales
    """Kind of scales on the FP8 side."""
    outputs: tuple[Output, ...]
    texts: dict[str, bytes]
    """Content of the index and of config.json, written last and in this order."""
    restores: bool
    """Whether an FP8 output has the files and order of the checkpoint that the source was made from."""


def plan_conversion(source: CheckpointFolder, dtype: Dtype, scales: Scales | None) -> ConversionPlan:
    """Plan the conversion of a checkpoint.

    Raises:
        UserError: the checkpoint has that format already, or neither format; a scale is missing, misshapen or without a
            matrix; a tensor's type belongs to neither format. The message names tensor and file.
    """
    stored = fp8_form(source)
    if (dtype == "fp8") == (stored is not None):
        raise UserError(f"{source.folder}: {_nothing_to_do(source, stored is not None)}")
    if dtype == "bf16" and scales is not None:
        raise UserError("--scales goes with --dtype fp8: BF16 has no scales")
    for name, found in source.tensors.items():
        allowed = SCALE_DTYPES if name.endswith(SCALE_SUFFIX) else ("F8_E4M3",)
        if found.entry.dtype not in (*KEPT_DTYPES, *allowed):
            raise UserError(
                f"{source.where(name)} is of the unsupported dtype {found.entry.dtype}: a DeepSeek checkpoint holds "
                f"F8_E4M3, {', '.join(KEPT_DTYPES)}"
            )
    plan = _to_bf16(source, stored) if stored is not None else _to_fp8(source, scales)
    _check_complete(source)
    return plan


def _nothing_to_do(source: CheckpointFolder, eight: bool) -> str:
    """Reason why there is nothing to convert, with the cure where config.json says otherwise."""
    wide = {found.entry.dtype for name, found in source.tensors.items() if is_fp8_name(name)}
    says = f"is in {'FP8' if eight else ' and '.join(sorted(wide)) or 'BF16'} already: there is nothing to convert"
    if not eight and fp8_scales(source.config.content, source.folder / CONFIG) is not None:
        says += f"; {CONFIG} says FP8, but no tensor is: remove quantization_config there, or fetch the right weights"
    return says


def _check_complete(source: CheckpointFolder) -> None:
    """Raise UserError unless a checkpoint of a known model has every tensor, in its shape, or all but the MTP layer."""
    file = source.folder / CONFIG
    try:
        config = parse_hf_config(source.config.content, file)
    except UserError:  # another architecture with the same FP8 format, converted by names alone
        return
    stored = our_names(source.tensors)
    with_mtp = any(name.startswith(f"model.layers.{config.num_hidden_layers}.") for name in stored)
    for spec in tensors(config, with_mtp):
        found = source.tensors.get(stored.get(spec.name, ""))
        if found is None and spec.duplicate_of is None:
            remark = what_they_are(source.tensors, source.tensors, config) or ": fetch all files"
            raise UserError(f"{source.folder}: {spec.name} is missing, which {CONFIG} asks for{remark}")
        if found is not None and found.entry.shape != spec.shape:
            shape = [*found.entry.shape]
            raise UserError(f"{source.where(found.entry.name)} has shape {shape}, but {CONFIG} says {[*spec.shape]}")


def _to_bf16(source: CheckpointFolder, scales: Scales) -> ConversionPlan:
    check_scales_fit(source)
    outputs = []
    for file, header in source.headers.items():
        kept = [entry for entry in header.entries if not entry.name.endswith(SCALE_SUFFIX)]
        if not kept:
            continue
        shaped = [StoredTensor(e.name, "BF16" if e.dtype == "F8_E4M3" else e.dtype, e.shape) for e in kept]
        made = build_header(shaped, header.metadata)
        outputs.append(Output(file, made, tuple(_from_fp8(source, target) for target in made.entries)))
    texts = {CONFIG: _json({k: v for k, v in source.config.content.items() if k != "quantization_config"})}
    if source.index:
        texts = {INDEX: _index(source, outputs, _weight_map(source, outputs)), **texts}
    record = origin_tensors(source)
    made = build_header(record, origin_metadata(scales))
    contents = {shaped.name: content for shaped, content in record.items()}
    tasks = tuple(
        Inline(target, content) if isinstance(content := contents[target.name], bytes) else Copy(target, content)
        for target in made.entries
    )
    return ConversionPlan(source, "bf16", scales, (*outputs, Output(FILE, made, tasks)), texts, False)


def _from_fp8(source: CheckpointFolder, target: Entry) -> Task:
    found = source.tensors[target.name]
    if found.entry.dtype == "F8_E4M3":
        return Decode(target, found, source.tensors[target.name + SCALE_SUFFIX])
    return Copy(target, found)


def _to_fp8(source: CheckpointFolder, scales: Scales | None) -> ConversionPlan:
    origin = read_origin(source.folder)
    names = {name for name in source.tensors if is_fp8_name(name)}
    kind = scales or (origin.scales if origin else "float")
    restored = origin if origin and _fits(source, origin, kind) else None
    if restored:
        names = restored.fp8_names()
    if not names:
        first = next(iter(source.tensors), "nothing")
        raise UserError(
            f"{source.folder}: no tensor has the name of a DeepSeek matrix, such as model.layers.0.self_attn.o_proj."
            f"weight, so nothing would be in FP8 (the first is {first}): clearseek import may read it, and export then "
            "writes these names"
        )
    _check_matrices(source, names)
    old = origin if origin and origin.scales == kind else None
    headers = (restored and restored.headers) or {
        file: build_header(_with_scales(header.entries, names), header.metadata)
        for file, header in source.headers.items()
    }
    outputs = [Output(file, made, tuple(_into_fp8(source, made, old))) for file, made in headers.items()]
    weight_map = _weight_map(source, outputs)
    texts = {}
    was = restored.index if restored else source.index
    if was or [output.name for output in outputs] != [SINGLE]:
        same = restored and was and was.content.get("weight_map") == weight_map
        texts[INDEX] = was.raw if same and was else _index(source, outputs, weight_map)
    texts[CONFIG] = _fp8_config(source, kind, origin)
    return ConversionPlan(source, "fp8", kind, tuple(outputs), texts, restored is not None)


def _check_matrices(source: CheckpointFolder, names: Iterable[str]) -> None:
    for name in names:
        entry = source.tensors[name].entry
        if entry.dtype not in KEPT_DTYPES or len(entry.shape) != 2 or 0 in entry.shape:
            raise UserError(
                f"{source.where(name)} is {entry.dtype} {[*entry.shape]}: only matrices of {', '.join(KEPT_DTYPES)} "
                "are converted to FP8"
            )
    for name in source.tensors:
        if name.endswith(SCALE_SUFFIX):
            raise UserError(f"{source.where(name)} is a scale without an FP8 tensor that it belongs to")


def _fits(source: CheckpointFolder, origin: Origin, kind: Scales) -> bool:
    """Whether the recorded FP8 checkpoint has the source's tensors, and a type for scales of this kind."""
    names = origin.fp8_names()
    if not names <= set(source.tensors) or (origin.scale_dtype == "F8_E8M0" and kind != "power-of-two"):
        return False
    entries = (found.entry for found in source.tensors.values())
    return origin.describes({shaped.name: shaped for shaped in _with_scales(entries, names, origin.scale_dtype)})


def _with_scales(entries: Iterable[Entry], names: set[str], scale_dtype: str = "F32") -> Iterable[StoredTensor]:
    """Yield tensors as FP8 stores them: those of `names` in eight bits, each followed by its scales."""
    for entry in entries:
        if entry.name not in names:
            yield entry.shaped
        else:
            yield StoredTensor(entry.name, "F8_E4M3", entry.shape)
            yield StoredTensor(entry.name + SCALE_SUFFIX, scale_dtype, scale_shape(entry.shape))


def _into_fp8(source: CheckpointFolder, made: Header, origin: Origin | None) -> Iterable[Task]:
    here = {entry.name: entry for entry in made.entries}
    for target in made.entries:
        matrix = target.name.removesuffix(SCALE_SUFFIX)
        found = source.tensors[matrix]
        old = usable_scale(origin, matrix, scale_shape(found.entry.shape))
        if target.dtype == "F8_E4M3":
            yield Encode(target, here.get(target.name + SCALE_SUFFIX), found, old)
        elif matrix == target.name:
            yield Copy(target, found)
        elif matrix not in here:  # the codes are in another file: the matrix is read again for its scales
            yield Encode(None, target, found, old)


def _weight_map(source: CheckpointFolder, outputs: list[Output]) -> dict[str, str]:
    """Files of the output's tensors, in the source's order, each scale after its matrix."""
    where = {entry.name: output.name for output in outputs for entry in output.header.entries}
    names = [each for name in source.tensors for each in (name, name + SCALE_SUFFIX) if each in where]
    return {name: where[name] for name in names}


def _fp8_config(source: CheckpointFolder, kind: Scales, origin: Origin | None) -> bytes:
    """Content of config.json with its quantisation: the recorded file, where nothing else was changed since."""
    key = "quantization_config"
    was, now = origin.config if origin else None, source.config.content
    if was and same_but_for(key, was.content, now) and fp8_scales(was.content, source.folder / FILE) == kind:
        return was.raw
    names = [name for name in now if name != key]
    changed = {name: now[name] for name in names} | {key: quantization_config(kind)}
    return _json(dict(sorted(changed.items())) if names == sorted(names) else changed)


def _index(source: CheckpointFolder, outputs: list[Output], weight_map: dict[str, str]) -> bytes:
    total = sum(entry.size for output in outputs for entry in output.header.entries)
    content: dict[str, Any] = dict(source.index.content) if source.index else {}
    content["metadata"] = (content.get("metadata") or {}) | {"total_size": total}
    return _json(content | {"weight_map": weight_map})


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
