"""Which files of a release hold its licences and its policies, told by their names.

A licence in a folder of somebody else's code covers that code. So only what lies at the top counts for everything, and
a folder below counts for what it is named after.
"""

from __future__ import annotations

import re
from typing import Final

from clearseek.licences.table import Kind

_LICENCE = re.compile(
    r"^(?:licen[cs]es?|copying|unlicen[cs]e)(?![a-z])"
    r"|^(?:model|weights?|code|source|data|dataset|docs?|documentation)[-_ ]licen[cs]e(?![a-z])"
    r"|licen[cs]e(?:[-_ ]?agreement)?(?:\.\w{1,4})?$",
    re.I,
)
_POLICY = re.compile(
    r"^(?:acceptable|prohibited|restricted)[-_ ]uses?(?![a-z])|^us(?:e|age)[-_ ](?:polic|restriction)"
    r"|(?:^|[-_ ])(?:terms|eula)(?:[-_ ](?:of|and)[-_ ]\w+){0,2}(?:\.(?:md|txt|rst|pdf))?$"
    r"|[-_ ]policy\.(?:md|txt|rst)$",
    re.I,
)
_OTHER_POLICY = re.compile(
    r"privacy|security|contribut|cookie|governance|retention|disclosure|support|review|branch|merge|code|version"
    r"|deprecat|responsible[-_ ]ai|safety|publication|conduct"
    r"|data|logo|brand|trade ?mark|release|update|access|cache|memory|network|\brl",
    re.I,
)
_ELSEWHERE = re.compile(r"third[-_ ]?part|3rd[-_ ]?part|vendor|dependenc|bundled|submodule|external", re.I)
_CODE = (
    ".py", ".json", ".js", ".ts", ".sh", ".yml", ".yaml", ".toml", ".c", ".cc", ".cpp", ".h", ".rs", ".png", ".svg",
)  # fmt: skip
_LISTS: Final = frozenset(("licenses", "licences"))
_NO_LICENCE = re.compile(r"readme|index|notices?\b|third|changelog|summary", re.I)
_TOP: Final = frozenset(("license", "licence", "licenses", "licences", "legal"))
"""Folders whose licences are the release's own."""
_WORDS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    ("weights", re.compile(r"(?<![a-z])(?:models?|weights?|checkpoints?|params|parameters)(?![a-z])", re.I)),
    ("code", re.compile(r"(?<![a-z])(?:code|(?<!open[-_ ])source|src|software)(?![a-z])", re.I)),
    ("data", re.compile(r"(?<![a-z])(?:data|data[-_]?sets?|corpus)(?![a-z])", re.I)),
    ("documents", re.compile(r"(?<![a-z])(?:docs?|documents?|documentation)(?![a-z])", re.I)),
)


_OF_WEIGHTS = re.compile(
    r"(?:models?|weights?|checkpoints?)(?:[-_ ]?[a-z]{1,20}){0,2}?[-_ ]?licen[cs]e(?:[-_ ]?agreement)?(?![a-z])", re.I
)


def is_licence(path: str) -> bool:
    """Whether a file is named as a licence, wherever it lies."""
    folder, _, base = path.rpartition("/")
    # LICENSES/MIT.txt, by the REUSE specification, licenses/weights.txt, model_licenses/foo.md
    listed = folder.lower() in _LISTS or (not folder.count("/") and bool(_OF_WEIGHTS.fullmatch(folder.rstrip("sS"))))
    by_reuse = listed and base.endswith((".txt", ".md")) and not _NO_LICENCE.match(base)
    return (by_reuse or bool(_LICENCE.search(base))) and not base.lower().endswith(_CODE)


def covers(path: str) -> tuple[Kind, ...] | None:
    """The kinds that a licence file is named after; empty: it is the general one; None: it is not the release's own."""
    folder, _, base = path.rpartition("/")
    if _ELSEWHERE.search(path):
        return None
    if _OF_WEIGHTS.match(base):
        return ("weights",)
    if "/" in folder:
        return None
    kinds = tuple(kind for kind, words in _WORDS if words.search(path))
    if not folder or folder.lower() in _TOP:
        return kinds
    if _OF_WEIGHTS.fullmatch(folder.rstrip("sS")):
        return ("weights",)
    named = tuple(kind for kind, words in _WORDS if words.fullmatch(folder))
    return named or None


def perhaps_of_weights(path: str) -> bool:
    """Whether a licence that covers nothing for sure may be for weights, by a word in its path."""
    return bool(_WORDS[0][1].search(path.replace("_", "-")))


def is_elsewhere(path: str) -> bool:
    """Whether a file lies among what is somebody else's."""
    return bool(_ELSEWHERE.search(path))


def is_policy(path: str) -> bool:
    """Whether a file at the top, or in a folder of documents, says what a model may be used for."""
    folder, _, base = path.rpartition("/")
    at_top = folder.lower() in _TOP | {"", "docs", "doc"}
    return at_top and bool(_POLICY.search(base)) and not _OTHER_POLICY.search(base)


def is_notice_file(path: str) -> bool:
    """Whether a file holds notices of others."""
    return bool(re.match(r"notices?(?![a-z])", path.rpartition("/")[2], re.I)) and not path.lower().endswith(_CODE)
