"""A rule that hides in an open licence is found wherever it hides; what rules nothing is left alone."""

from __future__ import annotations

import pytest

from clearseek.licences import identify
from clearseek.licences.markup import without_markup
from tests.licences.examples import APACHE, MIT, standard
from tests.licences.forgeries import BSD, IN_SENTENCES, RULES, hidden


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_is_found_wherever_it_hides(rule: str) -> None:
    for place, text in hidden(rule).items():
        match = identify(without_markup(text))
        assert not match.exact or (match.licence is not None and match.licence.restricted), place


@pytest.mark.parametrize("text", IN_SENTENCES)
def test_a_rule_of_a_few_words_is_found(text: str) -> None:
    assert not identify(text).exact


@pytest.mark.parametrize("text", [MIT, BSD])
def test_no_sentence_is_too_short_to_be_seen(text: str) -> None:
    for before in ("THE SOFTWARE IS PROVIDED", "THIS SOFTWARE IS PROVIDED", "Copyright (c)"):
        changed = text.replace(before, f"Be kind.\n\n{before}", 1)
        assert changed == text or not identify(changed).exact, before
    assert not identify(f"{text}\nBe kind.\n").exact


HONEST = {
    "heading": "Foo Toolkit: licence of the parser\n\n" + BSD,
    "bare heading": "BSD 3-Clause License\n\n" + BSD,
    "product line": "Foo 2.1 (https://example.org/foo)\n" + MIT,
    "who": MIT.replace("Ada Example", "The Regents of the University of Example and the Foo Authors"),
    "notice": "This software is licensed under the MIT license. See AUTHORS for the list of contributors.\n\n" + MIT,
    "SPDX": "SPDX-FileCopyrightText: 2024 Ada\nSPDX-License-Identifier: BSD-3-Clause\n\n" + BSD,
    "comment": "\n".join(f"// {line}" for line in BSD.split("\n")),
    "dnl": "\n".join(f"dnl {line}" for line in MIT.split("\n")),
    "stars": "/*\n" + "\n".join(f" * {line}" for line in MIT.split("\n")) + "\n */",
    "address": MIT.replace("Ada Example", "Ada Example <ada@example.org>, http://example.org"),
    "two": f"{MIT}\n\n{'-' * 60}\n\n{BSD}",
    "either": f"This project is dual-licensed under either of the licenses below, at your option.\n\n{MIT}\n\n{APACHE}",
    "bundled": f"{APACHE}\n\nThis product bundles zlib, which is available under the following license:\n\n"
    + standard("Zlib"),
    "third party": f"{BSD}\n\nThird-party notices\n===================\n\nName: bar\nFiles: src/bar/*\n\n{MIT}",
    "no appendix": APACHE[: APACHE.index("APPENDIX")],
    "scope": "Except where otherwise noted, all files in this repository are under the following license:\n\n" + MIT,
    "holder in rule": BSD.replace("the copyright holder nor", "Example Research Labs, Inc. nor"),
    "history": "Foo was written in 1995 by Ada Example at the Example Institute in Germany.\n\n" + MIT,
}


@pytest.mark.parametrize("name", HONEST)
def test_what_adds_no_condition_counts_for_nothing(name: str) -> None:
    match = identify(HONEST[name])
    assert match.exact, match.changes
    assert "modified" not in match.label


def test_what_is_added_is_told() -> None:
    assert identify("Foo Toolkit\n\n" + BSD).label == "BSD-3-Clause, with a heading added"
    assert identify(HONEST["bundled"]).bundled[0].id == "Zlib"
    assert [each.id for each in identify(HONEST["two"]).licences] == ["MIT", "BSD-3-Clause"]


def test_a_restricted_licence_beside_an_open_one_is_seen() -> None:
    match = identify(f"{MIT}\n\n{standard('CC-BY-NC-4.0')}")
    assert [each.id for each in match.licences] == ["MIT", "CC-BY-NC-4.0"]


def test_terms_that_are_not_shipped_are_known_by_their_phrases() -> None:
    text = standard("LicenseRef-BigScience-OpenRAIL-M")
    assert identify(text).label == "LicenseRef-BigScience-OpenRAIL-M"


CC_BY_NC = standard("CC-BY-NC-4.0")


@pytest.mark.parametrize(
    "text",
    [
        f"{MIT}\n\nThe weights are licensed under CC BY-NC 4.0, see https://creativecommons.org/.\n",
        f"{MIT}\n\nThe model weights are covered by the Llama 2 Community License.\n",
        f"CC BY-NC 4.0\n\n{MIT}",
        f"OpenRAIL-M License\n\n{MIT}",
        f"{MIT}\n\nThe model weights are included in this repository under this license:\n\n{CC_BY_NC}",
        f"{MIT}\n\nThird-party notices\n\nFiles: data/*\n\n{CC_BY_NC}",
        f"{MIT}\n\nThird-party components:\n\nThe weights need a paid subscription once revenue exceeds $1M.\n",
        f"{MIT}\n\nThis project includes code from others.\n\nFirms with over 50 staff sign a contract with us.\n",
        f"{MIT}\n\nAlternatively, the above license lapses for companies; they buy a commercial license.\n",
        f"{MIT}\n\nMIT许可\n\n个人学习可以使用本模型。公司使用需联系作者付费购买授权。\n",
        f"{MIT}\n\nMIT许可\n\n{'本软件按原样提供不附带任何形式的保证。' * 9}\nThis license expires in 2027.\n",
        BSD.replace("source and binary forms", "source forms"),
        APACHE.replace("in Source or Object form", "in Source form"),
        MIT.replace("to deal\nin the Software", "").replace("to deal in the Software", ""),
        MIT.replace("Ada Example", "Foo,\nLapses Upon Hosting, Resale, Finetuning"),
        MIT.replace("following conditions:", "following conditions: Startups, Ten Staff At Most;"),
        f"{MIT}\nThis license lapses for firms with more than ten staff.\n",
        f"{MIT}\nThis license ends on 1 January 2027.\n",
        f"{MIT}\nThis license is for startups and schools.\n",
    ],
)
def test_a_real_licence_beside_an_open_one_is_never_hidden(text: str) -> None:
    match = identify(text)
    assert not match.exact or any(licence.restricted for licence in match.licences)


@pytest.mark.parametrize(
    "line",
    [
        "Commercial use is allowed.",
        "If you use this model in research, please cite our paper.",
        "This work was funded by the German Federal Ministry of Education and Research.",
        "This project is not affiliated with OpenAI or Meta.",
        "Questions? Write to us at a@foo.example.",
        "By contributing, you agree that your contributions will be licensed under its MIT License.",
        "The summary above is not legal advice.",
        "The license of this project can be found in LICENSE.",
        "This license applies to all files in this repository.",
        "The model weights are released under the same license.",
        "Alternatively, this software may be distributed under the terms of the Apache License.",
    ],
)
def test_harmless_lines_are_harmless(line: str) -> None:
    assert identify(f"{MIT}\n{line}\n").exact, identify(f"{MIT}\n{line}\n").changes


@pytest.mark.parametrize("more", [" for schools only", ", others pay us", " until 2027", " by companies that pay us"])
def test_more_than_a_harmless_line_is_none(more: str) -> None:
    for line in ("Commercial use is allowed", "This work was funded by Foo", "This project is not affiliated with Foo"):
        assert not identify(f"{MIT}\n{line}{more}.\n").exact, line


def test_a_translation_is_not_read_and_that_is_told() -> None:
    match = identify(f"{MIT}\n\nMIT许可\n\n个人和公司都可以使用本模型。\n")
    assert match.label == "MIT, with a text in another language that was not read" and match.is_cut
