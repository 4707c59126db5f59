"""Licences in the forms that people put them into, and restrictions in other languages."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from clearseek.audit.evidence import Audit
from tests.releases import audited

TEXTS = files("clearseek.licences") / "texts"


def text(name: str) -> str:
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8")


def rows(folder: Path, card: str, **licences: str) -> Audit:
    """The rows of a release with this card and these files (two underscores are a slash, one a dot)."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    for name, content in licences.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return audited(folder)


def card(licence: str, body: str = "A model.") -> str:
    return f"---\nlicense: {licence}\n---\n# M\n\n{body}\n"


NOTICE = f"\n\n=====\nThis project bundles parts of foo:\n\n{text('MIT')}"
PAGE = "<!DOCTYPE html><html><head><title>x</title></head><body><p>{}</p></body></html>"
PREAMBLE = (
    "SPDX-FileCopyrightText: 2025 Erika Mustermann\n"
    "SPDX-License-Identifier: {0}\n\nThis work is under the {0} licence.\n\n"
)


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-only"])
@pytest.mark.parametrize("form", ["notice", "page", "preamble", "reuse"])
def test_a_whole_licence_is_seen_in_any_form(licence: str, form: str, tmp_path: Path) -> None:
    content = text(licence)
    escaped = content.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace("\n\n", "</p><p>")
    file = {
        "notice": {"LICENSE": content + NOTICE},
        "page": {"LICENSE_html": PAGE.format(escaped)},
        "preamble": {"LICENSE": PREAMBLE.format(licence) + content},
        "reuse": {f"LICENSES__{licence}_txt": content},
    }[form]
    if form == "reuse":
        (tmp_path / "LICENSES").mkdir()
        (tmp_path / "LICENSES" / f"{licence}.txt").write_text(content, encoding="utf-8")
        file = {}
    found = rows(tmp_path, card(licence.lower()), **file)["licence.weights"]
    assert (found.answer, licence in found.reason) == ("yes", True), found.reason


ADDED = (
    "You may not use the model for commercial purposes.",
    "This project includes components. Commercial use requires a fee.",
    "This project bundles parts of foo:\n\nMIT License, but only for research.",
)


@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_below_is_still_a_change(added: str, tmp_path: Path) -> None:
    found = rows(tmp_path, card("mit"), LICENSE=f"{text('MIT')}\n\n{added}\n")["licence.weights"]
    assert found.answer != "yes", found.reason


@pytest.mark.parametrize("said", ["For research only.", "Nicht kommerziell.", "this model must not be sold"])
def test_what_is_added_above_is_still_a_change(said: str, tmp_path: Path) -> None:
    found = rows(tmp_path, card("mit"), LICENSE=f"{PREAMBLE.format('MIT')}{said}\n\n{text('MIT')}")["licence.weights"]
    assert found.answer != "yes", found.reason


FORBIDS = (
    "Das Modell darf nicht kommerziell genutzt werden.",
    "Die kommerzielle Nutzung ist untersagt.",
    "Nur für Forschungszwecke und private Zwecke.",
    "L'utilisation commerciale est interdite.",
    "Ce modèle ne peut pas être utilisé à des fins commerciales.",
    "El uso comercial está prohibido.",
    "No se permite el uso comercial del modelo.",
    "L'uso commerciale è vietato.",
    "O uso comercial é proibido.",
    "商用利用は禁止です。",
    "상업적 이용은 금지됩니다.",
    "Коммерческое использование модели запрещено.",
    "本模型不得商用。",
)
ALLOWS = (
    "Das Modell darf auch kommerziell genutzt werden.",
    "Nutzung sowohl kommerziell als auch nicht kommerziell erlaubt.",
    "Die Daten wurden nicht manuell geprüft.",
    "L'utilisation commerciale est autorisée.",
    "El uso comercial está permitido.",
    "商用利用も可能です。",
    "상업적 이용이 가능합니다.",
    "Коммерческое использование разрешено.",
)


@pytest.mark.parametrize("said", FORBIDS)
def test_a_ban_in_another_language_is_seen(said: str, tmp_path: Path) -> None:
    found = rows(tmp_path, card("mit", said), LICENSE=text("MIT"))
    assert found["licence.weights"].answer == "no" == found["licence.freedom"].answer
    assert said[:20] in found["licence.weights"].reason


@pytest.mark.parametrize("said", ALLOWS)
def test_leave_in_another_language_is_no_ban(said: str, tmp_path: Path) -> None:
    found = rows(tmp_path, card("mit", said), LICENSE=text("MIT"))
    assert found["licence.weights"].answer == "yes" == found["licence.freedom"].answer


@pytest.mark.parametrize(
    ("tag", "answer"),
    [
        ("\n- mit\n- apache-2.0", "yes"),
        ("\n- mit\n- cc-by-nc-4.0", "unknown"),
        ("\n- cc-by-nc-4.0\n- cc-by-nc-sa-4.0", "no"),
        ("mit OR Apache-2.0", "yes"),
        ("mit OR cc-by-nc-4.0", "yes"),
        ("\n- mit\n- nobody-knows-it", "unknown"),
    ],
)
def test_several_tags(tag: str, answer: str, tmp_path: Path) -> None:
    found = rows(tmp_path, card(tag))
    assert found["licence.weights"].answer == answer, found["licence.weights"].reason


def test_two_files_to_choose_from(tmp_path: Path) -> None:
    (tmp_path / "LICENSE-MIT").write_text(text("MIT"), encoding="utf-8")
    (tmp_path / "LICENSE-APACHE").write_text(text("Apache-2.0"), encoding="utf-8")
    found = rows(tmp_path, card("mit OR Apache-2.0"))
    assert found["licence.weights"].answer == found["licence.freedom"].answer == "yes"
