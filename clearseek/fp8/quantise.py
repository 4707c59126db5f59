"""Tensors to eight bits and back.

:func:`quantise_tiles` is for activations and their gradients (1 x 128), :func:`quantise_blocks` for weights
(128 x 128), :func:`quantise_columns` for the two operands of a weight gradient, whose inner dimension is the token: 128
tokens x 1 channel, written transposed, so that a matrix product reads columns like tiles (DeepSeek-V3 report, section
3.3.2). A dimension that 128 does not divide ends in a partial piece, as if padded with zeros. All arithmetic is FP32:
divide by the scale, clamp, round to nearest even.

Shapes: M rows, K columns, N output features, E experts; G stands for any size over 128, rounded up.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.fp8.formats import E5M6_MAX, TILE, Quantised, from_e5m6, scale_of, to_e4m3, to_e5m6


def quantise_tiles(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """One scale for 128 neighbours in a row of BF16 or FP32 numbers: data [M, K], scales [M, G]."""
    columns = x_MK.shape[1]
    x_MGT = _tiled(x_MK.float())
    scale_MG = scale_of(x_MGT.abs().amax(-1), power_of_two)
    data_MGT = to_e4m3(x_MGT / scale_MG.unsqueeze(-1))
    return Quantised(data_MGT.flatten(1)[:, :columns].contiguous(), scale_MG)


def quantise_columns(x_MK: Tensor, power_of_two: bool) -> Quantised:
    """One scale for 128 neighbours in a column, transposed: data [K, M], scales [K, G]."""
    return quantise_tiles(x_MK.t(), power_of_two)


def quantise_blocks(w_ENK: Tensor, power_of_two: bool) -> Quantised:
    """One scale for a block of 128 x 128 of a matrix [N, K] or a stack [E, N, K], BF16 or FP32.

    Data have the shape of `w_ENK`; scales [G, G] or [E, G, G] are `weight_scale_inv` of DeepSeek's checkpoints.
    """
    rows, columns = w_ENK.shape[-2:]
    padded = _padded(_padded(w_ENK.float(), -1), -2)
    blocks = padded.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE))  # [..., G, T, G, T]
    scale = scale_of(blocks.abs().amax((-3, -1)), power_of_two)
    data = to_e4m3(blocks / scale[..., :, None, :, None])
    data = data.flatten(-4, -3).flatten(-2, -1)[..., :rows, :columns].contiguous()
    return Quantised(data, scale)


def dequantise(q: Quantised, dtype: torch.dtype = torch.float32) -> Tensor:
    """``data * scale`` in FP32, rounded to `dtype`; tiles, blocks and stacks of blocks alike."""
    data = q.data.float()
    rows, columns = data.shape[-2:]
    scale = q.scale
    if scale.shape[-2] != rows:
        scale = scale.repeat_interleave(TILE, -2)[..., :rows, :]
    scale = scale.repeat_interleave(TILE, -1)[..., :columns]
    return (data * scale).to(dtype)


def transposed(w: Quantised) -> Quantised:
    """Quantised blocks of the transposed matrices: the same numbers, no rounding."""
    return Quantised(w.data.mT, w.scale.mT)


def quantise_e5m6(x_MK: Tensor) -> Quantised:
    """1 x 128 tiles in packed E5M6 with power-of-two scales: data uint8 [M, 1.5 K], K rounded up to even."""
    columns = x_MK.shape[1]
    x_MGT = _tiled(x_MK.float())
    scale_MG = scale_of(x_MGT.abs().amax(-1), True, E5M6_MAX)
    scaled_MK = (x_MGT / scale_MG.unsqueeze(-1)).flatten(1)[:, : columns + columns % 2]
    return Quantised(to_e5m6(scaled_MK), scale_MG)


def dequantise_e5m6(q: Quantised, columns: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The values [M, K] of :func:`quantise_e5m6`, exactly: seven significant bits fit BF16."""
    data_MK = from_e5m6(q.data).float()[:, :columns]
    return (data_MK * q.scale.repeat_interleave(TILE, 1)[:, :columns]).to(dtype)


def _tiled(x_MK: Tensor) -> Tensor:
    """[M, G, 128]."""
    padded = _padded(x_MK, 1)
    return padded.reshape(len(padded), padded.shape[1] // TILE, TILE)


def _padded(x: Tensor, dim: int) -> Tensor:
    missing = -x.shape[dim] % TILE
    if not missing:
        return x
    return F.pad(x, (0, missing) if dim % x.ndim == x.ndim - 1 else (0, 0, 0, missing))
