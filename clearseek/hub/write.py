"""Export of a model to a Hugging Face checkpoint: config.json, safetensors, tokenizer.

In memory the experts of a layer are two stacked tensors, as grouped matrix products take them; in a checkpoint each
projection of each expert is a tensor, as every engine reads it. Export takes the stacks apart, one tensor at a time, by
the table of :mod:`clearseek.tensors`; :mod:`clearseek.hub.read` puts them together again. Both are exact: in BF16 and
FP32, export then import gives the same bits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from clearseek.chat.render import template
from clearseek.config import ModelConfig, Recipe
from clearseek.counts import count_parameters
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.files import atomic_folder
from clearseek.hub.block_fp8 import encode
from clearseek.hub.config_json import Scales, hf_config, quantization_config
from clearseek.hub.folder import INDEX
from clearseek.hub.tokenizer_files import generation_config, special_ids, tokenizer_config
from clearseek.templates import render
from clearseek.tensors import FP8_KINDS, SCALE_SUFFIX, TensorSpec, memory_tensors, scale_shape, tensors

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


def export_scales(recipe: Recipe) -> Scales:
    """Kind of FP8 scales that a trained model is exported with: the kind under which its weights were multiplied."""
    powers = recipe.train.precision == "fp8" and recipe.fp8.scales == "power-of-two"
    return "power-of-two" if powers else "float"


def export_hf(
    state: Mapping[str, Tensor],
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

    The folder appears whole or not at all. Memory beyond `state` stays near one shard.

    Args:
        state: The model under the names of :func:`~clearseek.tensors.memory_tensors`, on any device and of any floating
            type. It may load lazily: tensors are read in model order.
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
        content: dict[str, Tensor] = {}
        for spec, part in islice(stream, len(shard)):
            content |= _stored(spec, part, dtype, scales)
        try:
            (folder / name).touch()  # to learn the mode of a new file here; the library's files are for the owner only
            mode = (folder / name).stat().st_mode
            save_file(content, folder / name, metadata={"format": "pt"})  # several keys would be in random order
            (folder / name).chmod(mode)
        except SafetensorError as error:
            raise UserError(f"{folder / name}: cannot write the weights: {error}") from None
        weight_map |= dict.fromkeys(content, name)
    if len(shards) > 1:
        total = sum(_stored_bytes(spec, dtype) for spec in tensors(config))
        _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _stored(spec: TensorSpec, part: Tensor, dtype: torch.dtype, scales: Scales) -> dict[str, Tensor]:
    """A tensor as it is stored, on the CPU: a copy, since views of one stack share memory, or its codes and scales."""
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
    """Yield the checkpoint's tensors as views of memory tensors, each of which is read once."""
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    name, stored = "", torch.empty(0)
    for spec in tensors(config):
        source, index = place_of(spec, config)
        if source != name:
            name, stored = source, state[source].detach()
            if tuple(stored.shape) != shapes[name]:
                raise UserError(f"{name} has shape {list(stored.shape)}, but its configuration says {shapes[name]}")
        yield spec, stored[index]


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
