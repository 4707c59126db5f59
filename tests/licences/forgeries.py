"""Texts of open licences with a rule hidden in them, by where it hides."""

from __future__ import annotations

import re

from tests.licences.examples import APACHE, MIT, standard

BSD = standard("BSD-3-Clause")


RULES = (
    "Not for military use.", "For research purposes only.", "You may not use the Software in hospitals.",
    "Commercial use requires a separate agreement with Ada.", "Use by governments is prohibited.",
    "Organizations with more than 100 employees must obtain a license from Ada.",
    "This license terminates on December 31, 2026.", "Redistribution of modified versions is forbidden.",
    "The Software shall be used for Good, not Evil.", "Users outside of Europe are excluded.",
    "Each user owes Ada a fee of one dollar.", "No part of this may be used to train machine learning models.",
    "You agree to indemnify Ada and to pay all costs.", "Only students may run this program.",
    "The rights granted above exclude the right to sell.", "Licensees must notify Ada before each use.",
    "Permission is granted for personal use.", "Any product with this needs approval by Ada.",
    "Use in weapons is not permitted.", "Free for academic institutions.", "Non-commercial use.",
    "Companies that compete with Ada have no license.", "If you earn money with it, half of it goes to Ada.",
    "You must display the words Powered by Ada.", "Residents of China and Russia are denied all rights.",
    "Nur für nichtkommerzielle Zwecke.", "Die Nutzung durch Behörden ist untersagt.",
    "Usage commercial interdit.", "L'utilisation à des fins militaires est interdite.",
    "Queda prohibido el uso comercial.", "Prohibido su uso con fines militares.", "Vietato l'uso commerciale.",
    "Proibido o uso comercial.", "仅供学术研究使用\uff0c禁止商用。", "不得用于军事目的。",
    "商用利用は禁止します。", "상업적 이용을 금지합니다.",
    "Коммерческое использование запрещено.", "Commercieel gebruik is verboden.", "يمنع الاستخدام التجاري",
)  # fmt: skip
"""Rules, each a sentence."""


def hidden(rule: str) -> dict[str, str]:
    """The rule in each place where one can hide."""
    clause = rule.rstrip(".")
    return {
        "heading": MIT.replace("MIT License", f"MIT License\n\n{rule}", 1),
        "title": MIT.replace("MIT License", f"MIT License ({clause})", 1),
        "copyright line": MIT.replace("Ada Example", f"Ada Example. {rule}", 1),
        "below copyright": MIT.replace("Ada Example", f"Ada Example\n{rule}", 1),
        "middle": MIT.replace("THE SOFTWARE IS PROVIDED", f"{rule}\n\nTHE SOFTWARE IS PROVIDED", 1),
        "warranty": MIT.replace("IN NO EVENT SHALL", f"{rule.upper()} IN NO EVENT SHALL", 1),
        "end": f"{MIT}\n{rule}\n",
        "after the end": f"{APACHE}\n\n{'=' * 70}\n\n{rule}\n",
        "condition": BSD.replace("THIS SOFTWARE IS", f"4. {rule}\n\nTHIS SOFTWARE IS", 1),
        "list": MIT.replace(
            "subject to the following conditions:", f"subject to the following conditions:\n\n- {rule}", 1
        ),
        "comment": "\n".join(f"# {line}" for line in MIT.replace("MIT License", f"MIT License\n{rule}", 1).split("\n")),
        "Commons Clause": f'"Commons Clause" License Condition v1.0\n\n{rule}\n\nLicense: Apache 2.0\n\n{APACHE}',
        "SPDX line": f"SPDX-License-Identifier: MIT\n{rule}\n\n{MIT}",
        "between licences": f"{MIT}\n\n{rule}\n\n{BSD}",
        "page": "<!DOCTYPE html><html><body><p>"
        + f"{rule}</p><p>"
        + MIT.replace("\n\n", "</p><p>")
        + "</p></body></html>",
    }


def swap(text: str, old: str, new: str) -> str:
    """A text with other words in it, wherever its lines break."""
    changed = re.sub(r"\s+".join(map(re.escape, old.split())), new, text, count=1)
    assert changed != text, old
    return changed


IN_SENTENCES = (
    swap(MIT, "to any person", "to any academic person"),
    swap(MIT, "to any person", "to any person outside of China"),
    swap(MIT, "free of charge", "for a small charge"),
    swap(MIT, "without restriction", "with some restriction"),
    swap(MIT, "and/or sell copies", "but not sell copies"),
    swap(MIT, ", and/or sell copies of the Software", " copies of the Software at home"),
    swap(MIT, "publish, distribute, sublicense, and/or sell", "and study"),
    swap(MIT, "permit persons", "permit German persons"),
    swap(MIT, "to deal in the Software", "to deal privately in the Software"),
    swap(MIT, "Permission is hereby granted", "Until 2027, permission is hereby granted"),
    swap(MIT, "Permission is hereby granted", "Permission may be requested"),
    swap(MIT, "shall be included in all", "and the words Powered by Ada shall be shown in all"),
    swap(APACHE, "perpetual,", "ten-year,"),
    swap(APACHE, "royalty-free", "royalty-bearing"),
    swap(APACHE, "worldwide", "European"),
    swap(BSD, "with or without modification", "without modification"),
    swap(BSD, "Redistribution and use", "Use"),
    swap(BSD, "are permitted", "by non-profit organizations are permitted"),
    swap(BSD, "are permitted", "for teaching are permitted"),
    swap(standard("ISC"), "for any purpose with or without fee", "for any peaceful purpose"),
    swap(standard("Zlib"), "including commercial applications", "excluding commercial applications"),
)
"""Rules that a few words make in the middle of a sentence."""
