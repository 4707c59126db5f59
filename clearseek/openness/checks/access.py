"""Access: whether the weights can simply be had, or one must ask, sign in or agree first."""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.openness.checks.weights import weight_links
from clearseek.openness.evidence import Grade, Row
from clearseek.openness.subject import Subject

_GATE = re.compile(
    r"(?:accept|agree to) (?:our|the) (?:licen[cs]e|terms|agreement|acceptable use)|request access|access request|"
    r"request (?:is|has been|will be) (?:approved|processed)|gated (?:model|repo)|fill (?:out|in) .{0,30}form",
    re.I,
)


def rows(subject: Subject) -> Iterator[Row]:
    """Whether there is a gate before the weights."""
    title, name = "The weights can be had without asking", "barriers.access"
    gated = [key for key in subject.metadata.value or {} if key.startswith("extra_gated")]
    card = subject.card
    if gated and card is not None:
        reason = f"the card's metadata set up a gate: {', '.join(gated)}"
        yield Row(name, "impact", title, "no", Grade.CLAIMED, reason, (card.at(1, gated[0]),))
        return
    if getattr(subject.source, "gated", False):
        yield Row(name, "impact", title, "no", Grade.PRESENT, "the hub has a gate before the repository")
        return
    if subject.weight_files:
        yield Row(name, "impact", title, "yes", Grade.PRESENT, "they are here")
        return
    for document in subject.documents[:3]:
        for number, line in enumerate(document.lines, 1):
            if _GATE.search(line):
                reason = "a document asks to agree or to request first"
                yield Row(name, "impact", title, "no", Grade.CLAIMED, reason, (document.at(number),))
                return
    links = weight_links(subject)
    answer, grade = ("unknown", Grade.LINKED) if links else ("not applicable", Grade.ABSENT)
    reason = "linked; whether the place asks for anything was not looked at" if links else "there are no weights"
    yield Row(name, "impact", title, answer, grade, reason)  # type: ignore[arg-type]
