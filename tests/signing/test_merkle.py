from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.signing.merkle import check_proof, leaf_hash, proof, root

ITEMS = st.lists(st.binary(max_size=4), min_size=1, max_size=40)


def by_definition(items: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not items:
        return hashlib.sha256(b"").digest()
    if len(items) == 1:
        return hashlib.sha256(b"\0" + items[0]).digest()
    k = 1
    while 2 * k < len(items):
        k *= 2
    return hashlib.sha256(b"\1" + by_definition(items[:k]) + by_definition(items[k:])).digest()


def test_known_roots() -> None:
    # The test vectors of the certificate transparency project (google/certificate-transparency, merkle_tree_test).
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    items = [bytes.fromhex(each) for each in inputs]
    leaves = [leaf_hash(item) for item in items]
    assert root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root(leaves[:2]).hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"
    assert root(leaves).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_root_is_the_definition(items: list[bytes]) -> None:
    assert root([leaf_hash(item) for item in items]) == by_definition(items)


@given(ITEMS, st.data())
def test_any_other_leaf_gives_another_root(items: list[bytes], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(items) - 1))
    other = data.draw(st.binary(max_size=4).filter(lambda item: item != items[index]))
    changed = [*items[:index], other, *items[index + 1 :]]
    expected = by_definition(items)
    assert by_definition(changed) != expected and by_definition(items[1:]) != expected
    assert by_definition([*items, other]) != expected


@given(ITEMS, st.data())
def test_proofs_hold_and_wrong_ones_do_not(items: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(item) for item in items]
    top, count = root(leaves), len(leaves)
    index = data.draw(st.integers(0, count - 1))
    path = proof(leaves, index)
    assert len(path) <= max(count - 1, 0).bit_length()
    assert check_proof(leaves[index], index, count, path, top)
    assert not check_proof(leaf_hash(items[index] + b"x"), index, count, path, top)
    assert not check_proof(leaves[index], index, count, (*path, leaves[0]), top)
    assert not check_proof(leaves[index], index, count, path, leaf_hash(b"other"))
    assert not check_proof(leaves[index], count, count, path, top)
    assert not check_proof(leaves[index], -1, count, path, top)
    if path:
        assert not check_proof(leaves[index], index, count, path[:-1], top)
        where = data.draw(st.integers(0, len(path) - 1))
        flipped = bytes([path[where][0] ^ 1]) + path[where][1:]
        assert not check_proof(leaves[index], index, count, (*path[:where], flipped, *path[where + 1 :]), top)


def test_a_pair_of_hashes_is_no_item() -> None:
    leaves = [leaf_hash(b"a"), leaf_hash(b"b")]
    assert root([leaf_hash(leaves[0] + leaves[1])]) != root(leaves)


def test_no_proof_for_what_is_not_there() -> None:
    for index in (-1, 1):
        with pytest.raises(IndexError):
            proof([leaf_hash(b"a")], index)
