from __future__ import annotations

import math
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clearseek.evaluate.bits import compressed_bits_per_byte, held_out_bits, window_count
from clearseek.model.transformer import DeepSeekModel
from tests.tiny import tiny

VOCAB = 1 << 5


class Stub:
    """A model whose logits are 0 but for `gain` on the token it was just given."""

    def __init__(self, gain: float = 0.0) -> None:
        self.head_weight = torch.eye(VOCAB)
        self.gain = gain
        self.seen: list[Tensor] = []

    def __call__(self, tokens_BS: Tensor) -> Tensor:
        self.seen.append(tokens_BS)
        return self.gain * torch.nn.functional.one_hot(tokens_BS, VOCAB).float()


def bits(model: Any, tokens: Any, window: int, **options: Any) -> tuple[float, int]:
    return held_out_bits(model, np.asarray(tokens), window, **options)


@given(st.integers(0, 300), st.integers(1, 70), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_every_token_but_the_first_counts_once(length: int, window: int, batch: int) -> None:
    """With uniform logits each token costs exactly log2(V) bits."""
    total, predicted = bits(Stub(), np.arange(length) % VOCAB, window, batch=batch)
    assert predicted == max(0, length - 1)
    assert total == pytest.approx(5 * predicted, rel=1e-6)


@given(st.integers(2, 80), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_windows_partition_the_tokens_and_the_right_ones_count(length: int, window: int) -> None:
    """A model that expects every token to repeat: what a token costs depends on it alone, so sums tell them apart."""
    tokens = np.random.default_rng(length).integers(0, 3, length)
    gain = 5.0
    repeat, other = -gain + math.log(math.exp(gain) + VOCAB - 1), math.log(math.exp(gain) + VOCAB - 1)
    same = int((tokens[1:] == tokens[:-1]).sum())
    expected = (same * repeat + (length - 1 - same) * other) / math.log(2)
    assert bits(Stub(gain), tokens, window)[0] == pytest.approx(expected, rel=1e-5)
    each = [bits(Stub(gain), tokens, window, windows=[i]) for i in range(window_count(length, window))]
    assert sum(part[0] for part in each) == pytest.approx(expected, rel=1e-5)
    assert sum(part[1] for part in each) == length - 1 and all(part[1] > 0 for part in each)


def test_every_prediction_after_the_first_window_sees_half_a_window() -> None:
    stub = Stub()
    bits(stub, np.arange(100) % VOCAB, 16)
    starts = torch.cat(stub.seen)[:, 0].tolist()
    assert starts == [start % VOCAB for start in range(0, 89, 8)]


def test_equals_one_pass_over_a_stream_that_fits_in_the_window() -> None:
    model = DeepSeekModel(tiny().model).requires_grad_(False)
    model.initialise(0)
    tokens = np.random.default_rng(0).integers(0, 300, 41)
    logits = model.logits(torch.from_numpy(tokens[None, :-1]))[0].float()
    direct = torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[1:]), reduction="sum").item()
    for window in (40, 41, 64):
        total, predicted = bits(model, tokens, window)
        assert predicted == 40 and total == pytest.approx(direct / math.log(2), rel=1e-5)


def test_a_token_is_predicted_from_what_came_before_it_alone() -> None:
    model = DeepSeekModel(tiny().model).requires_grad_(False)
    model.initialise(0)
    tokens = np.random.default_rng(0).integers(0, 300, 200)
    changed = tokens.copy()
    changed[150:] = (changed[150:] + 1) % 300
    first = [i for i in range(window_count(200, 32)) if i * 16 + 32 < 150]
    assert bits(model, tokens, 32, windows=first) == bits(model, changed, 32, windows=first)
    assert bits(model, tokens, 32) != bits(model, changed, 32)


def test_progress_counts_windows() -> None:
    told: list[tuple[int, int]] = []
    bits(Stub(), np.arange(100) % VOCAB, 16, batch=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 12), (4, 12), (8, 12), (12, 12)]


TEXT = b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(3000))


def test_compressors_are_told_in_bits_per_byte() -> None:
    found = compressed_bits_per_byte(TEXT)
    assert 0 < found["xz -9 -e"] < found["gzip -9"] < 8
    noise = np.random.default_rng(0).bytes(100_000)
    assert all(8 <= value < 8.02 for value in compressed_bits_per_byte(noise).values())
    assert compressed_bits_per_byte(b"") == {}


@pytest.mark.parametrize(("command", "within"), [(["gzip", "-9"], 0.01), (["xz", "-9", "-e"], 0.001)])
def test_compressors_are_those_of_the_command_line(command: list[str], within: float) -> None:
    """gzip's own deflate differs from zlib's by a few bytes in a thousand; both have xz from liblzma."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    size = len(subprocess.run(command, input=TEXT, capture_output=True, check=True).stdout)
    assert compressed_bits_per_byte(TEXT)[" ".join(command)] == pytest.approx(8 * size / len(TEXT), rel=within)
