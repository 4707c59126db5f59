"""What a base model's licence asks of whoever builds on the model, as things to look for in a release.

A licence tag on a derived model says what the makers allow. The tag does not undo what the base model's licence
demands: a copy of the agreement, a notice with given words, words on the model card, a name that begins in a given
way. All four are facts about files and names, so a program can check them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from clearseek.licences.table import LICENCES, Licence, lookup

Check = Literal["copy", "notice", "shown", "name-prefix", "changes-marked", "restrictions-passed-on", "licence-kept"]
"""``copy``: the licence's text is in the release. ``notice``: a NOTICE file has these words. ``shown``: the card or the
documentation has these words. ``name-prefix``: the model's name begins so. ``restrictions-passed-on``: the release's
own licence has the base's restrictions. ``licence-kept``: the release is under the base's licence."""


@dataclass(frozen=True, slots=True)
class Duty:
    """One thing a base's licence asks for."""

    id: str
    text: str
    check: Check
    value: str = ""
    """Words that the check looks for; empty for a check without words."""


NAME_PREFIX = {licence.id: licence.name_prefix for licence in LICENCES if licence.name_prefix}
"""Words with which the name of a model made with this one must begin, by licence."""
SHOWN_TOO = {licence.shown[0]: licence.shown[1:] for licence in LICENCES if licence.shown[1:]}
"""Words that serve as well as those asked for."""

_END = r"(?=$|[-_ .:@])"
BASES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.I), name)
    for pattern, name in (
        (rf"^(?:meta[-_ ]?)?llama[-_ ]?(3\.[123]|[234]){_END}", "llama{}"),
        (r"^codellama[-_ ]", "llama2"),
        # tuned by others, who name the base: Hermes-3-Llama-3.1-8B
        (
            r"(?<!open)(?<!not)(?<!non)[-_ ](?:meta[-_ ]?)?llama[-_ ]?(3\.[123]|[23])[-_ ]\d{1,3}b(?![a-z0-9])",
            "llama{}",
        ),
        (r"^deepseek-r1-distill-llama-8b" + _END, "llama3.1"),
        (r"^deepseek-r1-distill-llama-70b" + _END, "llama3.3"),
        (r"^(?:code|recurrent)?gemma-(?:2b|7b|9b|1\.1|2|3|3n)" + _END, "gemma"),
        (r"^deepseek-v[23](?:-base)?$|^deepseek-(?:llm|coder|moe)" + _END, "deepseek"),
        (r"^qwen2\.5-(?:coder-|vl-)?3b" + _END, "qwen-research"),
        (r"^(?:c4ai-command-(?:r|r7b|a)|aya-(?:23|expanse))" + _END, "cc-by-nc-4.0"),
        (r"^codestral-22b" + _END, "mnpl-0.1"),
        (r"^mistral-large-instruct-24(?:07|11)" + _END + r"|^ministral-8b-instruct-2410" + _END, "mrl-0.1"),
    )
)
"""Patterns of the names of well-known bases whose licence asks something of derived models, and the licence. A pattern
fixes where the name begins, for many names have another model's inside (`open_llama_3b` is not Meta's). A base that is
not listed is unknown, not free."""


def licence_of(base: str) -> Licence | None:
    """The licence of a known base whose licence asks something of derived models; None for other bases."""
    name = base.rstrip("/").rpartition("/")[2]
    for pattern, licence in BASES:
        if match := pattern.search(name):
            return lookup(licence.format(*match.groups()))
    return None


def duties(base: Licence) -> tuple[Duty, ...]:
    """What a model owes whose base is under this licence, as far as files and names show it."""
    owed: list[Duty] = []
    if base.attribution and base.copy:
        owed.append(Duty("copy", f"A copy of {base.name} with its notices comes with the model.", "copy", base.id))
    if base.notice:
        owed.append(Duty("notice", f"A NOTICE file says: “{base.notice}”", "notice", base.notice))
    for shown in base.shown[:1]:
        owed.append(Duty("shown", f"The card or the documentation shows “{shown}”.", "shown", shown))
    if prefix := base.name_prefix:
        owed.append(Duty("name", f"The model's name begins with “{prefix}”.", "name-prefix", prefix))
    if base.changes_marked:
        owed.append(Duty("changes", "Changed files say that they were changed.", "changes-marked"))
    if base.pass_on:
        owed.append(
            Duty("pass-on", f"The model's own licence has the restrictions of {base.name} as an enforceable provision.",
                 "restrictions-passed-on", base.id)
        )  # fmt: skip
    if base.share_alike:
        owed.append(Duty("share-alike", f"What is derived comes under {base.name} again.", "licence-kept", base.id))
    return tuple(owed)


def naming_problem(model_name: str, base: Licence) -> str | None:
    """Why a model's name breaks the naming rule of its base's licence; None if the name keeps it."""
    prefix, name = base.name_prefix, model_name.rstrip("/").rpartition("/")[2]
    letters, wanted = (re.sub(r"[\W_]+", "", each.lower()) for each in (name, prefix))
    if letters.startswith(wanted):
        return None
    return f"{base.name} asks that the name of a model made with it begin with “{prefix}”; this one is “{name[:100]}”"
