"""Fill in the middle: some documents are learnt as prefix, suffix, middle.

A model that only continues text cannot complete a gap. DeepSeek-V3 (arXiv:2412.19437, section 4.1) rearranges a tenth
of its documents, before packing, as ``<fim_begin> prefix <fim_hole> suffix <fim_end> middle <eos>`` (PSM, after
Bavarian et al., 2022, arXiv:2207.14255), so that the same left-to-right objective teaches filling gaps. Which
documents, and where they are cut, are functions of the seed and the document's own hash: neither order nor neighbours
matter.
"""

from __future__ import annotations

import hashlib


def rearranged(text: str, sha256: str, rate: float, seed: int) -> tuple[str, str, str] | None:
    """Prefix, middle and suffix of a document that is to be rearranged, or None for one that stays as it is.

    Args:
        text: The document; cut between characters, each of the two places being uniform over all.
        sha256: Hex digest of its bytes.
        rate: Share of documents to rearrange, 0 to 1.
        seed: Another seed chooses other documents and places.
    """
    draws = hashlib.sha256(f"fim {seed} {sha256}".encode()).digest()
    chance, *places = (int.from_bytes(draws[at : at + 8], "big") for at in (0, 8, 16))
    if chance >= rate * 2**64:
        return None
    first, second = sorted(place * (len(text) + 1) >> 64 for place in places)
    return text[:first], text[first:second], text[second:]
