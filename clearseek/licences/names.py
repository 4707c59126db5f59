"""Lines and words that only name somebody: copyright lines, holders, titles.

A licence may differ in them from its standard text, so a rule could hide there: "Copyright (c) 2024 X. Expires 2025."
What counts as a name is therefore narrow: a copyright sign, years, names in capitals, addresses, and a few small words
between them. One word that could rule, and it is no name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Set
from importlib.resources import files
from typing import NamedTuple

_DATA = tomllib.loads((files(__package__) / "words.toml").read_text(encoding="utf-8"))
_WORDS: dict[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _DATA["words"].items()}
_PATTERNS: dict[str, re.Pattern[str]] = {
    name: re.compile("".join(pieces)) for name, pieces in _DATA["patterns"].items()
}
NEUTRAL = _WORDS["neutral"]
OPERATIVE = _WORDS["operative"]
WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_RESERVED = re.compile(r"\ball rights reserved\b", re.I)
_ADDRESS = re.compile(r"<?(?:[^\s@]{1,80}@\S{1,200}|https?://\S{1,500}|www\.\S{1,500})>?")
_OF_HOLDERS = re.compile(r"(?<!for )(?<!For )(?<!FOR )\b(?:Research|RESEARCH)\b|\bPrivate(?= Limited| Ltd)|\bLimited$")
_LONGEST_NOTICE = 400
_LONGEST_NAME = 12
"""Words that a holder's name may have."""
_MOST_RULES = 50
_MOST_OWN = 500
_LONGEST_PIECE = 20_000
"""Characters of a sentence; a longer one is not read, and may rule."""
_CHOICE = re.compile(
    r"\W{0,20}alternatively\b[^.;]{1,200}\b(?:may|can|could|is|are)\b[^.;]{1,200}\bunder\b.{0,300}\blicen[cs]e",
    re.I | re.S,
)
"""Begins the offer of another licence."""
_MOST_SMALL = 3
"""Words in lower case, unknown here, that a copyright line may have: some people and teams write themselves so."""
_NAMES_TOO = _WORDS["names_too"]
"""Words that are names as well, as they are written then."""
_ALLOWED = (
    ("of_disclaimers", "disclaims", "forbids", "a disclaimer"),
    ("of_exceptions", "excepts", "forbids", "an exception that allows more"),
    ("of_owners", "owns", "does", "a note"),
)
"""Operative words that do not rule in a sentence about one thing, unless it has another: what it is then."""
_STOP = re.compile(r"(?:[.;!?]|(?<!opyright)(?<!\d):)\s+(?=\S)", re.I)


def is_operative(word: str) -> bool:
    """Whether a word makes a rule. Will and May are also names."""
    low = word.lower()
    return word not in _NAMES_TOO and (low in OPERATIVE or bool(_PATTERNS["stems"].match(low)))


def _is_no_name(word: str) -> bool:
    """Whether a word with a capital is one that no name has."""
    return word[0].isupper() and word.lower() in _WORDS["never_names"]


def one_sentence(text: str) -> bool:
    """Whether nothing follows a full stop but reserved rights, another copyright or an address."""
    return all(
        _PATTERNS["next_sentence"].match(text, stop.end())
        or (text[stop.start()] == "." and _PATTERNS["abbreviated"].search(text[: stop.start()]))
        for stop in _STOP.finditer(text)
        if text[: stop.start()].strip()
    )


def is_notice(line: str) -> bool:
    """Whether a line is a copyright line and nothing else."""
    if "opyright" not in line and "OPYRIGHT" not in line and "©" not in line and "(c)" not in line.lower():
        return False
    if not _PATTERNS["notice"].match(line) and not (_PATTERNS["bare_notice"].match(line) and len(line.split()) <= 8):
        return False
    # a rule may hide behind a name: "Copyright (c) 2024 X. Not for military use."
    if len(line) > _LONGEST_NOTICE or not one_sentence(line):
        return False
    line = _OF_HOLDERS.sub("", _RESERVED.sub("", _ADDRESS.sub("", line)))
    words = [match[0] for match in WORD.finditer(line)]
    if (
        any(is_operative(word) or _is_no_name(word) for word in words)
        or _PATTERNS["chinese"].search(line)
        or "limited to" in line.lower()
    ):
        return False
    return sum(word.islower() and word not in _WORDS["between_names"] for word in words) <= _MOST_SMALL


def goes_on(notice: str, line: str) -> bool:
    """Whether a line is the rest of a copyright line that was too long."""
    words = WORD.findall(line)
    rest = [word for word in words if word.lower() not in _WORDS["between_names"]]
    named = (
        not any(word.islower() or is_operative(word) or _is_no_name(word) for word in rest)
        and _PATTERNS["foreign"].search(line) is None
    )
    alone = (
        len(rest) == 1
        or line.strip(_MARKS)[:4].lower() in ("and ", "of t", "inc.")
        or notice.rstrip().endswith((",", " of", " and", " the"))
    )
    placed = any(word.lower() in _WORDS["places"] for word in rest)
    return 0 < len(words) <= _LONGEST_NAME and named and alone and one_sentence(line) and (not placed or len(rest) == 1)


_PLAIN_ADDRESS = re.compile(r"[^a-z]*(?:\d|,)[^a-z]*")
_MOST_FOREIGN = 8
_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[\"“(A-Z\d])")
_MARKS = " \t#/*;-%.>|"
"""Begin lines of comments and of lists."""
_BLANK = re.compile(r"\n[^\S\n]*\n")


_VERSION = re.compile(r"v\d+")


class Told(NamedTuple):
    """What stands beside a licence."""

    rules: tuple[tuple[int, str], ...]
    """Sentences that may rule, each after the number of line breaks before it."""
    kind: str
    """Name of what is harmless; empty if there is none."""
    others: bool
    """Parts that are somebody else's were spoken of."""
    lasting: bool
    """Their notices began with a heading, and not within one block."""
    own: tuple[tuple[int, str], ...]
    """The sentences that are not of others' parts, with the line breaks before each."""


def is_grant(word: str) -> bool:
    """Whether a licence that lacks the word may give less."""
    return word in _WORDS["grants"] or bool(_PATTERNS["grant_stems"].match(word))


def adds_nothing(raw: str, allowed: Set[str] = frozenset(), any_case: bool = False) -> bool:
    """Whether words in the middle of a rule can be a name: capitals, numbers, and nothing that rules."""
    raw = _OF_HOLDERS.sub("", _ADDRESS.sub("", raw))
    words = [word for word in WORD.findall(raw) if word.lower() not in allowed]
    ruling = any(_rules(word) or is_operative(word) or _is_no_name(word) for word in words) or _PATTERNS[
        "foreign"
    ].search(raw)
    if len(words) > _LONGEST_NAME or not one_sentence(raw) or ruling:
        return False
    if any(word.lower() in _WORDS["places"] and not (any_case and word[0].isupper()) for word in words):
        return False
    lower = [word for word in words if word[0].islower() and word not in NEUTRAL and not _VERSION.fullmatch(word)]
    return len(lower) <= (_MOST_SMALL if any_case else 0)


def told(raw: str, others: bool = False, may_begin: bool = False, ends: bool = False) -> Told:
    """What a text beside a licence says: the sentences that may rule, and what the rest is.

    Args:
        raw: The text.
        others: It stands among the notices of parts that are somebody else's, where only what restricts counts.
        may_begin: Such notices may begin in it, with a line that rules nothing.
        ends: Nothing follows it; words in capitals at its end then head nothing, and may rule.
    """
    rules: list[tuple[int, str]] = []
    own: list[tuple[int, str]] = []
    kind = ""
    place = line = seen = 0
    lasting = shown = here = begun = others
    for block in [*_BLANK.finditer(raw), None]:
        end = block.start() if block else len(raw)
        shown = shown or (lasting and _PATTERNS["shown"].search(raw, place, end) is not None)
        here = (lasting and shown) or (here and not WORD.search(raw, place, end))
        choice = _CHOICE.match(raw, place, end) is not None  # what one may choose instead takes nothing back
        for begin, piece, alone in _pieces(raw[place:end]):
            of_this = _PATTERNS["of_this"].search(piece) is not None
            line += raw.count("\n", seen, place + begin)
            seen = max(seen, place + begin)
            title = alone and not may_begin
            found = _judge(piece, alone, (here or choice) and not of_this, title)
            if found == "rule" and len(rules) < _MOST_RULES:
                rules.append((line, piece.strip()))
            elif found and found != "rule" and kind != "a note":
                kind = found
            shouts = found == "a heading" and _shouts(piece) and not WORD.search(raw, place + begin + len(piece))
            if ends and may_begin and shouts:
                rules.append((line, piece.strip()))
            if (of_this or not here) and len(own) < _MOST_OWN:
                own.append((line, piece))
            if may_begin and not of_this and found != "rule" and _PATTERNS["of_others"].search(piece):
                here = begun = True
                lasting = lasting or alone or piece.rstrip().endswith(":")
        place = block.end() if block else end
    return Told(tuple(rules), kind, begun, lasting, tuple(own))


def _shouts(heading: str) -> bool:
    """Whether a heading is of several words in capitals, names nobody, and does not say that a text ends."""
    words = WORD.findall(heading)
    named = _PATTERNS["origin"].search(heading) or _PATTERNS["about"].search(heading) or words[:1] == ["END"]
    return len([word for word in words if word.isalpha()]) > 1 and heading.isupper() and not named


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


def _judge(piece: str, alone: bool, others: bool, title: bool) -> str:
    """``rule``, the name of what a line or sentence is, or nothing where it has no words."""
    if len(piece) > _LONGEST_PIECE:
        return "rule"
    plain = " ".join(piece.split())
    if is_notice(plain) or all(is_notice(line) or not WORD.search(line) for line in piece.split("\n")):
        return ""
    bare = _PATTERNS["phrases"].sub(" ", _OF_HOLDERS.sub("", _ADDRESS.sub(" ", plain)))
    words = WORD.findall(bare)
    if _PATTERNS["table_line"].fullmatch(plain) or all(
        word.lower() in _WORDS["titles"] or word.isdigit() for word in words
    ):
        return ""
    if others:
        return "rule" if _PATTERNS["fields"].search(plain) or _PATTERNS["chinese"].search(plain) else "a note"
    if _PATTERNS["harmless"].fullmatch(" ".join(_ADDRESS.sub(" ", plain.lstrip(_MARKS)).split())):
        return "a note"
    subject = _PATTERNS["of_licence"].match(plain)
    if subject and not _PATTERNS["licence_says"].match(plain, subject.end()):
        return "rule"
    foreign = _PATTERNS["no_rule_abroad"].sub("", bare)
    if not title and _PATTERNS["uses"].search(bare) and not _PATTERNS["origin"].search(plain):
        return "rule"
    if _PATTERNS["chinese"].search(foreign) or len(_PATTERNS["foreign"].findall(foreign)) > _MOST_FOREIGN:
        return "rule"
    low = [word.lower() for word in words]
    owned = plain.lower().startswith("copyright") and sum(word.islower() for word in words) < 12
    placed = any(word.lower() in _WORDS["places"] and not (owned and word[0].isupper()) for word in words)
    if placed and not _PATTERNS["origin"].search(plain) and not _PLAIN_ADDRESS.fullmatch(plain):
        return "rule"
    ruling = {word.lower() for word in words if _rules(word)}
    for allowed, about, but, kind in _ALLOWED:
        if ruling and ruling <= _WORDS[allowed] and _PATTERNS[about].search(plain) and not _PATTERNS[but].search(bare):
            return kind
    if ruling:
        return "rule"
    abroad, english = sum(word in _WORDS["abroad"] for word in low), sum(word in _WORDS["english"] for word in low)
    if abroad > 1 and abroad > english:
        return "rule"
    if "SPDX-" in plain:
        return "an SPDX line"
    sentence = any(word.islower() and word not in _WORDS["between_names"] for word in words) and (
        plain.endswith((".", "!")) or len(words) > 8
    )
    if sentence and not _PATTERNS["about"].search(plain):
        return "rule"
    return "a heading" if alone or not plain.endswith(".") else "a note"


def _rules(word: str) -> bool:
    """Whether a word of a sentence makes a rule."""
    low = word.lower()
    if low in _WORDS["also"] or _PATTERNS["more_stems"].match(low):
        return True
    return is_operative(word) and low not in _WORDS["weak"]
