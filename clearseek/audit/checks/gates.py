"""What a release's documents say of access to its weights: a gate before them, or none."""

from __future__ import annotations

import re

from clearseek.reading.evidence import Evidence
from clearseek.reading.identity import normalise
from clearseek.reading.mentions import of_another, own_documents
from clearseek.reading.subject import Subject
from clearseek.reading.words import cue

_LONGEST = 2_000

GATE = cue("gate")
_ASKS = re.compile(
    "request|accept|agree|sign|acknowledg|appl|ask|gate|form|questionnaire|approv|regist|log|submit|account|申|填|同意|签|无需|antrag"
    "|anmeld|demande|inscri|solicit|フォーム", re.I
)  # fmt: skip
"""What any gate has; most sentences have nothing of it."""
NO_GATE = cue("no_gate")
_BASELINE = re.compile(r"\b(?:baselines?|compar\w+)\b|对比", re.I)
_THE_WEIGHTS = cue("weights_said")
_ELSEWHERE = cue("another_gate")
"""Forms for a use, a service or another model: a matter of the licence, or of another thing than the weights."""
_LICENCE = re.compile(r"licen[cs]|lizenz|terms|disclaimer|协议|许可|声明", re.I)
_FETCH = re.compile(r"download|access|obtain|get the|下载|获取", re.I)


def said_of_access(subject: Subject, words: re.Pattern[str]) -> Evidence | None:
    """The first sentence of these words that is about this model's weights."""
    names = frozenset(map(normalise, subject.names))
    for document in own_documents(subject)[:6]:
        for sentence in document.sentences:
            match = words.search(sentence.text[:_LONGEST]) if _ASKS.search(sentence.text[:_LONGEST]) else None
            if match is None or _ELSEWHERE.search(sentence.text) or (words is GATE and NO_GATE.search(sentence.text)):
                continue
            licence = _LICENCE.search(" ".join(sentence.headings[-1:])) and not _FETCH.search(sentence.text)
            own = {each for link in sentence.block.links if (each := subject.is_own(link.target)) is not None}
            spoken = _THE_WEIGHTS.search(sentence.text) or True in own
            if (
                spoken
                and not licence
                and own != {False}
                and not of_another(sentence.text[: match.start()], names)
                and not _BASELINE.search(sentence.text)
            ):
                return document.at(sentence.line_at(match.start()), sentence.text)
    return None
