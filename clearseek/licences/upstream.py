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


def _meta_notice(version: str) -> str:
    meta = "Meta Llama 3" if version == "3" else f"Llama {version}"
    return (
        f"{meta} is licensed under the {meta} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
    )


NAME_PREFIX = {
    "LicenseRef-Llama-3": "Llama 3",
    "LicenseRef-Llama-3.1": "Llama",
    "LicenseRef-Llama-3.2": "Llama",
    "LicenseRef-Llama-3.3": "Llama",
    "LicenseRef-Llama-4": "Llama",
    "LicenseRef-EXAONE-1.1-NC": "EXAONE",
}
"""How the name of a model must begin that was made with this one (Llama 3 and later: section 1.b.i; EXAONE: 2.1.c)."""
SHOWN = {
    "LicenseRef-Llama-3": "Built with Meta Llama 3",
    "LicenseRef-Llama-3.1": "Built with Llama",
    "LicenseRef-Llama-3.2": "Built with Llama",
    "LicenseRef-Llama-3.3": "Built with Llama",
    "LicenseRef-Llama-4": "Built with Llama",
    "LicenseRef-Qwen": "Built with Qwen",
    "LicenseRef-Qwen-Research": "Built with Qwen",
    "LicenseRef-Grok-2": "Powered by xAI",
    "LicenseRef-Stability-Community": "Powered by Stability AI",
    "LicenseRef-Falcon-2-11B-1.0": "built using Falcon LLM technology from the Technology Innovation Institute",
}
SHOWN_TOO = {"Built with Qwen": ("Improved using Qwen",)}
"""Words that do as well."""
NOTICES = {
    "LicenseRef-Llama-2": "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. "
    "All Rights Reserved.",
    **{f"LicenseRef-Llama-{version}": _meta_notice(version) for version in ("3", "3.1", "3.2", "3.3", "4")},
    "LicenseRef-Gemma": "Gemma is provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms",
    "LicenseRef-Tongyi-Qianwen": "Tongyi Qianwen is licensed under the Tongyi Qianwen LICENSE AGREEMENT, "
    "Copyright (c) Alibaba Cloud. All Rights Reserved.",
    "LicenseRef-Qwen": "Qwen is licensed under the Qwen LICENSE AGREEMENT, Copyright (c) Alibaba Cloud. "
    "All Rights Reserved.",
    "LicenseRef-Mistral-MRL-0.1": "Licensed by Mistral AI under the Mistral AI Research License",
    "LicenseRef-NVIDIA-Open-Model": "Licensed by NVIDIA Corporation under the NVIDIA Open Model License",
    "LicenseRef-Stability-Community": "This Stability AI Model is licensed under the Stability AI Community License, "
    "Copyright © Stability AI Ltd. All Rights Reserved",
    "LicenseRef-Stability-NC": "This Stability AI Model is licensed under the Stability AI Non-Commercial Research "
    "Community License, Copyright (c) Stability AI Ltd. All Rights Reserved.",
}
_MARKED = frozenset(
    ("LicenseRef-Gemma", "LicenseRef-Tongyi-Qianwen", "LicenseRef-Qwen", "LicenseRef-Falcon-2-11B-1.0", "Apache-2.0",
     "LicenseRef-Mistral-MRL-0.1", "LicenseRef-DeepSeek-1.0", "LicenseRef-CreativeML-OpenRAIL-M",
     "LicenseRef-BigScience-OpenRAIL-M", "LicenseRef-CreativeML-OpenRAIL++-M", "LicenseRef-BigScience-RAIL-1.0")
)  # fmt: skip
"""Ask that changed files say so."""
_NO_COPY = frozenset(("CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-4.0",
                      "LicenseRef-arXiv-1.0"))  # fmt: skip
"""Are content with credit and a link."""


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
    if base.attribution and base.id not in _NO_COPY:
        owed.append(Duty("copy", f"A copy of {base.name} with its notices comes with the model.", "copy", base.id))
    if notice := NOTICES.get(base.id):
        owed.append(Duty("notice", f"A NOTICE file says: “{notice}”", "notice", notice))
    if shown := SHOWN.get(base.id):
        owed.append(Duty("shown", f"The card or the documentation shows “{shown}”.", "shown", shown))
    if prefix := NAME_PREFIX.get(base.id):
        owed.append(Duty("name", f"The model's name begins with “{prefix}”.", "name-prefix", prefix))
    if base.id in _MARKED:
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
    prefix = NAME_PREFIX.get(base.id)
    name = model_name.rstrip("/").rpartition("/")[2]
    if prefix is None or _letters(name).startswith(_letters(prefix)):
        return None
    return f"{base.name} asks that the name of a model made with it begin with “{prefix}”; this one is “{name[:100]}”"


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
