"""What the audit asks, and the first screens of published releases."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from functools import partial

from rich.console import Console

from clearseek.audit.audit import audit_release
from clearseek.audit.questions import QUESTIONS
from clearseek.audit.render.text import DIMENSIONS, print_verdict
from clearseek.audit.verdict import verdict
from tests.published import published


def questions() -> str:
    """Rows of an audit, by dimension."""
    rows = ["| row | what it asserts |", "|---|---|"]
    for dimension, heading in DIMENSIONS.items():
        rows.append(f"| **{heading}** | |")
        rows += [f"| `{each.id}` | {each.title} |" for each in QUESTIONS if each.dimension == dimension]
    return "\n".join(rows) + "\n"


def screen(file: str, model: str = "") -> str:
    """The first screen of the audit of the folder of a published file, in a terminal of 100 columns.

    Args:
        file: A file that the folder must have.
        model: The model's name, as with ``--name``.
    """
    folder = published(file).parent
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None, highlight=False)
    print_verdict(console, verdict(audit_release(folder, model)))
    return f"```text\n{re.sub(r' +$', '', out.getvalue(), flags=re.M)}```\n"


def _sentence(file: str) -> str:
    """The first screen's first two lines."""
    return "```text\n" + "\n".join(screen(file).splitlines()[1:3]) + "\n```\n"


SCREENS: dict[str, Callable[[], str]] = {
    "screen_deepseek_r1": partial(screen, "deepseek-r1/LICENSE"),
    "screen_deepseek_v3": partial(screen, "deepseek-v3/LICENSE-MODEL"),
    "screen_llama_3": partial(screen, "llama3/LICENSE", "Meta-Llama-3-8B"),
    "screen_mistral": partial(screen, "mistral-inference/LICENSE", "Mistral-7B-v0.3"),
    "screen_olmo": partial(screen, "OLMo/LICENSE", "OLMo-2-1124-7B"),
    "sentence_deepseek_r1": partial(_sentence, "deepseek-r1/LICENSE"),
}
"""Parts with screens; each is left as it is where its files are not here."""
