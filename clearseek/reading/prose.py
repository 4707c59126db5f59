"""Restrictions that prose puts on a model: sentences of a card that take back what its licence gives.

A card is no licence, and most of its warnings are advice: "out-of-scope use", "we do not recommend", "should not be
relied on". So only sentences count that forbid, and that speak of the model or of its licence; those about a data set,
about another model, or under a heading about risks do not. Where one clause of a sentence forbids by itself, it alone
is judged: what the sentence goes on to recommend takes nothing back. What is not found may still be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.licences.clauses import Clause, in_prose, restrictions
from clearseek.licences.words import shorten
from clearseek.reading.card import Document
from clearseek.reading.topics import Own, judge, subject_of

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


_CLAUSE = re.compile(r"[,;:]\s+|\s[\u2013\u2014-]+\s|\s(?:that|but|because|while)\s|\s\(")
_RELATIVE = re.compile(r"(?:which|whose|who|where|whereas|unlike)\b")
_THE_MODEL = re.compile(r"\b(?:this|the|our|these) (?:[\w.-]+ ){0,2}?(?:models?|weights?|checkpoints?)\b")
_NO_BAN = re.compile(
    r"\bno commercial use (?!of\b|is\b|are\b|allowed|permitted|without|or\b|and\b|for\b|by\b|in\b|unless|what)\w"
    r"|\bno (?:\w+ ){0,2}(?:prohibit|forbid|ban|restrict)\w*|\b(?:wrote|writes|says|said|claims?)\b"
    r"|\b(?:do|does|is|are) not (?:prohibit|forbid|ban|restrict)\w*|\bnobody (?:prohibit|forbid)"
)
"""Says that nothing is forbidden, or what somebody else said."""
_NO_PLACE = re.compile(
    r"not apply in (?:the )?(?:cases?|event|respect|relation|so far|addition|any way|practice|full)\b"
)


def said_of_use(card: Document, own: Own | None = None) -> tuple[Clause, ...]:
    """Sentences of a card that restrict the use of its model."""
    found: list[Clause] = []
    for line, text, headings in _spoken(card, own or Own()):
        sentence = text[:_LONGEST_SENTENCE]
        flag, abroad = in_prose(sentence)
        if flag is None or _NO_BAN.search(sentence.lower()) or _NO_PLACE.search(sentence.lower()):
            continue
        alone = _banning(sentence)
        said = alone or sentence
        low = said.lower()
        if _ELSEWHERE.search(low) or _LAWFUL.search(sentence.lower()) or _of_others(said, own or Own()):
            continue
        licence = bool(headings) and bool(_LICENCE.search(headings[-1]))
        advice = not licence and any(_ADVICE.search(heading) for heading in headings[1:] or headings)
        sure = bool(alone) and flag != "field_of_use" and bool(_THE_MODEL.search(low))
        of_licence = licence or bool(_LICENCE.search(low))
        about = abroad or licence or bool(_MODEL.search(low))
        if (sure or not advice) and about and (of_licence or flag != "field_of_use"):
            found.append(Clause(flag, shorten(text), line))
            if len(found) >= _MOST:
                break
    return tuple(found)


def _banning(sentence: str) -> str:
    """The clause that forbids by itself, or an empty text."""
    begin = 0
    for match in (*_CLAUSE.finditer(sentence), None):
        clause = sentence[begin : match.start() if match else len(sentence)]
        if in_prose(clause)[0] is not None:
            return "" if _RELATIVE.match(clause.strip().lower()) else clause
        begin = match.end() if match else begin
    return ""


def _of_others(clause: str, own: Own) -> bool:
    """Whether a clause says that something else is restricted, or that others restrict."""
    return judge(subject_of(clause), own) is False


def _spoken(card: Document, own: Own) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Sentences and rows of tables: line, text, headings."""
    for sentence in card.sentences:
        begin = 0
        for match in (*_PART.finditer(sentence.text), None):
            end = match.end() if match else len(sentence.text)
            yield sentence.line_at(begin), sentence.text[begin:end].strip(), sentence.headings
            begin = end
    for cell in card.cells:
        # in a wide table a row is of this model where its first cell names it
        wide = len(cell.row) > 2 and own.names and not any(own.has(word) for word in cell.row[0].split()[:12])
        if not cell.column and not wide:
            yield cell.line, " ".join(cell.row), card.headings[cell.line - 1]


def said_in_policy(policy: Document) -> tuple[Clause, ...]:
    """What a policy on use restricts."""
    kinds = ("field_of_use", "non_commercial", "user_cap", "no_compete", "geo_exclusion")
    return tuple(clause for clause in restrictions(policy.text) if clause.flag in kinds)[:_MOST]
