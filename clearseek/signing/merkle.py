"""One number that stands for a list, and short proofs that something is in it.

Hash every item, then hash the hashes in pairs until one is left, the root. Whoever knows the root can be shown that one
item belongs to the list with as many hashes as the tree is high, about twenty for a million items, and need not see the
rest. The tree is that of certificate transparency (RFC 6962, section 2.1, SHA-256):

    empty list      SHA-256()
    leaf            SHA-256(00 || item)
    n > 1 items     SHA-256(01 || root of the first k || root of the rest), k the largest power of two below n

The bytes 00 and 01 keep a pair of hashes from being passed off as an item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf_hash(item: bytes) -> bytes:
    """What a leaf of the tree is."""
    return hashlib.sha256(b"\0" + item).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over leaf hashes."""
    if not leaves:
        return hashlib.sha256().digest()
    # Full subtrees of falling size wait on the left, as the ones of a binary counter.
    waiting: list[tuple[int, bytes]] = []
    for leaf in leaves:
        size, node = 1, leaf
        while waiting and waiting[-1][0] == size:
            node = _node(waiting.pop()[1], node)
            size *= 2
        waiting.append((size, node))
    node = waiting.pop()[1]
    while waiting:
        node = _node(waiting.pop()[1], node)
    return node


def proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """The neighbours of one leaf on its way to the root, the lowest first (RFC 6962, section 2.1.1)."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    path: list[bytes] = []
    begin, end = 0, len(leaves)
    while end - begin > 1:
        middle = begin + (1 << ((end - begin - 1).bit_length() - 1))
        if index < middle:
            path.append(root(leaves[middle:end]))
            end = middle
        else:
            path.append(root(leaves[begin:middle]))
            begin = middle
    return tuple(reversed(path))


def check_proof(leaf: bytes, index: int, count: int, path: Sequence[bytes], expected: bytes) -> bool:
    """Whether a leaf stands at this place in a list of `count` with this root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < count:
        return False
    place, last, node = index, count - 1, leaf
    for neighbour in path:
        if last == 0:
            return False
        if place % 2 or place == last:
            node = _node(neighbour, node)
            while place % 2 == 0 and place:
                place //= 2
                last //= 2
        else:
            node = _node(node, neighbour)
        place //= 2
        last //= 2
    return last == 0 and node == expected


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
