"""Restrictions that prose puts on a model: sentences of a card that take back what its licence gives.

A card is no licence, and most of its warnings are advice: "out-of-scope use", "we do not recommend", "should not be
relied on". So only sentences count that forbid, and that speak of the model or of its licence; those about a data set,
about another model, or under a heading about risks do not. What is not found may still be there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clearseek.audit.read.card import Document
from clearseek.licences.clauses import Clause, Flag, restrictions
from clearseek.licences.words import shorten

_MOST = 20
_LONGEST_SENTENCE = 4000
_NON = r"non[- ]?commercial(?:ly)?"
_USE = r"(?:use|uses|usage|purposes?|applications?)"
_FORBIDDEN = r"(?:prohibited|forbidden|not (?:allowed|permitted|granted))"
_COMMERCE = re.compile(
    rf"\b(?:only|solely|exclusively|strictly)\b.{{0,40}}\b(?:for|to|under)?\b.{{0,30}}\b{_NON}\b|\b{_NON}\b.{{0,60}}\bonly\b"
    rf"|\b(?:restricted|limited) to (?:\w+ (?:and|or) )?(?:{_NON}|(?:academic|scientific) research|research {_USE})"
    rf"|\bonly (?:be used )?(?:for|in) (?:(?:academic|scientific|research)(?:,| and| or)? ?){{1,3}}{_USE}"
    rf"|\bfor (?:(?:academic|scientific|research)(?:,| and| or)? ?){{1,3}}{_USE} only\b"
    rf"|\bcommercial {_USE} (?:\w+ ){{0,6}}(?:is|are) (?:\w+ ){{0,2}}{_FORBIDDEN}"
    rf"|\bno commercial {_USE}\b|\b(?:may|must|can|shall) ?not be used (?:for (?:any )?commercial|commercially)"
    r"|仅(?:供|限|用于|可用于|能用于).{0,12}(?:学术|研究|科研|非商)|(?:禁止|不得|不可|严禁).{0,10}(?:商用|商业)"
    rf"|\bprohibits? (?:\w+ ){{0,3}}commercial {_USE}|\bnot for commercial {_USE}|\bcommercial {_USE} requires? "
)
# The same in other languages: what is not found may still be there, but a plain ban is seen.
_COMMERCE_ABROAD = re.compile(
    r"\bnicht(?:[- ](?:für )?)kommerziell|\bnichtkommerziell"
    r"|\bkommerzielle\w* (?:nutzung|verwendung|zwecke\w*|einsatz)\b.{0,60}"
    r"\b(?:untersagt|verboten|nicht|ausgeschlossen)\b"
    r"|\bnur (?:für|zu) .{0,40}(?:forschung|privat)"
    r"|\b(?:usage|utilisation)s? commerciale?s?\b.{0,30}\b(?:interdit|prohib|non autoris|pas autoris|exclu)"
    r"|\b(?:interdit|interdite|interdits)\b.{0,40}\bcommercial|\bne (?:peut|peuvent|doit|doivent)\b.{0,50}\bcommercial"
    r"|\b(?:uniquement|exclusivement|seulement|esclusivamente|unicamente|solamente|únicamente|exclusivamente|somente"
    r"|apenas|sólo|solo|soltanto)\b.{0,40}\b(?:non|no|não)[- ]com?mercia"
    r"|\buso comm?erciale?\b.{0,30}\b(?:prohibid|proibid|vietat|no (?:está |se )?permit|não (?:é )?permit|non (?:è )?"
    r"consentit)|\b(?:prohíbe|prohibido|proibido|vietato)\b.{0,40}\bcomm?ercial"
    r"|\b(?:no puede|no podrá|no se permite|não pode|não é permitido|non può|non è consentito)\b.{0,50}\bcomm?ercial"
    r"|\bcommercieel gebruik\b.{0,30}\b(?:verboden|niet toegestaan)|\bniet[- ]commercieel"
    r"|商用利用.{0,6}(?:禁止|不可|できません|認め)|商業利用.{0,6}(?:禁止|不可)|研究目的.{0,4}(?:のみ|限)"
    r"|상업적.{0,16}(?:금지|불가|허용되지)|비상업적.{0,12}(?:만|한정)"
    r"|коммерческ\w+ .{0,30}(?:запрещ|не допуска|не разреш)|запрещ\w+.{0,40}коммерческ|только .{0,30}некоммерческ"
)
_BOTH_ABROAD = re.compile(
    r"sowohl|als auch|auch kommerziell|nicht nur|non seulement|aussi bien|no solo|não só|non solo|datens[aä]tz|données"
    r"|datos|dados|dati\b|データ|데이터|данны"
)
_USES = re.compile(
    r"\b(?:you|users?|licensees?|anyone) (?:may|must|shall|can|agree) ?not (?:to )?use\b"
    r"|\b(?:may|must|shall) not be used (?:for|in|by|to|as)\b|\bprohibited from using\b"
    rf"|\bmilitary {_USE} (?:is|are) (?:\w+ )?{_FORBIDDEN}"
    r"|\b(?:not|never) be used (?:for|in) (?:any )?military\b"
)
_PLACE = re.compile(
    r"\bnot (?:being )?granted\b.{0,220}(?:european union|\beea\b|\beu\b|united kingdom|china|germany)"
    r"|(?:licen[cs]e|agreement) (?:does|shall) not apply in\b"
    r"|\bnot (?:available|licensed) (?:to|for) .{0,80}\bdomiciled in\b"
)
_MODEL = re.compile(
    r"\b(?:models?|weights?|checkpoints?|licen[cs]ed?|release[ds]?|project|repository|commercial use|rights)\b"
    r"|模型|权重|许可|协议|本项目"
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
)
_LAWFUL = re.compile(
    r"\bexcept in compliance with the licen[cs]e\b|\bunless (?:required by applicable law|in compliance)\b"
    r"|\b(?:infring|misappropriat|violat)\w*\b.{0,80}\b(?:rights?|laws?)\b|\b(?:applicable|any) laws?\b"
)
"""Notices of open licences, and what the law forbids anyway: neither takes anything back."""
_MAY_RESTRICT = re.compile(
    r"commerc|comercial|kommerz|research|forschung|academic|\bnot\b|prohib|military|仅|禁止|不得|不可|商用|商業|研究|상업"
    r"|коммерческ",
    re.I,
)
_PART = re.compile(r";\s+(?=[A-Z\"“(•-])")


def said_of_use(card: Document) -> tuple[Clause, ...]:
    """Sentences of a card that restrict the use of its model."""
    found: list[Clause] = []
    for line, text, headings in _spoken(card):
        licence = bool(headings) and bool(_LICENCE.search(headings[-1]))
        advice = not licence and any(_ADVICE.search(heading) for heading in headings[1:] or headings)
        if advice or not _MAY_RESTRICT.search(text):
            continue
        low = text[:_LONGEST_SENTENCE].lower()
        flag = _flag(low, licence or bool(_LICENCE.search(low)))
        about = licence or bool(_MODEL.search(low)) or bool(re.match(r"(?:it|this|these|they)\b", low))
        if _COMMERCE_ABROAD.search(low) and not _BOTH_ABROAD.search(low):
            flag, about = "non_commercial", True
        if flag and about and not _ELSEWHERE.search(low) and not _LAWFUL.search(low):
            found.append(Clause(flag, shorten(text), line))
            if len(found) >= _MOST:
                break
    return tuple(found)


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


def _flag(sentence: str, licence: bool) -> Flag | None:
    if _PLACE.search(sentence):
        return "geo_exclusion"
    if _COMMERCE.search(sentence):
        return "non_commercial"
    return "field_of_use" if licence and _USES.search(sentence) else None


def said_in_policy(policy: Document) -> tuple[Clause, ...]:
    """What a policy on use restricts."""
    kinds = ("field_of_use", "non_commercial", "user_cap", "no_compete", "geo_exclusion")
    return tuple(clause for clause in restrictions(policy.text) if clause.flag in kinds)[:_MOST]
