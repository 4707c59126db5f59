"""Texts that the tests start from."""

from __future__ import annotations

from importlib.resources import files

import tests.published


def standard(name: str) -> str:
    """A shipped licence text."""
    return (files("clearseek.licences") / "texts" / f"{name}.txt").read_text(encoding="utf-8")


def published(name: str) -> str:
    """A file of a published model; skips the test if it is not here."""
    return tests.published.published(name).read_text(encoding="utf-8")


MIT = standard("MIT").replace("<year> <copyright holders>", "2024 Ada Example")
APACHE = standard("Apache-2.0")

LLAMA_3_1 = """\
LLAMA 3.1 COMMUNITY LICENSE AGREEMENT
Llama 3.1 Version Release Date: July 23, 2024

“Llama Materials” means, collectively, Meta's proprietary Llama 3.1 and Documentation.

i. If you distribute or make available the Llama Materials, you shall (A) provide a copy of this Agreement with any such
Llama Materials; and (B) prominently display “Built with Llama” on a related website. If you use the Llama Materials or
any outputs or results of the Llama Materials to create, train, fine tune, or otherwise improve an AI model, which is
distributed or made available, you shall also include “Llama” at the beginning of any such AI model name.

2. Additional Commercial Terms. If the monthly active users of the products or services made available by or for
Licensee is greater than 700 million monthly active users in the preceding calendar month, you must request a license.

v. You will not use the Llama Materials or any output or results of the Llama Materials to improve any other large
language model (excluding Llama 3.1 or derivative works thereof).

With respect to any multimodal models, the rights granted are not being granted to you if you are an individual
domiciled in, or a company with a principal place of business in, the European Union.
"""
"""Sentences of the Llama licences put together: all that they restrict in one text."""
