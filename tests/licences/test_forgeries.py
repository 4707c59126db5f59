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
