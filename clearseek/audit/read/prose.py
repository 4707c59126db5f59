"""Restrictions that prose puts on a model: sentences of a card that take back what its licence gives.

A card is no licence, and most of its warnings are advice: "out-of-scope use", "we do not recommend", "should not be
relied on". So only sentences count that forbid, and that speak of the model or of its licence; those about a data set,
about another model, or under a heading about risks do not. What is not found may still be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit.read.card import Document
from clearseek.licences.clauses import Clause, in_prose, restrictions
from clearseek.licences.words import shorten

_MOST = 20
_LONGEST_SENTENCE = 4000
_MODEL = re.compile(
    r"\b(?:models?|weights?|checkpoints?|licen[cs]ed?|release[ds]?|project|repository|commercial use|rights)\b"
    r"|模型|权重|许可|协议|本项目|^(?:it|this|these|they)\b"
)
_LICENCE = re.compile(r"licen[cs]|terms|agreement|legal|usage restriction|use polic|copyright|许可|协议", re.I)
_ADVICE = re.compile(
    r"out[- ]of[- ]scope|risk|bias|limitation|misuse|ethic|recommend|disclaimer|safety|data|citation|related|acknowledg"
    r"|evaluation|benchmark|faq|how to|usage$|quick ?start|demo",
    re.I,
)
_ELSEWHERE = re.compile(
    r"\b(?:unlike|whereas|while other|other models|previous(?:ly)?|earlier|original(?:ly)?|formerly|no longer|prior"
    r"|not (?:restricted|limited|only)|commercial(?: use)?,? (?:and|or|as well as|&) non|recommend"
    r"|should|out[- ]of[- ]scope|data ?sets?|corpus|corpora|training data|demo|api"
    r"|dual[- ]licen[cs]|alternativ|trade ?marks?|logos?|for example|e\.g\.|base model|derived from)\b"
    r"|non[- ]?commercial(?: use)?,? (?:and|or|as well as|but also|&) commercial|数据"
    r"|sowohl|als auch|auch kommerziell|nicht nur|non seulement|aussi bien|no solo|não só|non solo|datens[aä]tz|données"
    r"|datos|dados|dati\b|データ|데이터|данны"
)
_LAWFUL = re.compile(
    r"\bexcept in compliance with the licen[cs]e\b|\bunless (?:required by applicable law|in compliance)\b"
    r"|\b(?:infring|misappropriat|violat)\w*\b.{0,80}\b(?:rights?|laws?)\b|\b(?:applicable|any) laws?\b"
)
"""Notices of open licences, and what the law forbids anyway: neither takes anything back."""
_PART = re.compile(r";\s+(?=[A-Z\"“(•-])")


def said_of_use(card: Document) -> tuple[Clause, ...]:
    """Sentences of a card that restrict the use of its model."""
    found: list[Clause] = []
    for line, text, headings in _spoken(card):
        low = text[:_LONGEST_SENTENCE].lower()
        flag, abroad = in_prose(low)
        if flag is None or _ELSEWHERE.search(low) or _LAWFUL.search(low):
            continue
        licence = bool(headings) and bool(_LICENCE.search(headings[-1]))
        advice = not licence and any(_ADVICE.search(heading) for heading in headings[1:] or headings)
        of_licence = licence or bool(_LICENCE.search(low))
        about = abroad or licence or bool(_MODEL.search(low))
        if not advice and about and (of_licence or flag != "field_of_use"):
            found.append(Clause(flag, shorten(text), line))
    return tuple(found[:_MOST])


def _spoken(card: Document) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Sentences and rows of tables: line, text, headings."""
    for sentence in card.sentences:
        begin = 0
        for match in (*_PART.finditer(sentence.text), None):
            end = match.end() if match else len(sentence.text)
            yield sentence.line_at(begin), sentence.text[begin:end].strip(), sentence.headings
            begin = end
    for cell in card.cells:
        if not cell.column:
            yield cell.line, " ".join(cell.row), card.headings[cell.line - 1]


def said_in_policy(policy: Document) -> tuple[Clause, ...]:
    """What a policy on use restricts."""
    kinds = ("field_of_use", "non_commercial", "user_cap", "no_compete", "geo_exclusion")
    return tuple(clause for clause in restrictions(policy.text) if clause.flag in kinds)[:_MOST]
