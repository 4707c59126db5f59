from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.errors import UserError
from clearseek.fp8.formats import next_power_of_two
from clearseek.fp8.quantise import dequantise, quantise_blocks
from clearseek.hub.block_fp8 import SAFE_SCALES, check_finite, check_scale, decode, encode
from tests.hub.checkpoints import decoded, e4m3_values, encoded

ALL_CODES = torch.tensor([code for code in range(256) if code & 0x7F != 0x7F], dtype=torch.uint8)
SIZE = st.one_of(st.integers(1, 300), st.sampled_from([127, 128, 129, 255, 256, 257]))


def random_codes(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return ALL_CODES[torch.randint(0, len(ALL_CODES), (rows, columns), generator=generator)]


def random_scales(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.exp2(torch.randn((-(-rows // 128), -(-columns // 128)), generator=generator) * 20 - 10)


def same(left: Tensor, right: Tensor) -> bool:
    """Equal to the bit."""
    return left.shape == right.shape and torch.equal(left.view(torch.int16), right.view(torch.int16))


@given(SIZE, SIZE, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_decoding_is_the_product_rounded(rows: int, columns: int, seed: int) -> None:
    codes, scale = random_codes(rows, columns, seed), random_scales(rows, columns, seed)
    values = decode(codes, scale, "x")
    assert same(values, decoded(codes, scale))
    eight = codes.view(torch.float8_e4m3fn)
    assert same(values, dequantise(type(quantise_blocks(values, False))(eight, scale), torch.bfloat16))


@given(SIZE, SIZE, st.integers(0, 1000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_encoding_is_deepseeks_block_by_block(rows: int, columns: int, seed: int, power_of_two: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = (torch.randn(rows, columns, generator=generator) * 10.0 ** (seed % 12 - 9)).bfloat16()
    made = encode(w, power_of_two, "x")
    codes, scale = encoded(w, power_of_two)
    assert torch.equal(made.scale, scale)
    assert torch.equal(made.codes, codes.view(torch.uint8))
    assert made.kept == 0


@given(SIZE, SIZE, st.integers(0, 1000), st.booleans())
@settings(max_examples=40, deadline=None)
def test_codes_come_back_under_their_scales(rows: int, columns: int, seed: int, power_of_two: bool) -> None:
    codes, scale = random_codes(rows, columns, seed), random_scales(rows, columns, seed)
    if power_of_two:
        scale = next_power_of_two(scale)
    made = encode(decode(codes, scale, "x"), power_of_two, "x", scale)
    assert torch.equal(made.codes, codes) and torch.equal(made.scale, scale)
    assert made.kept == scale.numel()


@pytest.mark.parametrize("low", [*SAFE_SCALES, 1e-30, 1e-4 / 448, 1.0, 3e30])
def test_every_code_comes_back_under_scales_of_every_size(low: float) -> None:
    draw = torch.rand(2000, generator=torch.Generator().manual_seed(0))
    for scale in [low, *(low * (1 + draw[:200])).tolist()]:
        scales = torch.tensor([[scale]], dtype=torch.float32).clamp(*SAFE_SCALES)
        values = decode(ALL_CODES.view(2, 127), scales, "x")
        assert values.isfinite().all()
        assert torch.equal(encode(values, False, "x", scales).codes, ALL_CODES.view(2, 127))


def test_power_of_two_scales_stay_so() -> None:
    """Engines that hold such scales in eight bits would round others: not accepted, and not kept from before."""
    codes, scale = random_codes(300, 260, 4), random_scales(300, 260, 4)
    scale[1, 2] = next_power_of_two(scale[1, 2])
    made = encode(decode(codes, scale, "x"), True, "x", scale)
    assert torch.equal(made.scale, next_power_of_two(made.scale)) and made.kept == 1
    check_scale(made.scale, "x", True)
    with pytest.raises(UserError, match=r'^x: the scale of block \[0, 0\] is .*, not a power of two, .* "ue8m0"'):
        check_scale(scale, "x", True)


def test_a_block_that_changed_gets_a_scale_of_its_own() -> None:
    codes, scale = random_codes(300, 260, 3), random_scales(300, 260, 3)
    w = decode(codes, scale, "x")
    w[130, 5] = (w[130, 5].float() * 1.01 + 1e-3).bfloat16()
    w[299, 259] = 7e4
    made, fresh = encode(w, False, "x", scale), quantise_blocks(w, False)
    changed = torch.zeros(3, 3, dtype=torch.bool)
    changed[1, 0] = changed[2, 2] = True
    assert made.kept == 7
    assert torch.equal(made.scale, torch.where(changed, fresh.scale, scale))
    elements = changed.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :260]
    assert torch.equal(made.codes, torch.where(elements, fresh.data.view(torch.uint8), codes))


@pytest.mark.parametrize("useless", [0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 3e38, 2.0])
def test_useless_old_scales_do_no_harm(useless: float) -> None:
    for w in (torch.randn(130, 140).bfloat16(), -torch.ones(130, 140).bfloat16()):
        fresh = quantise_blocks(w, False)
        made = encode(w, False, "x", torch.full((2, 2), useless))
        exact = useless == 2.0 and bool((w == -1).all())  # -0.5 times 2 is what is there
        assert made.kept == (4 if exact else 0)
        values = decode(made.codes, made.scale, "x")
        assert same(values, w) if exact else torch.equal(made.codes, fresh.data.view(torch.uint8))
        assert made.scale.isfinite().all() and (made.scale > 0).all()


@pytest.mark.parametrize(("useless", "number"), [(-1.0, -1.0), (0.0, 0.0), (0.0, -0.0)])
def test_a_useless_scale_is_not_taken_beside_a_block_that_changed(useless: float, number: float) -> None:
    """Codes that would give the block's numbers under it are no reason to keep it."""
    w = torch.full((130, 128), number).bfloat16()
    w[129, 5] = 0.3
    made, fresh = encode(w, False, "x", torch.tensor([[useless], [1.0]])), quantise_blocks(w, False)
    assert made.kept == 0 and torch.equal(made.scale, fresh.scale)
    assert torch.equal(made.codes, fresh.data.view(torch.uint8))


def test_a_negative_scale_is_never_taken() -> None:
    codes, scale = random_codes(128, 128, 0), torch.tensor([[-0.5]])
    mirrored = decode(codes ^ 0x80, -scale, "x")  # what these codes would give under it
    assert encode(mirrored, False, "x", scale).kept == 0


def test_signs_of_zeros_survive() -> None:
    codes = torch.tensor([[0x00, 0x80, 0x01, 0x81]], dtype=torch.uint8)
    values = decode(codes, torch.tensor([[0.3]]), "x")
    assert torch.signbit(values).tolist() == [[False, True, False, True]]
    assert torch.equal(encode(values, False, "x", torch.tensor([[0.3]])).codes, codes)


def test_zeros_have_deepseeks_smallest_scale() -> None:
    made = encode(torch.zeros(5, 5).bfloat16(), False, "x")
    assert made.scale.item() == np.float32(1e-4) / np.float32(448) and not made.codes.any()


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_nan_codes_are_refused(code: int) -> None:
    codes = random_codes(200, 200, 0)
    codes[199, 131] = code
    with pytest.raises(UserError, match="the tensor holds NaN"):
        decode(codes, torch.ones(2, 2), "the tensor")


def test_scales_that_bf16_cannot_follow_are_refused() -> None:
    with pytest.raises(UserError, match="too large for BF16"):
        decode(ALL_CODES.view(2, 127), torch.tensor([[1e38]]), "x")
    with pytest.raises(UserError, match="too small for BF16"):
        decode(ALL_CODES.view(2, 127), torch.tensor([[1e-38]]), "x")
    few = torch.tensor([[0x00, 0x38]], dtype=torch.uint8)  # 0 and 1, which fit even there
    for scale in (1e38, 2.0**-120):
        values = decode(few, torch.tensor([[scale]]), "x")
        assert torch.equal(encode(values, False, "x", torch.tensor([[scale]])).codes, few)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), float("-1e-5"), 0.0, -0.0])
def test_scales_must_be_positive_numbers(wrong: float) -> None:
    scale = torch.ones(3, 2)
    check_scale(scale, "x", False)
    scale[2, 1] = wrong
    with pytest.raises(UserError, match=r"a\.safetensors: w: the scale of block \[2, 1\]"):
        check_scale(scale, "a.safetensors: w", False)


@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float32, "F32")])
def test_numbers_must_be_finite(dtype: torch.dtype, name: str) -> None:
    fine = torch.tensor([0.0, -0.0, torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny])
    check_finite(fine.to(dtype).view(torch.uint8), name, "x")
    check_finite(torch.empty(0, dtype=torch.uint8), name, "x")
    for wrong in ("nan", "inf", "-inf", "-nan"):
        bad: Any = fine.to(dtype).clone()
        bad[3] = -torch.tensor(float("nan")) if wrong == "-nan" else float(wrong)
        with pytest.raises(UserError, match="NaN or infinity"):
            check_finite(bad.view(torch.uint8), name, "x")
    w = torch.ones(130, 130).bfloat16()
    w[129, 129] = float("nan")
    for old in (None, torch.full((2, 2), float("nan")), torch.ones(2, 2)):
        with pytest.raises(UserError, match="NaN or infinity"):
            encode(w, True, "x", old)


def test_decoding_is_transformers() -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    codes, scale = random_codes(384, 256, 5), random_scales(384, 256, 5)
    theirs = fp8.Fp8Dequantize(None)._dequantize_one(codes.view(torch.float8_e4m3fn), scale, torch.bfloat16)
    assert same(decode(codes, scale, "x"), theirs)


def test_the_table_of_codes_is_torchs() -> None:
    theirs = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(e4m3_values(), theirs)
