"""Export of a model to a Hugging Face checkpoint: config.json, safetensors, tokenizer.

In memory the experts of a layer are two stacked tensors, as grouped matrix products take them; in a checkpoint each
projection of each expert is a tensor, as every engine reads it. Export takes the stacks apart, one tensor at a time, by
the table of :mod:`clearseek.tensors`; :mod:`clearseek.hub.read` puts them together again. Both are exact: in BF16 and
FP32, export then import gives the same bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from clearseek.chat.render import template
from clearseek.config import ModelConfig, Recipe
from clearseek.counts import count_parameters
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_folder
from clearseek.fp8.formats import TILE
from clearseek.hub.block_fp8 import encode
from clearseek.hub.config_json import Scales, hf_config, quantization_config
from clearseek.hub.folder import INDEX
from clearseek.hub.safetensors import DTYPE_BYTES, build_header
from clearseek.hub.tokenizer_files import generation_config, special_ids, tokenizer_config
from clearseek.templates import render
from clearseek.tensors import FP8_KINDS, SCALE_SUFFIX, StoredTensor, TensorSpec, memory_tensors, scale_shape, tensors

EXPORT_MARK = "<!-- Written by ClearSeek: the next export to this folder replaces it. -->"
_EXPORTED = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|README\.md|chat_template\.jinja"
    r"|(config|generation_config|tokenizer|tokenizer_config)\.json"
)
"""Names of the files of an export."""
_EXPERT = re.compile(r"(?P<stack>.+\.experts)\.(?P<expert>\d+)\.(?P<projection>gate|up|down)_proj\.weight")
E4M3 = torch.float8_e4m3fn
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": E4M3}
"""Types of an export by their names on the command line."""
_NAMES = {torch.bfloat16: ("bfloat16", "bfloat16"), torch.float32: ("float32", "float32"),
          E4M3: ("bfloat16", "FP8 (E4M3, blocks of 128 x 128) and bfloat16")}  # fmt: skip
"""Names of a type in config.json and in README.md."""
_WIDE = {"BF16": torch.bfloat16, "F32": torch.float32}
_PIECE_ELEMENTS = 1 << 22
"""Elements of a tensor that are in memory at once, as far as blocks of rows allow."""


class Rows(Protocol):
    """A tensor, or what reads one by rows."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes."""

    def __getitem__(self, index: tuple[int | slice, ...], /) -> Tensor:
        """Rows of the tensor, or of one of those that it is a stack of."""


Weights = Mapping[str, Tensor] | Mapping[str, Rows]
"""A model's tensors by name."""


def export_scales(recipe: Recipe) -> Scales:
    """Kind of FP8 scales that a trained model is exported with: the kind under which its weights were multiplied."""
    powers = recipe.train.precision == "fp8" and recipe.fp8.scales == "power-of-two"
    return "power-of-two" if powers else "float"


def export_hf(
    state: Weights,
    config: ModelConfig,
    tokenizer_file: str | Path,
    out: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = 5_000_000_000,
    extra_card: str | None = None,
    scales: Scales = "float",
    conversational: bool = False,
) -> None:
    """Write a folder that transformers, vLLM and SGLang load without remote code.

    The folder appears whole or not at all. Memory beyond `state` stays below some 200 MB, whatever the model's size.

    Args:
        state: The model under the names of :func:`~clearseek.tensors.memory_tensors`, on any device and of any floating
            type. It may load lazily: tensors are read in model order, and only some rows of one are asked for at once.
        config: The dimensions of `state`.
        tokenizer_file: The tokenizer.json that the model was trained with; copied byte for byte.
        out: The folder to write: absent, empty, or an earlier export, which is replaced.
        dtype: Stored type, ``torch.bfloat16``, ``torch.float32`` or ``torch.float8_e4m3fn``. The last is DeepSeek-V3's
            format: the matrices of attention and feed-forwards in blocks of 128 x 128, rounded to BF16 first; the rest
            in BF16. The router's bias is always F32.
        shard_bytes: Largest weight file, in bytes; a model above it is sharded.
        extra_card: Markdown added to README.md.
        scales: Form of the FP8 blocks' scales; other types have no scales.
        conversational: Whether the model was trained to chat, which the card's tags then say.

    Raises:
        UserError: tensors are missing, unknown or misshapen; the tokenizer does not fit; `out` holds something else;
            the disk is full.
    """
    tokenizer_file, out = Path(tokenizer_file), Path(out)
    if dtype not in _NAMES:
        raise UserError(f"cannot export as {dtype}: use torch.bfloat16, torch.float32 or torch.float8_e4m3fn")
    replace = _may_replace(out)
    tokenizer = Tokenizer.load(tokenizer_file)
    ids = special_ids(tokenizer, config.vocab_size)
    check_names("the model", set(state), {spec.name for spec in memory_tensors(config)})
    name, stored_as = _NAMES[dtype]
    with atomic_folder(out, replace) as folder:
        _write_weights(folder, state, config, dtype, shard_bytes, scales)
        raw = hf_config(config, name, ids.bos, ids.eos, ids.pad)
        if dtype == E4M3:
            raw = dict(sorted({**raw, "quantization_config": quantization_config(scales)}.items()))
        _write_json(folder / "config.json", raw)
        _write_json(folder / "generation_config.json", generation_config(ids))
        _write_json(folder / "tokenizer_config.json", tokenizer_config(ids, config.max_position_embeddings))
        (folder / "tokenizer.json").write_bytes(tokenizer.content)
        (folder / "chat_template.jinja").write_text(template(), encoding="utf-8")
        card = render(
            "clearseek.hub", "model-card.md.jinja", name=out.name, config=config, dtype=stored_as,
            count=count_parameters(config), extra=extra_card, conversational=conversational,
            mark=EXPORT_MARK,
        )  # fmt: skip
        (folder / "README.md").write_text(card, encoding="utf-8")


def _may_replace(out: Path) -> bool:
    """Whether `out` is an empty folder or an earlier export. Raises UserError for a file or another folder."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise UserError(f"{out}: is a file: choose a folder to export to")
    names = sorted(path.name for path in out.iterdir())
    foreign = [name for name in names if not _EXPORTED.fullmatch(name)]
    card = out / "README.md"
    ours = card.is_file() and EXPORT_MARK in card.read_text(encoding="utf-8", errors="replace")
    if names and (foreign or not ours):
        what = f"it holds {', '.join(foreign[:3])}" if foreign else "its README.md is not an export's"
        raise UserError(f"{out}: not empty and not an earlier export ({what}): choose another folder or empty this one")
    return True


def check_names(where: str, found: set[str], expected: set[str], remark: str = "") -> None:
    """Raise UserError that names missing and unknown tensors and ends with `remark`."""
    problems = []
    for problem, names in (("lacks", expected - found), ("has unknown", found - expected)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            problems.append(f"{problem} {', '.join(sorted(names)[:3])}{more}")
    if problems:
        raise UserError(f"{where} does not match its configuration: it {'; it '.join(problems)}{remark}")


def _write_weights(
    folder: Path, state: Weights, config: ModelConfig, dtype: torch.dtype, shard_bytes: int, scales: Scales
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
    every = sources(state, config)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        stored = [each for spec in shard for each in _stored_as(spec, dtype)]
        weight_map |= {each.name: name for each in stored}
        # in the order of safetensors' own writer, whose metadata of several keys would be in a random one
        stored.sort(key=lambda each: (-DTYPE_BYTES[each.dtype], each.name))
        header = build_header(stored, {"format": "pt"})
        places = {entry.name: entry.begin for entry in header.entries}
        with (folder / name).open("wb") as file:
            file.write(header.raw)
            for source in islice(every, len(shard)):
                for part, content in _pieces(*source, dtype, scales):
                    file.seek(places[part])
                    places[part] += file.write(content)
    if len(shards) > 1:
        total = sum(_stored_bytes(spec, dtype) for spec in tensors(config))
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _stored_as(spec: TensorSpec, dtype: torch.dtype) -> list[StoredTensor]:
    """A tensor as it is stored: itself, or its codes and scales."""
    if _in_eight_bits(spec, dtype):
        scale = StoredTensor(spec.name + SCALE_SUFFIX, "F32", scale_shape(spec.shape))
        return [StoredTensor(spec.name, "F8_E4M3", spec.shape), scale]
    return [StoredTensor(spec.name, "F32" if dtype == torch.float32 else spec.dtype, spec.shape)]


def _pieces(
    spec: TensorSpec, stored: Rows, first: int, lead: tuple[int, ...], dtype: torch.dtype, scales: Scales
) -> Iterator[tuple[str, memoryview]]:
    """Yield a tensor as it is stored, or its codes and scales, some rows at a time: the name, and the next bytes."""
    high = max(TILE, _PIECE_ELEMENTS // prod(spec.shape[1:]) // TILE * TILE)
    for start in range(0, spec.shape[0], high):
        stop = min(start + high, spec.shape[0])
        rows = stored[(*lead, slice(first + start, first + stop))].detach()
        if not _in_eight_bits(spec, dtype):
            yield spec.name, _bytes(rows.to("cpu", _WIDE[_stored_as(spec, dtype)[0].dtype]))
        else:
            made = encode(rows.to("cpu", torch.bfloat16).contiguous(), scales == "power-of-two", spec.name)
            yield spec.name, _bytes(made.codes)
            yield spec.name + SCALE_SUFFIX, _bytes(made.scale)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _in_eight_bits(spec: TensorSpec, dtype: torch.dtype) -> bool:
    return dtype == E4M3 and spec.kind in FP8_KINDS


def _stored_bytes(spec: TensorSpec, dtype: torch.dtype) -> int:
    return sum(prod(each.shape) * DTYPE_BYTES[each.dtype] for each in _stored_as(spec, dtype))


def sources(state: Weights, config: ModelConfig) -> Iterator[tuple[TensorSpec, Rows, int, tuple[int, ...]]]:
    """Yield the checkpoint's tensors with where they are in memory, in order, each memory tensor asked for once.

    Yields:
        The tensor, the memory tensor, the first row in that, and numbers (of experts) that choose what the row is of.
    """
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    for name, specs in groupby(tensors(config), lambda spec: place_of(spec, config)[0]):
        stored = state[name]
        if tuple(stored.shape) != shapes[name]:
            raise UserError(f"{name} has shape {list(stored.shape)}, but its configuration says {shapes[name]}")
        for spec in specs:
            index = place_of(spec, config)[1]
            first = next((each.start for each in index if isinstance(each, slice)), 0)
            yield spec, stored, first, tuple(each for each in index if isinstance(each, int))


def place_of(spec: TensorSpec, config: ModelConfig) -> tuple[str, tuple[Any, ...]]:
    """Place of a checkpoint tensor in memory: the memory tensor's name, and the index into that tensor."""
    match = _EXPERT.fullmatch(spec.name)
    if match is None:
        return spec.duplicate_of or spec.name, (...,)
    expert, width = int(match["expert"]), config.moe_intermediate_size
    if match["projection"] == "down":
        return f"{match['stack']}.down_proj", (expert,)
    rows = slice(0, width) if match["projection"] == "gate" else slice(width, 2 * width)
    return f"{match['stack']}.gate_up_proj", (expert, rows)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
