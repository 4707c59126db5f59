"""Sums and hashes over fixed chunks."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.train.chunks import CHUNK, chunk_norms, chunks, flat_hash, gradient_norm, hash_tensors, total_norm


def drawn(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) * 10.0 ** (i % 5) for i, size in enumerate(sizes)]


def test_the_norm_is_that_of_exact_arithmetic() -> None:
    gradients = drawn(3, CHUNK, 5 * CHUNK + 17, 1)
    exact = math.sqrt(math.fsum(float((g.double() ** 2).sum()) for g in gradients))
    assert gradient_norm(gradients) == pytest.approx(exact, rel=1e-6)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_the_norm_does_not_depend_on_how_chunks_are_shared_out(cuts: list[int]) -> None:
    """A process that holds some of the chunks has their norms; these, in order, give the bits of the whole."""
    gradient = drawn(sum(cuts) * CHUNK + 99)[0]
    parts = [part.clone() for part in gradient.split([*(cut * CHUNK for cut in cuts), 99])]
    assert gradient_norm(parts) == gradient_norm([gradient])


def test_the_norm_of_what_is_not_finite_is_not() -> None:
    assert math.isnan(gradient_norm([torch.tensor([1.0, math.nan])]))
    assert gradient_norm([torch.tensor([1.0, math.inf])]) == math.inf


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 127, 128, 129, 1000, 100_003])
def test_squares_are_added_one_after_the_other(count: int) -> None:
    """Not in pairs, nor in several sums side by side: the bits are those of a loop."""
    norms = np.random.default_rng(count).lognormal(0, 5, count).astype(np.float32)
    total = 0.0
    for norm in norms.tolist():
        total += norm * norm
    assert total_norm(norms) == math.sqrt(total)
    assert count < 1000 or math.sqrt(float((norms.astype(np.float64) ** 2).sum())) != math.sqrt(total)


def test_norms_are_taken_of_aligned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[list[torch.Tensor]] = []
    real = torch._foreach_norm
    monkeypatch.setattr(torch, "_foreach_norm", lambda parts: (taken.append(parts), real(parts))[1])
    memory = drawn(2 * CHUNK + 40)[0]
    views = [memory[first : first + CHUNK + 9] for first in range(5)]
    assert len({view.data_ptr() % 16 for view in views}) == 4
    found = [chunk_norms([view]) for view in views]
    assert all(part.data_ptr() % 16 == 0 for parts in taken for part in parts)
    assert all(torch.equal(each, chunk_norms([view.clone()])) for each, view in zip(found, views, strict=True))
    assert taken[0][0].data_ptr() == memory.data_ptr()  # no copy of what is aligned


def test_chunks_are_views_in_order() -> None:
    tensor = torch.arange(2.0 * CHUNK + 5).view(1, -1)
    assert [len(part) for part in chunks(tensor)] == [CHUNK, CHUNK, 5]
    assert torch.equal(torch.cat(list(chunks(tensor))), tensor.view(-1))
    assert chunks(tensor)[1].data_ptr() == tensor.data_ptr() + 4 * CHUNK


def test_hash_is_canonical() -> None:
    a, b = torch.arange(6.0).view(2, 3), torch.ones(2, dtype=torch.bfloat16)
    reference = hash_tensors([("a", a), ("b", b)])
    assert hash_tensors([("b", b), ("a", a)]) == reference
    assert hash_tensors([("a", a.T.contiguous().T), ("b", b)]) == reference  # layout
    assert hash_tensors([("a", torch.nn.Parameter(a)), ("b", b)]) == reference


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_hash_covers_large_tensors_to_their_end_chunk_by_chunk() -> None:
    numbers = np.arange(300_001, dtype="<f4")
    leaves = b"".join(sha256(numbers[i : i + 65_536].tobytes()) for i in range(0, 300_001, 65_536))
    expected = sha256(b'["w","float32",[300001]]\n' + leaves).hex()
    assert hash_tensors([("w", torch.from_numpy(numbers))]) == expected
    flat = sha256(b'["w","float32",[300001]]\n' + numbers.tobytes()).hex()
    assert flat_hash([("w", torch.from_numpy(numbers))]) == flat


def test_hash_of_known_bytes() -> None:
    expected = sha256(b'["x","bfloat16",[2]]\n' + sha256(b"\x80\x3f\x00\xc0")).hex()  # 1.0 and -2.0
    assert hash_tensors([("x", torch.tensor([1.0, -2.0], dtype=torch.bfloat16))]) == expected


@pytest.mark.parametrize(
    "other",
    [
        [("x", torch.zeros(4))],
        [("w", torch.zeros(2, 2))],
        [("x", torch.zeros(2, 2, dtype=torch.int32))],
        [("x", torch.tensor([[0.0, 0.0], [0.0, -0.0]]))],
        [("x", torch.zeros(2, 2)), ("y", torch.zeros(0))],
    ],
)
def test_hash_sees_name_dtype_shape_and_every_bit(other: list[tuple[str, torch.Tensor]]) -> None:
    assert hash_tensors(other) != hash_tensors([("x", torch.zeros(2, 2))])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_hash_takes_every_dtype_and_scalars(dtype: torch.dtype) -> None:
    tensors = {"scalar": torch.ones((), dtype=dtype), "empty": torch.empty(0, 3, dtype=dtype)}
    assert len(hash_tensors(tensors.items())) == 64


def test_hash_refuses_two_tensors_of_one_name() -> None:
    with pytest.raises(AssertionError, match="two tensors are called x"):
        hash_tensors([("x", torch.zeros(1)), ("x", torch.zeros(1))])
