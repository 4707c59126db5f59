"""Rearranged documents lose nothing, at the rate asked for."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from clearseek.data.fim import rearranged


@given(st.text(), st.integers(0, 2**63))
def test_pieces_reassemble(text: str, seed: int) -> None:
    pieces = rearranged(text, hashlib.sha256(text.encode()).hexdigest(), 1.0, seed)
    assert pieces is not None
    assert "".join(pieces) == text


@given(st.text(), st.integers(0, 2**63))
def test_rate_zero_leaves_everything(text: str, seed: int) -> None:
    assert rearranged(text, hashlib.sha256(text.encode()).hexdigest(), 0.0, seed) is None


def test_rate_places_and_seed() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4000)]
    chosen = {seed: [rearranged("x" * 99, sha256, 0.1, seed) for sha256 in hashes] for seed in (0, 1)}
    assert 340 < sum(cut is not None for cut in chosen[0]) < 460  # 400 +- 3 standard deviations
    assert chosen[0] != chosen[1]
    everywhere = [rearranged("x" * 99, sha256, 1.0, 0) or ("", "", "") for sha256 in hashes]
    for piece in range(3):  # two uniform places: each piece is a third on average
        assert 31 < sum(len(cut[piece]) for cut in everywhere) / len(hashes) < 35
    assert {len(cut[0]) for cut in everywhere} >= {0, 1, 50}


def test_every_place_of_a_document_can_be_cut() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(300)]
    cuts = {rearranged("ab", sha256, 1.0, 0) for sha256 in hashes}
    places = ("", "a", "ab")
    assert cuts == {
        (start, end.removeprefix(start), "ab"[len(end) :]) for start in places for end in places if end >= start
    }
