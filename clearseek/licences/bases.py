"""Which licence a well-known base model is under, told by its name, where that licence asks something of what follows.

Few names, and only where the licence is known for certain. A name counts by its beginning, for many names have another
model's inside: `open_llama_3b` is no Llama of Meta's. What is not listed is unknown, not free.
"""

from __future__ import annotations

import re
from typing import Final

from clearseek.licences.table import Licence, lookup

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


def licence_of(base: str) -> Licence | None:
    """The licence that a known base is under, where it asks something of derived models."""
    name = base.rstrip("/").rpartition("/")[2]
    for pattern, licence in BASES:
        if match := pattern.search(name):
            return lookup(licence.format(*match.groups()))
    return None
