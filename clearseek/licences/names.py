"""Lines and words that only name somebody: copyright lines, holders, titles.

A licence may differ in them from its standard text, so a rule could hide there: "Copyright (c) 2024 X. Expires 2025."
What counts as a name is therefore narrow: a copyright sign, years, names in capitals, addresses, and a few small words
between them. One word that could rule, and it is no name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from typing import NamedTuple

_WORDS = {
    name: frozenset(words.split())
    for name, words in tomllib.loads((files(__package__) / "words.toml").read_text(encoding="utf-8")).items()
}
NEUTRAL = _WORDS["neutral"]
_GRANTS = _WORDS["grants"]
_WEAK = _WORDS["weak"]
_ALSO = _WORDS["also"]
_PLACES = _WORDS["places"]
_ABROAD = _WORDS["abroad"]
_ENGLISH = _WORDS["english"]
_OF_TITLES = _WORDS["titles"]
_OF_DISCLAIMERS = _WORDS["of_disclaimers"]
_OF_OWNERS = _WORDS["of_owners"]
_OF_EXCEPTIONS = _WORDS["of_exceptions"]
OPERATIVE = _WORDS["operative"]
_BETWEEN_NAMES = _WORDS["between_names"]
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_NOTICE = re.compile(
    r"^[^\w(©]*(?:portions\s+)?(?:(?:©|\(c\))\s*(?:copyright|\d{4})|copyright\s*(?:\(c\)|©|\d{4}|[<\[{]|by\b))", re.I
)
_BARE_NOTICE = re.compile(
    r"^\W*Copyright:? (?!holders?\b|owners?\b|and\b|or\b|notices?\b|licen[sc]e|law|acts?\b|rights?\b)"
)
_RESERVED = re.compile(r"\ball rights reserved\b", re.I)
_ADDRESS = re.compile(r"<?(?:\S+@\S+|https?://\S+|www\.\S+)>?")
_OF_HOLDERS = re.compile(r"(?<!for )(?<!For )(?<!FOR )\b(?:Research|RESEARCH)\b|\bPrivate(?= Limited| Ltd)|\bLimited$")
_LONGEST_NOTICE = 400
_LONGEST_NAME = 12
"""Words that a holder's name may have."""
_MOST_RULES = 50
_MOST_SMALL = 3
"""Words in lower case, unknown here, that a copyright line may have: some people and teams write themselves so."""
_STEMS = re.compile(
    r"(?:expir|exclu|except|limit|prohib|forb[ia]d|restrict|revo[ck]|terminat|den(?:y|ied|ies)$|disallow|refus|withdr|"
    r"withh|charg|requir|violat|infring|oblig|compensat|reimburs|subscri|embargo|sanction)"
)
_CHINESE = re.compile(r"禁|不得|不可|不准|仅|除外|必须|商用|非商业|军事|到期|のみ|限る")
_NAMES_TOO = frozenset(
    (
        "Will",
        "May",
        "Grant",
        "Mark",
        "Good",
        "Price",
        "Costs",
        "Bar",
        "Bans",
        "Person",
        "Null",
        "Valid",
        "Limited",
        "LIMITED",
        "Per",
    )
)
"""Words that are names as well, as they are written then."""
_ABBREVIATED = re.compile(
    r"(?:^|[\s.,&(])(?:\w|inc|ltd|co|corp|llc|gmbh|jr|sr|dr|st|al|etc|univ|dept|prof|intl?|bros|mr|mrs|ph\.d)$", re.I
)
_NEXT_SENTENCE = re.compile(
    r"\W*(?:all(?: rights)?(?: reserved| *$)|portions copyright|copyright|\(c\)|©|see |https?://"
    r"|www\.|<|and others|contributors|\(the )",
    re.I,
)
_STOP = re.compile(r"(?:[.;!?]|(?<!opyright)(?<!\d):)\s+(?=\S)", re.I)


def is_operative(word: str) -> bool:
    """Whether a word makes a rule. Will and May are also names."""
    low = word.lower()
    return word not in _NAMES_TOO and (low in OPERATIVE or bool(_STEMS.match(low)))


def one_sentence(text: str) -> bool:
    """Whether nothing follows a full stop but reserved rights, another copyright or an address."""
    return all(
        _NEXT_SENTENCE.match(text, stop.end())
        or (text[stop.start()] == "." and _ABBREVIATED.search(text[: stop.start()]))
        for stop in _STOP.finditer(text)
        if text[: stop.start()].strip()
    )


def is_notice(line: str) -> bool:
    """Whether a line is a copyright line and nothing else."""
    if "opyright" not in line and "OPYRIGHT" not in line and "©" not in line and "(c)" not in line.lower():
        return False
    if not _NOTICE.match(line) and not (_BARE_NOTICE.match(line) and len(line.split()) <= 8):
        return False
    # a rule may hide behind a name: "Copyright (c) 2024 X. Not for military use."
    if len(line) > _LONGEST_NOTICE or not one_sentence(line):
        return False
    line = _OF_HOLDERS.sub("", _RESERVED.sub("", _ADDRESS.sub("", line)))
    words = [match[0] for match in WORD.finditer(line)]
    if any(is_operative(word) for word in words) or _CHINESE.search(line) or "limited to" in line.lower():
        return False
    return sum(word.islower() and word not in _BETWEEN_NAMES for word in words) <= _MOST_SMALL


def goes_on(notice: str, line: str) -> bool:
    """Whether a line is the rest of a copyright line that was too long."""
    words = WORD.findall(line)
    rest = [word for word in words if word.lower() not in _BETWEEN_NAMES]
    named = not any(word.islower() or is_operative(word) for word in rest) and _FOREIGN.search(line) is None
    alone = (
        len(rest) == 1
        or line.strip(_MARKS)[:4].lower() in ("and ", "of t", "inc.")
        or notice.rstrip().endswith((",", " of", " and", " the"))
    )
    placed = any(word.lower() in _PLACES for word in rest)
    return 0 < len(words) <= _LONGEST_NAME and named and alone and one_sentence(line) and (not placed or len(rest) == 1)


_GRANT_STEMS = re.compile(r"(?:re)?distribut|modifi|reproduc|sublicens|permi|grant|copy(?!right)|perform|transfer")
_MORE_STEMS = re.compile(
    r"(?:consent|notif|regist|prohib|exempt|licensee|nicht|kein|verbot|untersag|interdi|uniquement|seulement|vietat|soltanto|proibi|somente|únicament|nur$|kommerz|comerc|nonprofit|academi|commerc|militar)"
)
_PHRASES = re.compile(
    r"\ball rights reserved\b"
    r"|\b(?:unless|except)\b(?: (?:where|as|when|if|for|files?|that|which|is|are|\w+ly)){0,4} (?:otherwise )?"
    r"(?:noted|stated|documented|specified|indicated|mentioned|declared|marked|described)(?: otherwise)?"
    r"|\bsubject to(?: (?:the|these|those|their|its|following|same|separate|own|other|respective|different)){0,3}"
    r" (?:terms?|conditions?|licen[cs]es?|copyrights?)(?: and conditions)?"
    r"|\bsubject to(?: \w+){1,6} licen[cs]es?\b"
    r"|\bunder(?: (?:the|these|those|this|their|its|following|same|separate|own|other|respective)){0,3}"
    r" (?:terms?|conditions?|licen[cs]es?)(?: and conditions)?"
    r"|\b(?:terms|licen[cs]e|licensing)(?:,? (?:and|&|or) (?:terms|conditions|permissions?|restrictions|limitations))+"
    r"|\b(?:with|by|of) (?:kind |the )?permission\b|\bpermission notices?\b|\blicen[cs]e (?:terms|conditions)\b"
    r"|\bmay (?:also )?(?:be (?:found|obtained|downloaded|viewed|seen|covered|available|licensed|distributed|used under)"
    r"|obtain|have|contain|include)\b"
    r"|\byou may (?:choose|select|use)(?: \w+){0,6} under\b|\bat your (?:option|choice|discretion)\b"
    r"|\b(?:dual|multi|tri)[- ]licensed?\b|\bnot (?:part of|included in|limited to|copyrighted|apply to)\b"
    r"|(?<=\d)-(?:only|or-later)\b|\bor (?:\(at your option\) )?(?:any )?later(?: versions?)?\b"
    r"|\balternatively,? you may use(?: \w+){0,3} under\b|\bmay follow\b|\bwith (?:\w+ )?exceptions?\b"
    r"|\bexceptions?(?: or [\w ]{1,40})? (?:are|is) (?:listed|noted)\b"
    r"|\bappl(?:y|ies) to (?:all|every|the)\w*\b[^.]{0,60}\b(?:except|excluding)\b(?=[^.]{0,60}\b(?:director|folder|file|content|module))"
    r"|\bfor (?:test|testing|convenience|historical|informational?|documentation|reference|illustrati\w+) purposes\b"
    r"|\bnot (?:standalone|derived|based|original)\b|\brequires? an? (?:\w+ )?(?:library|compiler|version)\b"
    r"|\bnot \W?(?:gpl[- ])?(?:in)?compatible\b|\boutside (?:volunteers|contributors)\b"
    r"|\breserved font names?\b|\bnon-?profit (?:organi[sz]ation|corporation|company|foundation)\b|\bbut not all\b"
    r"|\bpublic domain\b|\bno (?:copyright|warranty)\b|\blimited(?= to the| liability| company)|\bnon[- ]?infringement\b"
    r"|\bplease (?:read|see|refer|note|cite)\b|\bas required by\b|\brequired by applicable law\b",
    re.I,
)
"""What sentences about licences have, and rules nothing."""
_ABOUT = re.compile(
    r"\b(?:software|code|files?|licen[cs]\w*|copyright\w*|projects?|librar\w+|packages?|modules?|programs?|versions?"
    r"|authors?|contribut\w*|written|wrote|develop\w*|deriv\w+|based|includ\w+|contain\w*|bundl\w+|distribut\w+|available"
    r"|sources?|repositor\w+|see|text|cop(?:y|ies)|notices?|works?|documentation|fonts?|data|weights|implement\w*|history"
    r"|releas\w+|maintain\w*|thank\w*|acknowledg\w*|credit\w*|website|homepage|page|https?|list\w*|follow\w+|below|above"
    r"|third|part(?:y|ies|s)|portions?|terms|created?|port(?:ed)?|origin\w*|modif\w+|patch\w*|public domain|spdx|author\w+"
    r"|components?|dependenc\w+|submodules?|director\w+|folders?|tests?|tools?|algorithm\w*|paper|article|published|was|were|ha[sd]|have been"
    r"|became|correct\w+|bugs?|revision\w*|rcs\w*|members?|additional|team|fork)\b",
    re.I,
)
"""What sentences are about that say what is whose."""
_OF_OTHERS = re.compile(
    r"third[- ]part|\b(?:bundl\w+|incorporat\w+|portions?|subcomponents?|vendor\w*|includes|contains|derived|based on"
    r"|included|parts? of|submodules?|dependenc\w+)\b|^\W*(?:name|files?|package|component|project|source)\s*:"
    r"|\blicen[cs]es? (?:of|for) \S|\bcopied\b|\btaken from\b|\badapted from\b|\bport(?:ed|s)? (?:of|from)\b",
    re.I | re.M,
)
"""Begins the notice of somebody else's part."""
_FIELDS = re.compile(
    r"\b(?:only|solely|exclusively) (?:be |to |for |in )+.{0,60}\b(?:use|research|academic|non-?commercial|evaluation|educational)"
    r"|\b(?:use|research|academic|non-?commercial|evaluation|personal|educational)\b.{0,30}\b(?:only|solely)\b"
    r"|\bcommercial\w*\b.{0,60}\b(?:requires?|prohibited|forbidden|not|fee|without|separate)\b"
    r"|\b(?:not|no|without|prohibit\w*|forbid\w*)\b.{0,60}\b(?:commercial|military|weapons?|sell|resale|profit)"
    r"|\bresearch (?:purposes?|use)\b|\bnon-?commercial (?:purposes?|use)\b|\bfor (?:research|non-?commercial)\b",
    re.I,
)
"""What restricts even among the notices of others."""
_ORIGIN = re.compile(
    r"universit|institut|laborator|develop|written|created|address|centrum|center|centre|inc\b|gmbh|ltd|street"
    r"|societ|associat"
    r"|foundation|department|academy|contribut", re.I
)  # fmt: skip
_PLAIN_ADDRESS = re.compile(r"[^a-z]*(?:\d|,)[^a-z]*")
_DISCLAIMS = re.compile(r"\b(?:warrant\w*|liab\w+|reassuranc\w+|as[ -]is|merchantab\w+|infring\w+|own risk)\b", re.I)
_FORBIDS = re.compile(
    r"\b(?:shall|may|must|can|will) not\b|\bcannot\b|\bnot (?:be )?use|\bno use|\bnot (?:for|to)\b", re.I
)
_TABLE_LINE = re.compile(r"(?=(?:\D*\d){4})[\w.\s+-]{1,70}\b(?:yes|no)(?: \(\d+\))?")
"""A row of a history of releases."""
_OWNS = re.compile(r"\b(?:copyrights?|contribut\w+|commits?|repositor\w+)\b", re.I)
_DOES = re.compile(
    r"\b(?:us(?:e|es|ed|ing|age)|cop(?:y|ies|ied)|modif\w+|distribut\w+|permi\w+|grant\w*|sell|run|train\w*|deploy\w*"
    r"|allow\w*|commerc\w+|sold|shar(?:e|ed|ing))\b", re.I
)  # fmt: skip
_FOREIGN = re.compile(r"[\u0370-\u1fff\u2e80-\ud7ff\uf900-\ufaff\uff66-\uffdc]")
_NO_RULE_ABROAD = re.compile(
    r"许可(?:证|协议)?|協議|协议|版权所有|保留所有权利|開源|开源|ライセンス|라이선스|лицензия", re.I
)
_MOST_FOREIGN = 8
_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[\"“(A-Z\d])")
_MARKS = " \t#/*;-%.>|"
"""Begin lines of comments and of lists."""
_BLANK = re.compile(r"\n[^\S\n]*\n")


class Told(NamedTuple):
    """What stands beside a licence."""

    rules: tuple[tuple[int, str], ...]
    """Sentences that may rule, each after the number of line breaks before it."""
    kind: str
    """Name of what is harmless; empty if there is none."""
    others: bool
    """Notices of parts that are somebody else's have begun."""


def is_grant(word: str) -> bool:
    """Whether a licence that lacks the word may give less."""
    return word in _GRANTS or bool(_GRANT_STEMS.match(word))


def adds_nothing(raw: str, allowed: set[str] = frozenset(), any_case: bool = False) -> bool:  # type: ignore[assignment]
    """Whether words in the middle of a rule can be a name: capitals, numbers, and nothing that rules."""
    raw = _OF_HOLDERS.sub("", _ADDRESS.sub("", raw))
    words = [word for word in WORD.findall(raw) if word.lower() not in allowed]
    if (
        len(words) > _LONGEST_NAME
        or not one_sentence(raw)
        or any(map(_rules, words))
        or (any(map(is_operative, words)) or _FOREIGN.search(raw))
    ):
        return False
    if any(word.lower() in _PLACES and not (any_case and word[0].isupper()) for word in words):
        return False
    return sum(word[0].islower() and word not in NEUTRAL for word in words) <= (_MOST_SMALL if any_case else 0)


def told(raw: str, others: bool = False, may_begin: bool = False) -> Told:
    """What a text beside a licence says: the sentences that may rule, and what the rest is.

    Args:
        raw: The text.
        others: It stands among the notices of parts that are somebody else's, where only what restricts counts.
        may_begin: Such notices may begin in it, with a line that rules nothing.
    """
    rules: list[tuple[int, str]] = []
    kind = ""
    place = 0
    for block in [*_BLANK.finditer(raw), None]:
        end = block.start() if block else len(raw)
        for begin, piece, alone in _pieces(raw[place:end]):
            found = _judge(piece, alone, others)
            if found == "rule" and len(rules) < _MOST_RULES:
                rules.append((raw.count("\n", 0, place + begin), piece.strip()))
            elif found and found != "rule" and kind != "a note":
                kind = found
            others = others or (may_begin and found != "rule" and bool(_OF_OTHERS.search(piece)))
        place = block.end() if block else end
    return Told(tuple(rules), kind, others)


def _pieces(block: str) -> Iterator[tuple[int, str, bool]]:
    """The headings of a block, and its sentences; where each begins, and whether it stands alone."""
    place = 0
    text = ""
    for line in block.split("\n"):
        begins = not text or line.lstrip(_MARKS)[:1].islower() or text.rstrip().endswith(",") or not text.strip()
        if not begins and (len(text.split("\n")[-1]) < 60 or is_notice(text.split("\n")[-1])):
            yield from _sentences(text, place - len(text))
            text = ""
        text += line + "\n"
        place += len(line) + 1
    yield from _sentences(text, place - len(text))


def _sentences(text: str, begin: int) -> Iterator[tuple[int, str, bool]]:
    place = 0
    sentences = _SENTENCE.split(text)
    for sentence in sentences:
        place = text.find(sentence, place)
        yield begin + place, sentence, len(sentences) == 1 and not sentence.rstrip().endswith(".")
        place += len(sentence)


def _judge(piece: str, alone: bool, others: bool) -> str:
    """``rule``, the name of what a line or sentence is, or nothing where it has no words."""
    plain = " ".join(piece.split())
    if is_notice(plain) or all(is_notice(line) or not WORD.search(line) for line in piece.split("\n")):
        return ""
    bare = _PHRASES.sub(" ", _OF_HOLDERS.sub("", _ADDRESS.sub(" ", plain)))
    words = WORD.findall(bare)
    if _TABLE_LINE.fullmatch(plain) or all(word.lower() in _OF_TITLES or word.isdigit() for word in words):
        return ""
    if others:
        return "rule" if _FIELDS.search(plain) or _CHINESE.search(plain) else "a note"
    foreign = _NO_RULE_ABROAD.sub("", bare)
    if _CHINESE.search(foreign) or len(_FOREIGN.findall(foreign)) > _MOST_FOREIGN:
        return "rule"
    low = [word.lower() for word in words]
    owned = plain.lower().startswith("copyright") and sum(word.islower() for word in words) < 6
    if (
        any(word.lower() in _PLACES and not (owned and word[0].isupper()) for word in words)
        and not _ORIGIN.search(plain)
        and not _PLAIN_ADDRESS.fullmatch(plain)
    ):
        return "rule"
    ruling = {word.lower() for word in words if _rules(word)}
    if ruling and ruling <= _OF_DISCLAIMERS and _DISCLAIMS.search(plain) and not _FORBIDS.search(plain):
        return "a disclaimer"
    if ruling and ruling <= _OF_EXCEPTIONS and "exception" in low and not _FORBIDS.search(plain):
        return "an exception that allows more"
    if ruling and ruling <= _OF_OWNERS and _OWNS.search(plain) and not _DOES.search(bare):
        return "a note"
    if ruling:
        return "rule"
    abroad, english = sum(word in _ABROAD for word in low), sum(word in _ENGLISH for word in low)
    if abroad > 1 and abroad > english:
        return "rule"
    if "SPDX-" in plain:
        return "an SPDX line"
    sentence = any(word.islower() and word not in _BETWEEN_NAMES for word in words) and (
        plain.endswith((".", "!")) or len(words) > 8
    )
    if sentence and not _ABOUT.search(plain):
        return "rule"
    return "a heading" if alone or not plain.endswith(".") else "a note"


def _rules(word: str) -> bool:
    """Whether a word of a sentence makes a rule."""
    low = word.lower()
    if low in _ALSO or _MORE_STEMS.match(low):
        return True
    return is_operative(word) and low not in _WEAK
