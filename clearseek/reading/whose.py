"""Whose figure it is: this model's, or a sibling's, a teacher's, a competitor's, by the words of its sentence.

A card speaks of many models. A figure is this model's where its sentence names the model, and may be where it names
nobody; where another name, a comparison, a list or a part of the model stands beside it, it is not. When in doubt, it
is not: then nothing is accused.
"""

from __future__ import annotations

import re
from typing import Literal

from clearseek.reading.identity import normalise

About = Literal["named", "some", "several"]
"""Whether words name this model, nobody, or (also) another, several or a part."""
_SUFFIXES = frozenset({"", "base", "chat", "instruct", "it", "zero", "hf", "final"})
_SCALE = r"(?:[kmbt]|thousand|[mb]illion|trillion)"
_AND = r"(?:and|or|to|through|&)"
_LISTED_BEFORE = re.compile(
    rf"\d(?:[ -]?{_SCALE}\)?(?:, ?|[-\u2013\u2014/+~\u223c])|(?:[ -]?{_SCALE})?\)?,? {_AND} (?:over |up to )?)$"
)
_LISTED_AFTER = re.compile(
    rf"(?:,? {_AND} |, ?(?:and |or )?|[-\u2013\u2014/+~\u223c])\d(?:[\d.,]{{0,20}}\d)?[ -]?{_SCALE}?(?![\w]| ?\(?activ)"
)
_OTHER_MODEL = re.compile(
    r"teacher|student|draft|reward model|judge|(?<!of[- ])experts? (?:of|with|has|have)|projector|adapter|\blora\b"
    r"|(?:vision|image|audio|speech|text) (?:encoder|tower|model|transformer)|famil(?:y|ies)|\bsuites?\b|collection"
    r"|\bsizes\b|\brang(?:e|ing)\b|series|variants|counterpart|another model|a (?:larger|smaller|bigger)\b"
    r"|(?:larger|smaller|bigger|better) than|compared (?:to|with)|distil|predecessor|previous|cumulative|nominal"
    r"|equivalent|effective|trainable|\bprior\b|earlier|ensemble|(?:whole|full|entire) (?:system|pipeline)"
    r"|upcoming|planned|coming soon|\bwill (?:have|be|follow|come|bring)\b|\bnext (?:version|release|model)\b"
)
_COMPARED = re.compile(
    r"\b(?:outperform\w{0,3}|surpass\w{0,3}|beats?|rivals?|match(?:es|ing)|on par|comparable|competitive|against|"
    r"versus|vs|unlike|models (?:with|of|up to|at|in|having|around|such))\b"
)
"""Before a figure: words of a comparison, so that the figure may be the other's."""
_MADE_OF = re.compile(
    r"\b(?:pruned|distilled|compressed|reduced|grown|expanded|upcycled|scaled)\b.{0,40}\bfrom (?:the )?$"
)
"""Before a figure: what the model was made from."""
_PLURAL = re.compile(r"[\s-]*(?:total )?param\w{0,10}(?: [a-z]{1,12})? models\b")
_WORD = re.compile(r"[a-z][\w.+-]{0,80}|\d[\w.]{0,20}")
_SIZED = re.compile(r"[a-z][\w.]*-(?:[\w.]+-)*\d+(?:\.\d+)?[bm](?:-\w+)*")
_ADJECTIVES = ("style", "like", "based", "level", "scale", "compatible", "specific", "type")
"""Ends of a word that is no name."""
_VARIANT = re.compile(r"mini|small|tiny|nano|medium|large|x+l|big|lite|air|pro|plus|max|ultra|flash|turbo|\d[\d.]*[bm]")
"""Words behind a model's name that make it another's."""
_OTHER_CONTEXT = re.compile(
    r"\b(?:pre-?|post-?)?train|evaluat|\btest|recommend|suggest|\bset\b|deploy|\bserv|reduc|limit|needle|bench|short|long-context"
    r"|output|generat|stage|phase|memory|gpu"
)


def is_this_model(found: str, wanted: str) -> bool:
    """Whether a name in a table means the model `wanted` (normalised) or one of the same shape, as its base."""
    name = normalise(found)
    return bool(wanted) and name.startswith(wanted) and name[len(wanted) :] in _SUFFIXES


def whose(low: str, match: re.Match[str], kind: str, begin: int, wanted: frozenset[str]) -> About:
    """Whose figure it is, by the words of its sentence: when in doubt, not this model's."""
    begin = max(begin, match.start() - 200)
    before, after = low[begin : match.start()], low[match.end() : match.end() + 60]
    after = re.split(r"[.;!?] ", after)[0]
    words = before + match[0].lower() + after
    if is_other(before + " " + after, wanted):
        return "several"
    if kind in ("context", "context_extended"):
        return "several" if _OTHER_CONTEXT.search(words) or "another model" in words else "some"
    if _OTHER_MODEL.search(words) or _COMPARED.search(before) or _PLURAL.match(after) or _MADE_OF.search(before):
        return "several"
    if kind in ("total", "activated", "tokens") and (_LISTED_BEFORE.search(before) or _LISTED_AFTER.match(after)):
        return "several"
    found = {_spoken(f"{before} figure {after}", each) for each in wanted}
    return "named" if "named" in found else "several" if "several" in found else "some"


def _names(words: str) -> list[str]:
    return [word.strip(".-+") for word in _WORD.findall(words.lower())][:80]


def _spoken(words: str, wanted: str) -> About:
    """Whether words name this model, or only one called after it: "Foo Mini" where Foo is the model."""
    if wanted not in normalise(words):
        return "some"
    names = [*_names(re.sub("[(,:;]", " and ", words)), ""]  # "Foo (8B parameters" is not Foo 8B
    spans = ((begin, begin + size) for begin in range(len(names) - 1) for size in (1, 2, 3))
    behind = [
        names[end] for begin, end in spans if end < len(names) and is_this_model("".join(names[begin:end]), wanted)
    ]
    return "some" if not behind else "several" if all(map(_VARIANT.fullmatch, behind)) else "named"


def is_other(words: str, wanted: frozenset[str]) -> bool:
    """Whether words name another model: a name with a size in it, or this one's with more behind it."""
    for name in _names(words):
        if "-" in name and not any(is_this_model(name, each) for each in wanted):
            first, *rest = name.split("-")
            longer = any(normalise(first + "".join(rest[:count])) in wanted for count in range(len(rest)))
            if (longer and rest[-1] not in _ADJECTIVES) or _SIZED.fullmatch(name):
                return True
    return False
