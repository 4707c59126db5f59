"""Lines and words that only name somebody: copyright lines, holders, titles.

Copies of a licence may differ in such lines, so a rule could hide in one: "Copyright (c) 2024 X. Expires 2025." What
counts as a name is therefore narrow: a copyright sign, years, names in capitals, addresses, and a few small words
between them. One word that could make a rule, and the line is more than a name.
"""

from __future__ import annotations

import re

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
_MOST_SMALL = 3
"""Unknown words in lower case that a copyright line may have: some people and teams write their names so."""
_BETWEEN = """
copyright c by and the of all rights reserved or its team authors others contributors project developers see file txt
present as in listed respective affiliates author holder holders owner name year email fullname yyyy portions de da di
del la van von der den ten et al for at dot com org
"""
_BETWEEN_NAMES = frozenset(_BETWEEN.split())
_RULES = """
not no nor never only except unless must shall may cannot will can agree provided forbidden prohibited prohibit military
commercial noncommercial non research without restrict restricted restriction restrictions require required condition
conditions subject permission permitted permit grant granted terminate evil good use used using purposes academic
educational personal evaluation internal private students hobbyists fee royalty pay revenue profit donate weapon weapons
harm government governments
if until when where while whenever after before during outside against but than above below beyond per percent each
every everybody everyone everything anybody anyone any nobody none whoever who whom whose which these those void invalid
null ban banned bans bar barred fees royalties pays paying paid payment payments payable owe owes owed price prices cost
costs euro euros dollar dollars usd eur user users licensee licensees person persons people citizens residents nationals
companies universities corporations businesses enterprises employees competitor competitors rival rivals countries
nations sell sells sold trial valid obey comply consent promise promises should ought
"""
OPERATIVE = frozenset(_RULES.split())
"""Words that make a rule: a line with one of these words is more than a name."""
_STEMS = re.compile(
    r"(?:expir|exclu|except|limit|prohib|forb[ia]d|restrict|revo[ck]|terminat|den(?:y|ied|ies)|disallow|refus|withdr|"
    r"withh|charg|requir|violat|infring|oblig|compensat|reimburs|subscri|embargo|sanction)"
)
_CHINESE = re.compile(r"禁|不得|不可|不准|仅|除外|必须|商用|非商业|军事|到期|のみ|限る")
_NAMES_TOO = ("Will", "May", "Good", "Price", "Costs", "Bar", "Bans", "Person", "Null", "Valid", "Limited", "LIMITED",
              "Per")  # fmt: skip
"""Words of rules that are names too in just this spelling."""
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
    """Whether a word makes a rule; Will and May are also names."""
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
