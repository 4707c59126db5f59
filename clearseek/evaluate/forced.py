"""Records forced through their model: how probable does it find what it is said to have written?

On another kind of machine an answer may come out otherwise: where two tokens are almost equally likely, rounding
decides, and all after it differs. But the log-probabilities of the recorded ids, each given those before it, differ by
rounding alone, and a greedy answer's ids are the likeliest but for rounding. So a record can be contradicted on any
machine, also by one that cannot make it again to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clearseek.evaluate.answerers import Local
from clearseek.evaluate.logits import CLOSE
from clearseek.evaluate.records import Head, Record

FORM: Final = "F32"
"""How weights were stored where rounding is known to stay below :data:`clearseek.evaluate.logits.CLOSE`; of others
nothing is contradicted."""


def contradiction(local: Local, head: Head, stated: Record, found: Record) -> str:
    """What of a record is more than rounding away from its model, in words, or an empty string.

    Args:
        local: The model.
        head: First line of the record's file.
        stated: The record.
        found: What came when its question was asked again.
    """
    if stated.missing != found.missing or stated.prompt_ids != found.prompt_ids:
        return "an answer came for one of them alone, or another prompt was read"
    if stated.missing or head.environment.get("weights stored as") != FORM:
        return ""
    prompt, ids, logprobs = stated.prompt_ids, stated.output_ids, stated.logprobs
    if prompt is None or ids is None or logprobs is None or len(ids) != len(logprobs):
        return "its ids or log-probabilities are missing"
    if ids == found.output_ids:
        return _far(found.logprobs or [], logprobs)
    read, fault = local.chosen(prompt, ids, alternatives=1)
    if fault:
        return f"its ids cannot be read: {fault}"
    ours = [each.logprob for each in read if each.logprob is not None]
    if head.settings.get("temperature") == 0.0:
        for place, (each, logprob) in enumerate(zip(read, ours, strict=True)):
            if not logprob >= each.alternatives[0][1] - CLOSE:
                return f"id {place} of its output is not the likeliest"
    return _far(ours, logprobs)


def _far(ours: Sequence[float], stated: Sequence[float]) -> str:
    """The first log-probability that is more than rounding away, in words, or an empty string."""
    for place, (one, other) in enumerate(zip(ours, stated, strict=True)):
        if not abs(one - other) <= CLOSE:
            return f"id {place} of its output has the log-probability {one:.6f}, not {other:.6f}"
    return ""
