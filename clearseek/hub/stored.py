"""Weights as an export holds them, without its files: every number rounded as export rounds it.

What :func:`~clearseek.hub.read.import_hf` reads from an export is this, bit for bit, so a run can be evaluated as the
model that will be published, before there is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clearseek.config import ModelConfig
from clearseek.hub.block_fp8 import decode, encode
from clearseek.hub.config_json import Scales
from clearseek.hub.write import E4M3, Weights, place_of, sources
from clearseek.tensors import FP8_KINDS, TensorSpec, memory_tensors


def as_stored(state: Weights, config: ModelConfig, dtype: torch.dtype, scales: Scales = "float") -> dict[str, Tensor]:
    """The tensors of a model, as an export in `dtype` gives them back.

    Args:
        state: The model, as :func:`~clearseek.hub.write.export_hf` takes it.
        config: The dimensions of `state`.
        dtype: Stored type: ``torch.bfloat16``, ``torch.float32`` or ``torch.float8_e4m3fn``.
        scales: Form of the FP8 blocks' scales; other types have no scales.

    Returns:
        Tensors on the CPU by their memory names, FP8 as the BF16 numbers that it encodes.

    Raises:
        UserError: a matrix holds NaN or infinity, which has no code in FP8, or is misshapen.
    """
    made: dict[str, Tensor] = {}
    shapes = {spec.name: spec.shape for spec in memory_tensors(config)}
    for spec, stored, first, lead in sources(state, config):
        if spec.duplicate_of is not None:  # one tensor in memory
            continue
        rows = _rounded(spec, stored[(*lead, slice(first, first + spec.shape[0]))].detach().cpu(), dtype, scales)
        name, index = place_of(spec, config)
        if name not in made:
            made[name] = torch.empty(shapes[name], dtype=rows.dtype)
        made[name][index] = rows
    return made


def _rounded(spec: TensorSpec, rows: Tensor, dtype: torch.dtype, scales: Scales) -> Tensor:
    """A tensor of a checkpoint in the type in which it comes back."""
    if spec.kind == "router_bias" or dtype == torch.float32:
        return rows.float()
    rows = rows.to(torch.bfloat16)
    if dtype != E4M3 or spec.kind not in FP8_KINDS:
        return rows
    made = encode(rows.contiguous(), scales == "power-of-two", spec.name)
    return decode(made.codes, made.scale, spec.name)
