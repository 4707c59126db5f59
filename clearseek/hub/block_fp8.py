"""Block FP8: matrices in eight bits with one scale per 128 x 128 block, decoded and encoded, to the same bytes too.

Decoding is ``code * scale`` in FP32, rounded to BF16. A code has 4 significant bits and BF16 has 8, so the scale gives
the code back: dividing gives a number nearest to the code. The scale itself is lost, since the largest number of a
block tells the scale only if its code was 448. So the same bytes can be had again only from kept scales. :func:`encode`
takes an old scale for a block if, and only if, its codes decode to exactly the block's numbers; a block trained since
gets a new scale. So an old scale that is stale, or another model's, does no harm.

Shapes: N rows, K columns, G blocks along rows or columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.errors import UserError
from clearseek.fp8.formats import TILE, to_e4m3
from clearseek.fp8.quantise import quantise_blocks

SAFE_SCALES: Final = (2.0**-117, 2.0**118)
"""Range of scales within which every code times the scale is a normal BF16 number."""
DTYPE_NAMES: Final = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
"""Names of wide types in safetensors."""
_LARGEST_FINITE: Final = {"BF16": (torch.int16, 0x7F7F), "F16": (torch.int16, 0x7BFF), "F32": (torch.int32, 0x7F7FFFFF)}
_E8M0_ZERO: Final = 0x00400000
"""FP32 bits of 2^-127, E8M0's smallest number."""


class Encoded(NamedTuple):
    """A matrix, or some of its rows, in eight bits."""

    codes: Tensor
    """Codes, uint8 [N, K]."""
    scale: Tensor
    """Scales, FP32 [G, G]."""
    kept: int
    """Number of blocks that took their old scale."""


def wide_scale(scale: Tensor) -> Tensor:
    """Scales in FP32: unchanged, or from E8M0, which is the exponent of an FP32 number."""
    if scale.dtype == torch.float32:
        return scale
    codes = scale.view(torch.uint8).int()
    # 0 is 2^-127, half of the smallest normal number, and 255 is NaN
    bits = torch.where(codes == 0, _E8M0_ZERO, torch.where(codes == 255, 0x7FC00000, codes << 23))
    return bits.int().view(torch.float32)


def narrow_scale(scale: Tensor) -> Tensor:
    """E8M0 codes (uint8) of FP32 powers of two."""
    return (scale.view(torch.int32) >> 23).to(torch.uint8)


def check_scale(scale: Tensor, where: str, power_of_two: bool) -> None:
    """Raise UserError, which begins with `where`, unless every scale is positive, and if `power_of_two` a power of two.

    Engines pack powers of two into eight bits; they would round other scales, and change the numbers.
    """
    wrong = ~(scale.isfinite() & (scale > 0))
    says = ": it must be a positive number; the file is damaged"
    if power_of_two and not wrong.any():
        wrong = ~_is_power_of_two(scale)
        says = ', not a power of two, but config.json says scale_fmt = "ue8m0": correct whichever is wrong'
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise UserError(f"{where}: the scale of block [{row}, {column}] is {scale[row, column].item()}{says}")


def _is_power_of_two(scale: Tensor) -> Tensor:
    bits = scale.view(torch.int32)
    return ((bits & 0x007FFFFF) == 0) | (bits == _E8M0_ZERO)


def check_finite(raw: Tensor, dtype: str, where: str) -> None:
    """Raise UserError, which begins with `where`, if bytes of type BF16, F16 or F32 hold NaN or infinity."""
    integer, largest = _LARGEST_FINITE[dtype]
    # Without their sign, floats are ordered like integers, with infinity and NaN on top.
    if raw.numel() and (raw.view(integer) & torch.iinfo(integer).max).amax() > largest:
        raise UserError(f"{where} holds NaN or infinity: the file is damaged")


def decode(codes_NK: Tensor, scale_GG: Tensor, where: str) -> Tensor:
    """BF16 [N, K] of uint8 codes (E4M3) and positive FP32 scales.

    Raises:
        UserError: a code is NaN, or BF16 cannot hold the numbers: infinite, or so small that the codes are lost. The
            message begins with `where`.
    """
    if (codes_NK & 0x7F).amax() == 0x7F:
        raise UserError(f"{where} holds NaN: the file is damaged")
    values_NK = _values(codes_NK, scale_GG)
    smallest, largest = scale_GG.aminmax()
    if largest > SAFE_SCALES[1] and not values_NK.isfinite().all():
        raise UserError(f"{where} has numbers too large for BF16 (a scale of {largest.item()}): the file is damaged")
    if smallest < SAFE_SCALES[0] and not torch.equal(_codes(values_NK, scale_GG), codes_NK):
        raise UserError(f"{where} has numbers too small for BF16 (a scale of {smallest.item()}): the file is damaged")
    return values_NK


def encode(w_NK: Tensor, power_of_two: bool, where: str, old_scale_GG: Tensor | None = None) -> Encoded:
    """Quantise a matrix, or whole blocks of its rows, as `quantise_blocks` does.

    Args:
        w_NK: BF16, F16 or FP32; rounded once.
        power_of_two: Round new scales up to powers of two.
        where: Beginning of the message of the UserError about NaN and infinity.
        old_scale_GG: FP32 scales of any values, taken for blocks that they give exactly.
    """
    check_finite(w_NK, DTYPE_NAMES[w_NK.dtype], where)
    blocks, same_GG = 0, None
    if old_scale_GG is not None:
        codes_NK = _codes(w_NK, old_scale_GG)
        same_GG = _same_blocks(codes_NK, w_NK, old_scale_GG)
        if power_of_two:
            same_GG &= _is_power_of_two(old_scale_GG)
        blocks = int(same_GG.sum())
        if blocks == same_GG.numel():
            return Encoded(codes_NK, old_scale_GG, blocks)
    fresh = quantise_blocks(w_NK, power_of_two)
    if not blocks or same_GG is None or old_scale_GG is None:
        return Encoded(fresh.data.view(torch.uint8), fresh.scale, 0)
    same_NK = same_GG.repeat_interleave(TILE, 0)[: len(w_NK)].repeat_interleave(TILE, 1)[:, : w_NK.shape[1]]
    codes_NK = torch.where(same_NK, codes_NK, fresh.data.view(torch.uint8))
    return Encoded(codes_NK, torch.where(same_GG, old_scale_GG, fresh.scale), blocks)


def _values(codes_NK: Tensor, scale_GG: Tensor) -> Tensor:
    """BF16 of uint8 codes; NaN becomes a number.

    Integer operations do it, since PyTorch converts eight-bit floats one by one: E4M3's exponent and fraction, moved to
    FP16's places, are the number times 2^-8, subnormal numbers included.
    """
    bits_NK = codes_NK.view(torch.int8).to(torch.int16).bitwise_left_shift_(7)
    x_NK = bits_NK.bitwise_and_(-0x4080).view(torch.float16).float().mul_(256.0)  # sign, a zero, 7 bits
    for part, scale in _with_scales(x_NK, scale_GG):
        part.mul_(scale)
    return x_NK.bfloat16()


def _codes(w_NK: Tensor, scale_GG: Tensor) -> Tensor:
    """Codes (uint8) of numbers under these scales."""
    x_NK = w_NK.float()
    for part, scale in _with_scales(x_NK, scale_GG):
        part.div_(scale)
    return to_e4m3(x_NK).view(torch.uint8)


def _same_blocks(codes_NK: Tensor, w_NK: Tensor, scale_GG: Tensor) -> Tensor:
    """Whether a block's codes decode to exactly its numbers, signs of zeros included: bool [G, G]."""
    back_NK = _values(codes_NK, scale_GG)
    if w_NK.dtype == torch.bfloat16:
        same_NK = back_NK.view(torch.int16) == w_NK.view(torch.int16)
    else:
        same_NK = back_NK.float().view(torch.int32) == w_NK.float().view(torch.int32)
    usable_GG = scale_GG.isfinite() & (scale_GG > 0)
    if same_NK.all():
        return usable_GG
    missing = [-size % TILE for size in reversed(same_NK.shape)]
    padded = F.pad(same_NK, (0, missing[0], 0, missing[1]), value=True)
    same_GG: Tensor = padded.unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE)).all(-1).all(1)
    return same_GG & usable_GG


def _with_scales(x_NK: Tensor, scale_GG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield views of a matrix with scales that broadcast over them: the full blocks of rows, then the rest."""
    across_GK = scale_GG.repeat_interleave(TILE, 1)[:, : x_NK.shape[1]]
    full = len(x_NK) // TILE
    yield x_NK[: full * TILE].unflatten(0, (full, TILE)), across_GK[:full, None]
    if len(x_NK) % TILE:
        yield x_NK[full * TILE :], across_GK[full]
