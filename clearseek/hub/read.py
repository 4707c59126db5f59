"""Import of Hugging Face checkpoints.

:mod:`clearseek.tensors` lists the tensors, and :mod:`clearseek.hub.aliases` the other names that some writers give
them. A checkpoint may leave out the MTP layer's repeated embedding and head; a tensor held twice must be equal. All
else that is missing, unknown, misshapen or of another type is one error. Tensors are returned as stored, and FP8 as the
BF16 numbers that it encodes. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.errors import UserError
from clearseek.hub.aliases import our_names, what_they_are
from clearseek.hub.block_fp8 import check_finite, check_scale, decode, wide_scale
from clearseek.hub.config_json import Scales, parse_hf_config
from clearseek.hub.folder import CONFIG, CheckpointFolder, check_scales_fit, fp8_form, open_checkpoint
from clearseek.hub.write import E4M3, check_names, place_of
from clearseek.model.transformer import DeepSeekModel
from clearseek.tensors import EMBEDDING, HEAD, SCALE_SUFFIX, TensorSpec, memory_tensors, tensors

_DTYPES = ("F32", "BF16", "F16", "F8_E4M3")


def import_hf(folder: str | Path, allow_missing_mtp: bool = False) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a DeepSeek-V2 or V3 checkpoint.

    Args:
        folder: Folder with config.json and either model.safetensors or an index with its shards.
        allow_missing_mtp: Whether to accept a config.json whose MTP layer has no tensors, as transformers saves it; the
            returned config then has ``num_nextn_predict_layers = 0``.

    Returns:
        The dimensions, and the tensors on the CPU under their memory names, in the dtypes stored; FP8 as BF16, and the
        router's bias as FP32. The config has an MTP layer if its tensors are there, whatever config.json says.

    Raises:
        UserError: a file is missing or damaged, a setting is not supported, or a tensor is missing, unknown, misshapen,
            or not of type F32, BF16, F16, or FP8 with scales; the message names tensor and file.
    """
    folder = Path(folder)
    source = open_checkpoint(folder)
    config = parse_hf_config(source.config.content, folder / CONFIG)
    ours = our_names(source.tensors)
    source = replace(source, tensors={name: source.tensors[stored] for name, stored in ours.items()})
    scales = fp8_form(source)
    check_scales_fit(source)
    config = _with_mtp_as_found(config, source.tensors)
    _check_counts(source, config)
    _check_all_there(source, config, allow_missing_mtp)
    if allow_missing_mtp and not _has_mtp(config, source.tensors):
        config = config.model_copy(update={"num_nextn_predict_layers": 0})
    specs = sorted(_stored(config, source.tensors), key=lambda spec: spec.mtp)  # a head before its copies
    for spec in specs:
        entry, where = source.tensors[spec.name].entry, source.where(spec.name)
        if entry.shape != spec.shape:
            raise UserError(f"{where} has shape {[*entry.shape]}, but config.json says {[*spec.shape]}")
        if entry.dtype not in _DTYPES:
            raise UserError(f"{where} is of type {entry.dtype}: only {', '.join(_DTYPES)} are read")
    with ExitStack() as stack:
        handles = {file: stack.enter_context(_open(folder / file)) for file in source.headers}
        return config, _read_tensors(config, specs, source, partial(_read, source, scales, handles))


def import_model(folder: Path) -> DeepSeekModel:
    """A checkpoint as a model for inference in FP32, whatever is stored, without its MTP layer where that is missing.

    Raises UserError as :func:`import_hf` does.
    """
    config, tensors = import_hf(folder, allow_missing_mtp=True)
    with torch.device("meta"):
        model = DeepSeekModel(config)
    model.load_state_dict(tensors, assign=True)
    return model.set_dtype(torch.float32).requires_grad_(False)


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable safetensors file: {error}") from None


def _has_mtp(config: ModelConfig, found: Collection[str]) -> bool:
    return any(name.startswith(f"model.layers.{config.num_hidden_layers}.") for name in found)


def _with_mtp_as_found(config: ModelConfig, found: Collection[str]) -> ModelConfig:
    """The config, with the MTP layer where tensors have one and config.json leaves it out, as some tools write it."""
    own = f"model.layers.{config.num_hidden_layers}.eh_proj.weight"  # a matrix of the MTP layer alone
    if config.num_nextn_predict_layers or config.model_type != "deepseek_v3" or own not in found:
        return config
    return config.model_copy(update={"num_nextn_predict_layers": 1})


def _stored(config: ModelConfig, found: Collection[str], mtp: bool = True) -> Iterator[TensorSpec]:
    """Yield the tensors that this checkpoint must hold: experts as it stacks them, duplicates as far as it has them."""
    stacked = {spec.name for spec in memory_tensors(config) if spec.kind == "expert" and spec.name in found}
    for spec in tensors(config, mtp, stacked):
        if spec.duplicate_of is None or spec.name in found:
            yield spec
    if config.tie_word_embeddings and HEAD in found:
        yield TensorSpec(HEAD, (config.vocab_size, config.hidden_size), "head", duplicate_of=EMBEDDING)


def _check_counts(source: CheckpointFolder, config: ModelConfig) -> None:
    """Refuse a config.json of more layers or experts than the checkpoint has tensors, before names are generated."""
    most = len(source.tensors)
    stacked = any(name.endswith(".experts.down_proj") for name in source.tensors)
    single = not stacked and config.first_k_dense_replace < config.num_hidden_layers
    for name in ("num_hidden_layers", *(("n_routed_experts",) if single else ())):
        if (count := getattr(config, name)) > most:
            raise UserError(
                f"{source.folder}: {CONFIG} has {name} = {count}, but the weights are {most} tensors: fetch the "
                f"{CONFIG} of these weights"
            )


def _check_all_there(source: CheckpointFolder, config: ModelConfig, allow_missing_mtp: bool) -> None:
    """Refuse missing and unknown tensors, first of the main model and then of the MTP layer."""
    folder, found = source.folder, set(source.tensors)
    main = {spec.name for spec in _stored(config, found, mtp=False)}
    asked_for = {spec.name for spec in _stored(config, found)}
    expected = asked_for if _has_mtp(config, found) else main
    expected |= {name + SCALE_SUFFIX for name in expected & found if source.tensors[name].entry.dtype == "F8_E4M3"}
    unknown = found - expected
    stored = {name: source.tensors[name].entry.name for name in found}
    remark = what_they_are(stored.values(), [stored[name] for name in unknown], config)
    if main - found == {HEAD}:
        remark = (
            f": if head and embedding are one matrix, set tie_word_embeddings = true in {CONFIG}; if the weights were "
            "saved without their head, fetch the whole model"
        )
    check_names(str(folder), {stored[name] if name in unknown else name for name in found}, expected, remark)
    if asked_for - expected and not allow_missing_mtp:
        raise UserError(
            f"{folder}: config.json has num_nextn_predict_layers = {config.num_nextn_predict_layers}, but no tensor of "
            f"model.layers.{config.num_hidden_layers} is there (transformers and DeepSeek's convert.py drop them): "
            "import the main model alone with --without-mtp (allow_missing_mtp)"
        )


def _read(source: CheckpointFolder, scales: Scales | None, handles: dict[str, Any], name: str) -> Tensor:
    """A tensor of the checkpoint, decoded if in FP8."""
    stored, where = source.tensors[name], source.where(name)
    part: Tensor = handles[stored.file].get_tensor(stored.entry.name)
    if part.dtype != E4M3:
        check_finite(part, stored.entry.dtype, where)
        return part
    of_scale = source.tensors[name + SCALE_SUFFIX]
    scale = wide_scale(handles[of_scale.file].get_tensor(of_scale.entry.name))
    check_scale(scale, source.where(name + SCALE_SUFFIX), scales == "power-of-two")
    return decode(part.view(torch.uint8), scale, where)


def _read_tensors(
    config: ModelConfig, specs: list[TensorSpec], source: CheckpointFolder, read: Callable[[str], Tensor]
) -> dict[str, Tensor]:
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    state: dict[str, Tensor] = {}
    for spec in specs:
        part = read(spec.name)
        name, index = place_of(spec, config)
        if spec.duplicate_of is not None:
            if not torch.equal(part.float(), state[name].float()):
                tied = "config.json has tie_word_embeddings = true: set it to false, if these weights have a head"
                why = "ClearSeek's MTP layer shares it" if spec.mtp else f"{tied} of their own"
                raise UserError(f"{source.where(spec.name)} differs from {name}, but {why}")
        elif spec.kind != "expert" or spec.name == name:
            state[name] = part.float() if spec.kind == "router_bias" else part
        else:
            if name not in state:
                state[name] = torch.empty(shapes[name], dtype=part.dtype)
            stacked = state[name]
            if part.dtype != stacked.dtype:
                raise UserError(
                    f"{source.where(spec.name)} is {part.dtype}, but its layer's other experts are "
                    f"{stacked.dtype}: they are kept in one tensor"
                )
            stacked[index] = part
    return state
