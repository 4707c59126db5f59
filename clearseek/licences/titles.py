"""Licences known by their title: terms of single companies, and texts too long to ship.

A title at the head of a text, and a phrase of the body that no other licence has, are enough to name a licence, but not
to say that nothing was changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from clearseek.licences.table import LICENCES, Licence

_HEAD = 60
"""First words of a text, among which a title must be."""

SIGNATURES: tuple[tuple[str, str, str], ...] = (
    # the id, its title, a phrase of its body: in words, without punctuation
    ("LicenseRef-DeepSeek-1.0", "deepseek license agreement version 1 0", "use based restrictions"),
    ("LicenseRef-Llama-2", "llama 2 community license agreement", "llama materials"),
    ("LicenseRef-Llama-3.1", "llama 3 1 community license agreement", "llama materials"),
    ("LicenseRef-Llama-3.2", "llama 3 2 community license agreement", "llama materials"),
    ("LicenseRef-Llama-3.3", "llama 3 3 community license agreement", "llama materials"),
    ("LicenseRef-Llama-3", "llama 3 community license agreement", "llama materials"),
    ("LicenseRef-Llama-4", "llama 4 community license agreement", "llama materials"),
    ("LicenseRef-Gemma", "gemma terms of use", "model derivatives"),
    ("LicenseRef-Tongyi-Qianwen", "tongyi qianwen license agreement", "tongyi qianwen materials"),
    ("LicenseRef-Qwen-Research", "qwen research license agreement", "non commercial purposes only"),
    ("LicenseRef-Qwen", "qwen license agreement", "100 million monthly active users"),
    ("LicenseRef-Mistral-MRL-0.1", "mistral ai research license", "outputs for research purposes"),
    ("LicenseRef-Mistral-MNPL-0.1", "mistral ai non production license", "non production environments"),
    ("LicenseRef-Falcon-2-11B-1.0", "falcon 2 11b tii license", "falcon llm technology"),
    ("LicenseRef-Grok-2", "grok 2 community license agreement", "powered by xai"),
    ("LicenseRef-NVIDIA-Open-Model", "nvidia open model license", "derivative model"),
    ("LicenseRef-EXAONE-1.1-NC", "exaone ai model license agreement 1 1 nc", "derivatives or output"),
    ("LicenseRef-Stability-NC", "stability ai non commercial research community license", "software products"),
    ("LicenseRef-Stability-Community", "stability ai community license agreement", "stability ai materials"),
    ("OpenMDW-1.1", "openmdw license agreement version 1 1", "infringe any patent or copyright"),
    ("AGPL-3.0-only", "gnu affero general public license version 3", "remote network interaction"),
    ("LGPL-3.0-only", "gnu lesser general public license version 3", "combined work"),
    ("LGPL-2.1-only", "gnu lesser general public license version 2 1", "work that uses the library"),
    ("CDLA-Permissive-1.0", "community data license agreement permissive version 1 0", "enhanced data"),
)
_ROWS = {licence.id: licence for licence in LICENCES}


def by_title(words: Sequence[str]) -> Licence | None:
    """The licence whose title is at the head of these words; None for an unknown title."""
    head = f" {' '.join(words[:_HEAD])} "
    body = f" {' '.join(words)} "
    for name, title, phrase in SIGNATURES:
        if f" {title} " in head and f" {phrase} " in body:
            return _ROWS[name]
    return None
