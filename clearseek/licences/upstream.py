"""Which licence a known base is under, and what it asks of whoever builds on it, as things to look for in a release.

A licence tag on a derived model says what its makers allow. It does not undo what the base model's licence demanded:
a copy of the agreement, a notice with given words, words on the model card, a name that begins in a given way. These
are facts about files and names, so they can be checked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from clearseek.licences.table import Licence, lookup

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
    """The words to look for, where the check needs some."""


_END = r"(?=$|[-_ .:@])"
BASES: Final[tuple[tuple[re.Pattern[str], str], ...]] = tuple(
    (re.compile(pattern, re.I), name)
    for pattern, name in (
        (rf"^(?:meta[-_ ]?)?llama[-_ ]?(3\.[123]|[234]){_END}", "llama{}"),
        (r"^codellama[-_ ]", "llama2"),
        # tuned by others, who say in the name what from: Hermes-3-Llama-3.1-8B
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
"""Well-known bases whose licence asks something of what follows: how the name begins, for many names have another
model's inside (`open_llama_3b` is not Meta's), and the licence. Only where it is known for certain; a base that is not
listed is unknown, not free."""


def licence_of(base: str) -> Licence | None:
    """The licence that a known base is under, where it asks something of derived models."""
    name = base.rstrip("/").rpartition("/")[2]
    for pattern, licence in BASES:
        if match := pattern.search(name):
            return lookup(licence.format(*match.groups()))
    return None


def duties(base: Licence) -> tuple[Duty, ...]:
    """What a model built on one under this licence owes, as far as it shows in files and names."""
    owed: list[Duty] = []
    if base.attribution and not base.credit_only:
        owed.append(Duty("copy", f"A copy of {base.name} with its notices comes with the model.", "copy", base.id))
    if base.notice_text:
        owed.append(Duty("notice", f"A NOTICE file says: “{base.notice_text}”", "notice", base.notice_text))
    if base.shown:
        owed.append(Duty("shown", f"The card or the documentation shows “{base.shown[0]}”.", "shown", base.shown[0]))
    if prefix := base.name_prefix:
        owed.append(Duty("name", f"The model's name begins with “{prefix}”.", "name-prefix", prefix))
    if base.marks_changes:
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
    """Why the name of a model built on one under this licence breaks its rule; None if it does not."""
    name = model_name.rstrip("/").rpartition("/")[2]
    if _letters(name).startswith(_letters(base.name_prefix)):
        return None
    wanted = f"{base.name} asks that the name of a model made with it begin with “{base.name_prefix}”"
    return f"{wanted}; this one is “{name[:100]}”"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
