"""Hugging Face checkpoints, written and read: config.json, safetensors, tokenizer.

In memory the experts of a layer are two stacked tensors, because grouped matrix products want them so; in a checkpoint
each projection of each expert is a tensor of its own, because that is what every engine reads. Export takes the stacks
apart and import puts them together, one tensor at a time, with ``hub/layout.py`` saying what must be there. Both are
exact: in BF16 and FP32, export then import gives the same bits, and an FP8 checkpoint is read as the BF16 numbers it
stands for. Nothing is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_folder
from clearseek.hub.block_fp8 import check_finite, check_scale, decode, encode
from clearseek.hub.hf_config import Scales, fp8_scales, hf_config, parse_hf_config, quantization_config
from clearseek.hub.layout import (
    FP8_KINDS,
    SCALE_SUFFIX,
    TensorSpec,
    count_parameters,
    memory_tensors,
    scale_shape,
    tensors,
)
from clearseek.hub.shards import CONFIG, INDEX, Checkpoint, check_scales_fit, open_checkpoint
from clearseek.hub.tokenizer_files import CHAT_TEMPLATE, generation_config, special_ids, tokenizer_config

EXPORT_MARK = "<!-- Written by ClearSeek: the next export to this folder replaces it. -->"
SMALL_FILES = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        INDEX,
    }
)
_WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
_EXPERT = re.compile(r"(?P<stack>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>gate|up|down)_proj\.weight")
E4M3 = torch.float8_e4m3fn
_STORED_AS = {
    torch.bfloat16: "bfloat16",
    torch.float32: "float32",
    E4M3: "FP8 (E4M3, blocks of 128 x 128) and bfloat16",
}
_DTYPE_NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32", E4M3: "bfloat16"}


def export_hf(
    state: Mapping[str, Tensor],
    config: ModelConfig,
    tokenizer_file: Path,
    out: Path,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = 5_000_000_000,
    extra_card: str | None = None,
    scales: Scales = "float",
) -> None:
    """Write a folder that transformers, vLLM and SGLang load without remote code.

    The folder appears whole or not at all. Memory beyond `state` stays near one shard.

    Args:
        state: The model under its memory names (``layout.memory_tensors``), on any device and of any floating type.
            It may load lazily: each tensor is asked for in model order.
        config: The dimensions of `state`.
        tokenizer_file: The tokenizer.json the model was trained with; copied byte for byte.
        out: The folder to write. It may be absent, empty, or an earlier export, which is replaced.
        dtype: Stored type, ``torch.bfloat16``, ``torch.float32`` or ``torch.float8_e4m3fn``. The last is DeepSeek-V3's
            format: the matrices of attention and feed-forwards in blocks of 128 x 128, rounded to BF16 first; the rest
            in BF16. The router's bias is always F32.
        shard_bytes: Largest weight file, in bytes; a model above it is sharded.
        extra_card: Markdown added to README.md.
        scales: Of FP8 blocks; any other type has none.

    Raises:
        UserError: tensors are missing, unknown or misshapen; the tokenizer does not fit; `out` holds something else;
            the disk is full.
    """
    if dtype not in _DTYPE_NAMES:
        raise UserError(f"cannot export as {dtype}: use torch.bfloat16, torch.float32 or torch.float8_e4m3fn")
    replace = _may_replace(out)
    tokenizer = Tokenizer.load(tokenizer_file)
    ids = special_ids(tokenizer, config.vocab_size)
    _check_names("the model", set(state), {spec.name for spec in memory_tensors(config)})
    name = _DTYPE_NAMES[dtype]
    with atomic_folder(out, replace) as folder:
        _write_weights(folder, state, config, dtype, shard_bytes, scales)
        raw = hf_config(config, name, ids.bos, ids.eos, ids.pad)
        if dtype == E4M3:
            raw = dict(sorted({**raw, "quantization_config": quantization_config(scales)}.items()))
        _write_json(folder / "config.json", raw)
        _write_json(folder / "generation_config.json", generation_config(ids))
        _write_json(folder / "tokenizer_config.json", tokenizer_config(ids, config.max_position_embeddings))
        (folder / "tokenizer.json").write_bytes(tokenizer.content)
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
        (folder / "README.md").write_text(_card(out.name, config, _STORED_AS[dtype], extra_card), encoding="utf-8")


def _may_replace(out: Path) -> bool:
    """Whether there is an empty folder or an earlier export at `out`; anything else there is refused."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out}: is a file: choose a folder to export to")
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if name not in SMALL_FILES and not _WEIGHT_FILE.fullmatch(name)]
    card = out / "README.md"
    ours = card.is_file() and EXPORT_MARK in card.read_text(encoding="utf-8", errors="replace")
    if names and (foreign or not ours):
        what = f"it holds {', '.join(foreign[:3])}" if foreign else "its README.md is not an export's"
        raise UserError(f"{out}: not empty and not an earlier export ({what}): choose another folder or empty this one")
    return True


def _check_names(where: str, found: set[str], expected: set[str]) -> None:
    """Refuse missing and unknown tensors, both in one error."""
    problems = []
    for problem, names in (("lacks", expected - found), ("has unknown", found - expected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{problem} {', '.join(sorted(names)[:3])}{more}")
    if problems:
        raise UserError(f"{where} does not match its configuration: it {'; it '.join(problems)}")


def _write_weights(
    folder: Path, state: Mapping[str, Tensor], config: ModelConfig, dtype: torch.dtype, shard_bytes: int, scales: Scales
) -> None:
    shards: list[list[TensorSpec]] = [[]]
    room = shard_bytes
    for spec in tensors(config):
        size = _stored_bytes(spec, dtype)
        if size > room and shards[-1]:
            shards.append([])
            room = shard_bytes
        shards[-1].append(spec)
        room -= size
    stream = _checkpoint_tensors(state, config)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # A copy, because views of one stack and duplicates share memory, which the format cannot express.
        content: dict[str, Tensor] = {}
        for spec, part in islice(stream, len(shard)):
            content |= _stored(spec, part, dtype, scales)
        try:
            # One key only: safetensors writes several in random order, and the bytes would differ between exports.
            (folder / name).touch()  # with the mode that any new file gets; the library's own is for its owner only
            mode = (folder / name).stat().st_mode
            save_file(content, folder / name, metadata={"format": "pt"})
            (folder / name).chmod(mode)
        except SafetensorError as error:
            raise UserError(f"{folder / name}: cannot write the weights: {error}") from None
        weight_map |= dict.fromkeys(content, name)
    if len(shards) > 1:
        total = sum(_stored_bytes(spec, dtype) for spec in tensors(config))
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _stored(spec: TensorSpec, part: Tensor, dtype: torch.dtype, scales: Scales) -> dict[str, Tensor]:
    """A tensor as it is stored, on the CPU: itself, or its codes and scales."""
    wide = torch.bfloat16 if dtype == E4M3 else dtype
    whole = part.to("cpu", torch.float32 if spec.dtype == "F32" else wide, copy=True).contiguous()
    if dtype != E4M3 or spec.kind not in FP8_KINDS:
        return {spec.name: whole}
    made = encode(whole, scales == "power-of-two", spec.name)
    return {spec.name: made.codes.view(E4M3), spec.name + SCALE_SUFFIX: made.scale}


def _stored_bytes(spec: TensorSpec, dtype: torch.dtype) -> int:
    if dtype == E4M3 and spec.kind in FP8_KINDS:
        return spec.size + 4 * prod(scale_shape(spec.shape))
    return spec.size * (4 if spec.dtype == "F32" or dtype == torch.float32 else 2)


def _checkpoint_tensors(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[TensorSpec, Tensor]]:
    """The checkpoint's tensors as views of the memory tensors, each memory tensor being asked for once."""
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    name, stored = "", torch.empty(0)
    for spec in tensors(config):
        source, index = _place(spec, config)
        if source != name:
            name, stored = source, state[source].detach()
            if tuple(stored.shape) != shapes[name]:
                raise UserError(f"{name} has shape {list(stored.shape)}, but its configuration says {shapes[name]}")
        yield spec, stored[index]


def _place(spec: TensorSpec, config: ModelConfig) -> tuple[str, tuple[Any, ...]]:
    """Where a checkpoint tensor is in memory: the memory tensor's name, and the index into it."""
    match = _EXPERT.fullmatch(spec.name)
    if match is None:
        return spec.duplicate_of or spec.name, (...,)
    expert, width = int(match["expert"]), config.moe_intermediate_size
    if match["projection"] == "down":
        return f"{match['stack']}.down_proj", (expert,)
    rows = slice(0, width) if match["projection"] == "gate" else slice(width, 2 * width)
    return f"{match['stack']}.gate_up_proj", (expert, rows)


def _card(name: str, config: ModelConfig, dtype: str, extra: str | None) -> str:
    count = count_parameters(config)
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [{config.model_type}, clearseek]",
        "---",
        "",
        f"# {name}",
        "",
        f"A {config.model_type} model made with ClearSeek, stored as {dtype}.",
        "",
        "| parameters | |",
        "|---|---|",
        f"| total | {count.total:,} |",
        f"| activated per token | {count.activated:,} |",
    ]
    if count.mtp:
        lines.append(f"| multi-token-prediction layer, on top | {count.mtp:,} |")
    if extra:
        lines += ["", extra.strip()]
    return "\n".join([*lines, "", EXPORT_MARK]) + "\n"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def import_hf(folder: Path, allow_missing_mtp: bool = False) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a DeepSeek-V2 or V3 checkpoint.

    Args:
        folder: Has config.json and either model.safetensors or an index with its shards.
        allow_missing_mtp: transformers drops the MTP layer when it saves a model but leaves it in config.json. Such
            a folder is refused, unless this is true: then the returned config has ``num_nextn_predict_layers = 0``.

    Returns:
        The dimensions, and the tensors on the CPU under their memory names, in the dtypes stored; FP8 as BF16.

    Raises:
        UserError: a file is missing or damaged, a setting is not supported, or a tensor is missing, unknown, misshapen,
            or not of type F32, BF16, F16, or FP8 with scales in a checkpoint that says so; the message names tensor
            and file.
    """
    source = open_checkpoint(folder)
    config_file = folder / CONFIG
    config, scales = parse_hf_config(source.config.content, config_file), fp8_scales(source.config.content, config_file)
    check_scales_fit(source)
    config = _without_lost_mtp(folder, config, set(source.tensors), allow_missing_mtp)
    expected = {spec.name for spec in tensors(config)}
    if scales is not None:
        expected |= {spec.name + SCALE_SUFFIX for spec in tensors(config) if spec.kind in FP8_KINDS}
    _check_names(str(folder), set(source.tensors), expected)
    for spec in tensors(config):
        _check_tensor(spec, source, scales is not None)
    with ExitStack() as stack:
        handles = {file: stack.enter_context(_open(folder / file)) for file in source.headers}
        return config, _read_tensors(config, _Reader(source, scales, handles))


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable safetensors file: {error}") from None


def _without_lost_mtp(folder: Path, config: ModelConfig, found: set[str], allow: bool) -> ModelConfig:
    prefix = f"model.layers.{config.num_hidden_layers}."
    if not config.num_nextn_predict_layers or any(name.startswith(prefix) for name in found):
        return config
    if not allow:
        raise UserError(
            f"{folder}: config.json has num_nextn_predict_layers = {config.num_nextn_predict_layers}, but no tensor of "
            f"{prefix[:-1]} is there (transformers drops them when it saves): import the main model alone with "
            "--without-mtp (allow_missing_mtp)"
        )
    return config.model_copy(update={"num_nextn_predict_layers": 0})


def _check_tensor(spec: TensorSpec, source: Checkpoint, eight: bool) -> None:
    dtypes = ("F8_E4M3",) if eight and spec.kind in FP8_KINDS else ("F32", "BF16", "F16")
    entry, where = source.tensors[spec.name].entry, source.where(spec.name)
    if entry.shape != spec.shape:
        raise UserError(f"{where} has shape {[*entry.shape]}, but config.json says {[*spec.shape]}")
    if entry.dtype not in dtypes:
        raise UserError(f"{where} is of type {entry.dtype}: only {' or '.join(dtypes)} is read here")


@dataclass(frozen=True)
class _Reader:
    source: Checkpoint
    scales: Scales | None
    handles: dict[str, Any]

    def __call__(self, name: str) -> Tensor:
        """A tensor of the checkpoint, decoded where it is in FP8."""
        part, where = self._stored(name), self.source.where(name)
        if part.dtype != E4M3:
            check_finite(part, self.source.tensors[name].entry.dtype, where)
            return part
        scale = self._stored(name + SCALE_SUFFIX)
        check_scale(scale, self.source.where(name + SCALE_SUFFIX), self.scales == "power-of-two")
        return decode(part.view(torch.uint8), scale, where)

    def _stored(self, name: str) -> Tensor:
        tensor: Tensor = self.handles[self.source.tensors[name].file].get_tensor(name)
        return tensor


def _read_tensors(config: ModelConfig, read: _Reader) -> dict[str, Tensor]:
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    state: dict[str, Tensor] = {}
    for spec in tensors(config):
        part = read(spec.name)
        name, index = _place(spec, config)
        if spec.duplicate_of is not None:
            if not torch.equal(part, state[name]):
                raise UserError(
                    f"{read.source.where(spec.name)} differs from {name}, but ClearSeek's MTP layer shares it"
                )
        elif spec.kind != "expert":
            state[name] = part
        else:
            if name not in state:
                state[name] = torch.empty(shapes[name], dtype=part.dtype)
            stacked = state[name]
            if part.dtype != stacked.dtype:
                raise UserError(
                    f"{read.source.where(spec.name)} is {part.dtype}, but its layer's other experts are "
                    f"{stacked.dtype}: they are kept in one tensor"
                )
            stacked[index] = part
    return state
