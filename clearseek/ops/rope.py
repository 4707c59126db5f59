"""Rotary position embedding in DeepSeek's layout, and YaRN.

Channel pairs are *adjacent* (0,1), (2,3), ...: each pair is one complex number, turned by ``position * frequency``.
Rotating halves instead, as most models do, is wrong for DeepSeek's weights. Only the decoupled rotary channels of
queries and of the one shared key are turned (DeepSeek-V2 report, section 2.1.3).

YaRN stretches the context by `factor`: fast frequencies stay, slow ones are divided by the factor, those in between are
blended (DeepSeek-V3 report, section 4.3); the softmax scale grows by ``(0.1 * mscale_all_dim * ln(factor) + 1)^2``.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from clearseek.config import ModelConfig, RopeScaling


def softmax_scale(config: ModelConfig) -> float:
    """Factor on query-key products: ``qk_head_dim ** -0.5``, times YaRN's correction where the config has YaRN."""
    scale: float = config.qk_head_dim**-0.5
    yarn = config.rope_scaling
    if yarn is not None and yarn.mscale_all_dim:
        scale *= yarn.growth(yarn.mscale_all_dim) ** 2
    return scale


def inverse_frequencies(config: ModelConfig) -> Tensor:
    """Angle per position of each channel pair: FP32 [qk_rope_head_dim / 2], in radians."""
    dim = config.qk_rope_head_dim
    frequency = config.rope_theta ** -(torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    yarn = config.rope_scaling
    if yarn is None:
        return frequency
    low, high = _correction_range(dim, config.rope_theta, yarn)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequency / yarn.factor * ramp + frequency * (1 - ramp)


def _correction_range(dim: int, theta: float, yarn: RopeScaling) -> tuple[int, int]:
    """Pair indices between which YaRN blends: (10, 23) for DeepSeek-V3."""

    def pair(rotations: float) -> float:
        wavelengths = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(wavelengths) / (2 * math.log(theta))

    return max(math.floor(pair(yarn.beta_fast)), 0), min(math.ceil(pair(yarn.beta_slow)), dim - 1)


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)  # cached for later calls, which may need gradients
def rotations(config: ModelConfig, start: int, length: int, device: torch.device) -> Tensor:
    """Unit complex numbers, times YaRN's multiplier, of positions start .. start + length - 1: complex64 [S, P / 2].

    The last few results are cached, so callers must not write into them.
    """
    position = torch.arange(start, start + length, dtype=torch.float32)
    angle = torch.outer(position, inverse_frequencies(config))
    yarn = config.rope_scaling
    magnitude = 1.0 if yarn is None else yarn.magnitude
    return torch.polar(torch.full_like(angle, magnitude), angle).to(device)


class Places(NamedTuple):
    """Positions of a batch's tokens."""

    turn: Tensor
    """Rotations, complex64 [S, P / 2], or [B, S, P / 2] where documents begin within sequences."""
    start_BS: Tensor | None = None
    """First position of each token's document, int64, where attention ends; None for one document a sequence."""
    document_T: Tensor | None = None
    """Number of each token's document in the batch, int64, ascending; None for one document a sequence."""


def places(
    config: ModelConfig, start: int, length: int, device: torch.device, start_BS: Tensor | None = None
) -> Places:
    """Positions start .. start + length - 1; with `start_BS`, each document begins at 0 again.

    DeepSeek-V3 packs documents into sequences without such isolation in pre-training (report, section 4.1), and
    isolates them in fine-tuning (section 5.1). Raises ValueError for a start after its token, or before the sequence.
    """
    turn_SP2 = rotations(config, start, length, device)
    if start_BS is None:
        return Places(turn_SP2)
    assert start == 0, "documents are told apart only from the first position on"
    place_BS = torch.arange(length, device=device) - start_BS
    if bool(((place_BS < 0) | (start_BS < 0)).any()):
        raise ValueError("a document starts before its sequence, or after one of its tokens")
    return Places(turn_SP2[place_BS], start_BS, (place_BS == 0).flatten().cumsum(0) - 1)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn adjacent channel pairs of `x` [..., P] by `turn`, complex64 [..., P / 2]: FP32 [..., P]."""
    pairs = torch.view_as_complex(x.float().contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)
