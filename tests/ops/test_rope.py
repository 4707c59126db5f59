from __future__ import annotations

import cmath
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearseek.config import ModelConfig, RopeScaling
from clearseek.ops.rope import inverse_frequencies, rotate, rotations, softmax_scale
from clearseek.recipe import load_recipe
from tests.model.test_parity import BASE


def test_rotation_turns_adjacent_pairs_as_complex_numbers() -> None:
    config = ModelConfig(**BASE)
    x = torch.randn(5, config.qk_rope_head_dim)
    turned = rotate(x, rotations(config, 7, 5, torch.device("cpu")))
    for row in range(5):
        for pair in range(config.qk_rope_head_dim // 2):
            angle = (7 + row) * config.rope_theta ** (-2 * pair / config.qk_rope_head_dim)
            z = complex(x[row, 2 * pair].item(), x[row, 2 * pair + 1].item()) * cmath.exp(1j * angle)
            assert turned[row, 2 * pair].item() == pytest.approx(z.real, abs=1e-5)
            assert turned[row, 2 * pair + 1].item() == pytest.approx(z.imag, abs=1e-5)


@given(start=st.integers(0, 400), shift=st.integers(1, 100))
def test_dot_products_depend_on_distance_alone(start: int, shift: int) -> None:
    config = ModelConfig(**BASE)
    generator = torch.Generator().manual_seed(start)
    q, k = torch.randn(2, config.qk_rope_head_dim, generator=generator)

    def score(position: int) -> float:
        turn = rotations(config, position, shift + 1, torch.device("cpu"))
        return float(rotate(q, turn[shift]) @ rotate(k, turn[0]))

    assert score(start) == pytest.approx(score(0), abs=2e-3)  # FP32 angles of a few hundred radians


def test_v3_softmax_scales_and_frequencies_are_the_published_ones() -> None:
    v3 = load_recipe("v3-671b").model
    assert softmax_scale(v3) == pytest.approx(0.1352338, abs=1e-7)
    assert softmax_scale(load_recipe("v2-lite-16b").model) == pytest.approx(0.1147214, abs=1e-7)
    plain = inverse_frequencies(v3.model_copy(update={"rope_scaling": None}))
    ratio = inverse_frequencies(v3) / plain
    assert torch.equal(ratio[:11], torch.ones(11))
    assert torch.allclose(ratio[23:], torch.full((9,), 1 / 40))
    assert (ratio[11:23].diff() < 0).all()


def test_yarn_blends_up_to_pairs_that_the_head_does_not_have() -> None:
    # By hand, from DeepSeek-V3's model.py: pairs 2 and 5 for 32 and 1 turns in 163,840 positions, of 8 channels' four.
    yarn = RopeScaling(factor=4.0, original_max_position_embeddings=163_840, beta_fast=32.0, beta_slow=1.0)
    config = ModelConfig(**(BASE | {"rope_scaling": yarn, "qk_rope_head_dim": 8, "rope_theta": 10_000.0}))
    low = math.floor(8 * math.log(163_840 / (32 * 2 * math.pi)) / (2 * math.log(10_000)))
    assert (low, math.ceil(8 * math.log(163_840 / (2 * math.pi)) / (2 * math.log(10_000)))) == (2, 5)
    ramps = [0.0, 0.0, 0.0, 1 / 3]
    expected = [10_000 ** (-i / 4) * (ramp / 4 + 1 - ramp) for i, ramp in enumerate(ramps)]
    assert inverse_frequencies(config).tolist() == pytest.approx(expected, rel=1e-6)


def test_mscale_multiplies_cos_and_sin_by_the_ratio() -> None:
    yarn = RopeScaling(factor=40.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=1.0)
    config = ModelConfig(**(BASE | {"rope_scaling": yarn}))
    expected = (0.0707 * math.log(40) + 1) / (0.1 * math.log(40) + 1)
    assert rotations(config, 3, 2, torch.device("cpu")).abs().mean().item() == pytest.approx(expected, rel=1e-6)
