"""Licences are read from cards in the ways in which people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.evidence import Audit
from tests.licences.examples import APACHE, MIT, standard
from tests.releases import audited


def audit_of(folder: Path, card: str, **files: str) -> Audit:
    (folder / "README.md").write_text(card, encoding="utf-8")
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return audited(folder)


OPEN = {
    "bullet": "- **License:** MIT", "table": "| | |\n|---|---|\n| Parameters | 7B |\n| License | Apache-2.0 |",
    "section": "## License\n\nMIT",
    "section link": "## License\n\n[Apache 2.0](https://www.apache.org/licenses/LICENSE-2.0)",
    "badge": "![License: MIT](https://img.shields.io/badge/License-MIT-yellow.svg)",
    "html badge": '<a href="LICENSE"><img src="https://img.shields.io/badge/license-Apache%202.0-blue"></a>',
    "adjective": "Foo is an Apache-licensed language model.", "MIT-licensed": "All Foo weights are MIT-licensed.",
    "sentence": "We release the model weights under the Apache License, Version 2.0.",
    "wrapped": "The weights of Foo are released\nunder the permissive\nApache 2.0 license.",
    "French": "Le modèle Foo est distribué sous licence Apache 2.0.",
    "German": "Die Gewichte stehen unter der Apache-Lizenz 2.0.", "German section": "## Lizenz\n\nMIT",
    "Chinese": "## 许可证\n\n本模型采用 Apache-2.0 许可证。", "Spanish": "El modelo se publica bajo la licencia MIT.",
    "Japanese": "## ライセンス\n\nMIT", "Korean": "## 라이선스\n\nApache 2.0",
    "Creative Commons": "## License\n\n[CC BY 4.0](https://creativecommons.org/licenses/by/4.0/)",
    "link alone": "## License\n\nSee [here](https://creativecommons.org/licenses/by-sa/4.0/).",
    "HTML table": "<table><tr><td>License</td><td>MIT</td></tr></table>",
    "OpenMDW": "## License\n\nOpenMDW License Agreement, version 1.1 (OpenMDW-1.1)",
    "dual": "Foo is dual-licensed under MIT or Apache 2.0.", "name only": "## License\n\nBSD-3-Clause license",
}  # fmt: skip
CLOSED = {
    "Gemma": "Use of Foo is governed by the [Gemma Terms of Use](https://ai.google.dev/gemma/terms).",
    "Llama": "**License:** Llama 3.1 Community License", "NC": "## License\n\nCC-BY-NC-4.0",
    "NC badge": "![License](https://img.shields.io/badge/License-CC%20BY--NC%204.0-lightgrey.svg)",
    "Qwen": "Foo is under the Qwen Research License Agreement.", "RAIL": "## License\n\nCreativeML OpenRAIL-M",
    "Hunyuan": "The model is licensed under the Tencent Hunyuan Community License Agreement.",
    "Falcon": "Foo is made available under the TII Falcon LLM License.",
    "Mistral": "License: Mistral AI Research License",
}  # fmt: skip
SILENT = {
    "another model": "Llama 3 is released under the Llama 3 Community License. Foo is not related to it.",
    "university": "Foo was built by researchers at MIT.", "software used": "We thank the authors of Megatron-LM (MIT).",
    "base": "Foo is derived from Bar, which was originally licensed under Apache 2.0.",
    "data": "## Training data\n\nWe used the Foo corpus, whose data are licensed under CC-BY-NC-4.0.",
}  # fmt: skip
TITLE = "# Foo\n\nFoo is a language model with 7B parameters.\n\n"


@pytest.mark.parametrize("way", OPEN)
def test_an_open_licence_is_read(way: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE + OPEN[way])["licence.weights"]
    assert row.answer == "yes", row.reason


@pytest.mark.parametrize("way", CLOSED)
def test_a_makers_own_terms_are_not_open(way: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE + CLOSED[way])["licence.weights"]
    assert row.answer == "no", row.reason


@pytest.mark.parametrize("way", SILENT)
def test_what_is_said_of_others_states_nothing(way: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE + SILENT[way])["licence.weights"]
    assert row.answer == "no" and "no licence text" in row.reason, row.reason


def test_a_name_that_nobody_knows_is_unknown(tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE + "License: Wonder License 7")["licence.weights"]
    assert row.answer == "unknown" and "Wonder License 7" in row.reason


@pytest.mark.parametrize(
    ("card", "files", "answer"),
    [
        ("The Foo models are released under the MIT license.", {"LICENSE": APACHE}, "no"),
        ("The code is under Apache 2.0, the model weights under CC-BY-NC-4.0.", {"LICENSE": APACHE}, "yes"),
        ("Foo is released under the MIT license.", {"LICENSE": MIT, "weights__LICENSE": APACHE}, "no"),
        ("The code is MIT-licensed. The weights are under Apache 2.0.", {"LICENSE-CODE": MIT, "LICENSE-MODEL": APACHE},
         "yes"),
        ("The models are under MIT.", {"LICENSE": MIT + "\nNot for commercial use.\n"}, "no"),
        ("## License\n\nApache 2.0", {"LICENSE": APACHE}, "yes"),
        ("", {"LICENSE": APACHE}, "unknown"),
    ],
)  # fmt: skip
def test_all_sources_are_compared(card: str, files: dict[str, str], answer: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE + card, **files)["licence.agreement"]
    assert row.answer == answer, row.reason


def test_restrictions_decide(tmp_path: Path) -> None:
    terms = (
        "FOO LICENSE\n\nThis agreement does not apply in the European Union.\n\nIf you have "
        "more than 100 million monthly active users, you must request a license.\n"
    )
    row = audit_of(tmp_path, TITLE, LICENSE=terms)["licence.weights"]
    assert row.answer == "no" and "European Union" in row.reason + str(row.evidence)


@pytest.mark.parametrize("tag", ["eupl-1.2", "ms-pl", "osl-3.0", "ncsa", "ofl-1.1", "postgresql", "zlib", "afl-3.0",
                                 "artistic-2.0", "bsl-1.0", "ecl-2.0", "epl-2.0", "lgpl", "gpl", "bsd", "unlicense",
                                 "isc", "wtfpl", "bsd-3-clause-clear", "lppl-1.3c", "agpl-3.0",
                                 "openmdw-1.1"])  # fmt: skip
def test_the_hubs_open_tags(tag: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, f"---\nlicense: {tag}\n---\n{TITLE}")["licence.weights"]
    assert row.answer == "yes", row.reason


@pytest.mark.parametrize("tag", ["openrail", "llama2", "gemma", "cc-by-nc-sa-3.0", "cc-by-nc-nd-3.0", "cc-by-nd-4.0",
                                 "deepfloyd-if-license", "bigscience-openrail-m", "c-uda", "apple-amlr"])  # fmt: skip
def test_the_hubs_other_tags(tag: str, tmp_path: Path) -> None:
    row = audit_of(tmp_path, f"---\nlicense: {tag}\n---\n{TITLE}")["licence.weights"]
    assert row.answer == "no", row.reason


def test_a_second_text_in_one_file_is_named(tmp_path: Path) -> None:
    row = audit_of(tmp_path, TITLE, LICENSE=f"{MIT}\n\n{standard('CC-BY-NC-4.0')}")["licence.weights"]
    assert row.answer in ("partly", "no") and "CC-BY-NC-4.0" in row.reason
