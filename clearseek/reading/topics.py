"""What a clause is about: this model and what comes with it, or something else that is spoken of along the way.

"The tokenizer is under X", "most labs use X" and "distilled from Bar (X)" name a licence of something else. So the
words before the verb are read: they name a kind of thing that is released here, or this model, or nothing of
this release.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from clearseek.reading.identity import kin, normalise
from clearseek.reading.words import WORDS, any_of

_VERB, _BREAK, _OWN = (any_of(WORDS["topics"][kind]) for kind in ("verbs", "breaks", "released"))
_PLAIN = any_of(WORDS["topics"]["plain"])
_OF_OTHERS, _OF_THIS = (any_of(WORDS["topics"][kind]) for kind in ("of_others", "of_this"))
_CJK = re.compile("[\u3040-\u9fff\uac00-\ud7af]")
_NOUNS_IN_CAPITALS = re.compile(r"\b(?:der|die|das|des|dem|den|eine?[rsnm]?|dies\w*|unser\w*)\b", re.I)
_TOKEN = re.compile(r"[A-Za-z][\w.+-]{0,60}")
_BY = re.compile(r"\b(?:on|at|via|through|in|by|to|under) (?:the )?[A-Z][\w.-]{0,40}(?: [A-Z][\w.-]{0,40}){0,3}")
_OBJECT = re.compile(
    r"\bwe (?:\w+ly )?(?:have )?(?:releas|publish|distribut|provid|shar|offer|licens)\w{0,3} "
    r"(?P<what>.{1,80}?) (?:under|as|with|using)\b", re.I
)  # fmt: skip
_ADJECTIVE = re.compile(r"[- ]licen[cs]ed\s+(?P<what>[A-Za-z][\w .-]{1,40})", re.I)
_ITS_OWN = re.compile(
    r"\W{0,3}(?:licen[cs]es? )?(?:is|are|was|does|do|has)(?: not|n['\u2019]t| an?| more| less| too| very)\b", re.I
)
_LONGEST = 400


@dataclass(frozen=True, slots=True)
class Own:
    """The names of this model and of its makers; without any, a name cannot be told from another's."""

    names: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()

    def has(self, word: str) -> bool:
        """Whether a word is this model's name or the beginning of it, or its maker's."""
        return any(kin(word, own) or _begins(own, word) or (not re.search(r"\d", word) and _begins(word, _first(own)))
                   for own in self.names) or any(_begins(normalise(word), own) or _begins(own, normalise(word))
                                                 for own in self.makers)  # fmt: skip


def _first(name: str) -> str:
    return re.split(r"[^A-Za-z]", name, maxsplit=1)[0]


def _begins(longer: str, shorter: str) -> bool:
    """Whether a name begins with another, which ends there."""
    rest = longer[len(shorter) :]
    return len(shorter) > 1 and longer.lower().startswith(shorter.lower()) and not rest[:1].isalpha()


def judge(phrase: str, own: Own, section: bool = False) -> bool | None:
    """Whether words name this release or a part of it (True), or something else (False); None: they name nothing.

    In a `section` on the licence, a kind of thing is one of this release, whatever it is called.
    """
    phrase = phrase.strip(" \"'“”`*_#>-•([")
    if not re.search(r"\w", phrase):
        return None
    if re.match(r"(?:your|whose|which|their|who|some|most|many|other|another)\b", phrase, re.I):
        return False
    if _OF_THIS.match(phrase):
        return True
    if _OF_OTHERS.search(phrase):
        return False
    foreign = _foreign(phrase, own)
    if foreign is not None and own.names and not (section and _OWN.search(phrase)):
        return not foreign
    return bool(foreign is not None or _OWN.search(phrase) or not phrase.isascii())


def _foreign(phrase: str, own: Own) -> bool | None:
    """Whether the names in a phrase are all of others; None: there are none."""
    words = [match for match in _TOKEN.finditer(phrase)
             if not _PLAIN.fullmatch(match[0].strip(".-")) and not _OWN.search(match[0])]  # fmt: skip
    named = not _NOUNS_IN_CAPITALS.search(phrase)  # as in German
    names = [match[0].strip(".-") for match in words if re.search(r"\d|.[A-Z]", match[0])
             or (match[0][0].isupper() and named and (match.start() or _CJK.search(phrase)))]  # fmt: skip
    if any(own.has(match[0].strip(".-")) for match in words):
        return False
    return True if names else None


def about(before: str, own: Own, after: str = "", section: bool = False) -> bool | None:
    """Whether what stands between these words is said of this release; None: they do not say of what."""
    if _ITS_OWN.match(after):
        return False
    if (match := _ADJECTIVE.match(after)) is not None:
        return judge(match["what"], own, section)
    text = before[-_LONGEST:]
    if (match := _OBJECT.search(text)) is not None:
        return judge(match["what"], own, section)
    if re.search(r"(?:\b(?:whose|which|who)\b|\bthat (?:is|are|was|were))[^,;:]*$", text, re.I):
        return False
    verbs = list(_VERB.finditer(text))
    if not verbs:
        plain = _BY.sub(" ", text)
        return False if not _OWN.search(plain) and own.names and _foreign(plain.strip(), own) else None
    if re.search(r"\b(?:from|using|with|based on|built on)\b[^,;(]*\($", text) and _foreign(
        text[verbs[-1].end() :], own
    ):
        return False
    at = len(verbs) - 1
    while at and verbs[at].start() - verbs[at - 1].end() < 6:
        at -= 1
    return _subject(text[: verbs[at].start()], text[: verbs[at - 1].end()] if at else "", own, section)


def _subject(text: str, told: str, own: Own, section: bool) -> bool | None:
    """What the words before a verb name: those after the last break, or all."""
    region = text[len(told) :]
    breaks = [match for match in _BREAK.finditer(region) if told or match[0].strip().lower() != "and"]
    for match in reversed(breaks):
        if (found := judge(region[match.end() :], own, section)) is not None:
            return found
        region = region[: match.start()]
    return judge(region, own, section)


def subject_of(clause: str) -> str:
    """The words before a clause's first verb; empty where it has none."""
    verb = _VERB.search(clause[:_LONGEST])
    return clause[: verb.start()] if verb else ""
