"""Which licence a text is; above all, that a changed one never passes for the original."""

from __future__ import annotations

import os
import textwrap
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clearseek.licences import identify, lookup
from clearseek.licences.known import known
from clearseek.licences.known import standard as text_of
from clearseek.licences.names import is_grant, is_operative
from tests.licences.examples import APACHE, LLAMA_3_1, MIT, published, standard

SHIPPED = [each.id for each in known() if each.shipped and "~" not in each.id]
POISON = ["not", "military", "xyzzy", "only", "noncommercial", "Example"]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_text_is_itself(name: str) -> None:
    match = identify(standard(name))
    assert match.licence is not None and match.licence.id == name
    assert match.exact and match.similarity == 1 and match.basis == "text" and not match.changes
    assert match.label == name


def test_every_shipped_text_has_a_row() -> None:
    assert all((row := lookup(name)) is not None and row.id == name for name in SHIPPED) and len(SHIPPED) > 80


@pytest.mark.parametrize("name", SHIPPED)
def test_line_breaks_quotes_case_and_bullets_mean_nothing(name: str) -> None:
    text = standard(name)
    wrapped = "\n\n".join(
        part if "opyright (" in part or "opyright \N{COPYRIGHT SIGN}" in part else textwrap.fill(part, 60)
        for part in text.split("\n\n")
    )
    forms = [
        wrapped, text.upper(), text.replace("\n", "\r\n"), "\n".join(f" * {line}" for line in text.split("\n")),
        text.replace('"', "“").replace("'", "\u2019"), "\ufeff" + text,
    ]  # fmt: skip
    for form in forms:
        match = identify(form)
        assert match.label == name, match.changes[:3]


def test_names_years_and_titles_mean_nothing() -> None:
    for text in (
        MIT.removeprefix("MIT License\n"),
        MIT.replace("MIT License", "The MIT License (MIT)"),
        MIT.replace("Ada Example", "Will May, Good Old Names Inc.").replace("Good Old ", ""),
        MIT.replace(
            "Copyright (c) 2024 Ada Example", "Copyright © 2019-2024 A\nCopyright 2020 B. All rights reserved."
        ),
        APACHE[: APACHE.index("END OF TERMS")],
        APACHE.replace("[yyyy] [name of copyright owner]", "2024 Ada Example"),
    ):
        assert identify(text).exact, identify(text).changes
    bsd = standard("BSD-3-Clause").replace(
        "Neither the name of the copyright holder", "Neither the name of Example Labs"
    )
    assert identify(bsd.replace("COPYRIGHT HOLDERS AND", "REGENTS AND")).label == "BSD-3-Clause"


def test_copyright_lines_are_reported() -> None:
    assert identify(MIT).copyright == ((3, "Copyright (c) 2024 Ada Example"),)


def test_deepseek_models_licence_is_of_the_rail_family() -> None:
    match = identify(published("deepseek-v3/LICENSE-MODEL"))
    assert match.licence is not None and match.licence.id == "LicenseRef-DeepSeek-1.0"
    assert match.licence.family == "rail" and match.basis in ("title", "text")
    assert match.nearest is not None and match.nearest.family == "rail" and match.similarity > 0.88
    flags = {clause.flag for clause in match.clauses}
    assert {"field_of_use", "pass_on", "patent_termination", "output_restriction", "remote_restriction"} <= flags
    assert any(clause.quote == "For military use in any way;" and clause.line == 82 for clause in match.clauses)


@pytest.mark.parametrize("file", ["deepseek-v3/LICENSE-CODE", "deepseek-r1/LICENSE"])
def test_deepseek_code_is_mit(file: str) -> None:
    match = identify(published(file))
    assert match.label == "MIT" and match.copyright == ((3, "Copyright (c) 2023 DeepSeek"),)


def test_neighbours_are_told_apart() -> None:
    for name, other in (("CC-BY-4.0", "CC-BY-NC-4.0"), ("MIT", "JSON"), ("BSD-2-Clause", "BSD-3-Clause")):
        assert identify(standard(name)).label == name
        assert identify(standard(other)).label == other
    # even under the wrong title
    disguised = identify(standard("CC-BY-NC-4.0").replace("Attribution-NonCommercial", "Attribution"))
    assert disguised.licence is not None and disguised.licence.id == "CC-BY-NC-4.0"
    assert identify(standard("JSON").replace("JSON License", "MIT License")).label == "JSON"


def test_an_added_clause_is_quoted() -> None:
    clause = "The Software shall not be used for military purposes."
    text = MIT.replace("THE SOFTWARE IS PROVIDED", f"{clause}\n\nTHE SOFTWARE IS PROVIDED")
    match = identify(text)
    assert match.label == "modified MIT" and not match.exact
    (change,) = match.changes
    assert (change.kind, change.expected) == ("insert", "")
    assert "shall not be used for military purposes" in change.context
    assert clause in text.split("\n")[change.line - 1]
    assert [found.flag for found in match.clauses] == ["field_of_use"]


def test_one_word_decides() -> None:
    match = identify(MIT.replace("without restriction", "with restriction"))
    (change,) = match.changes
    assert (change.kind, change.expected, change.found) == ("replace", "without", "with")
    assert match.label == "modified MIT" and "Software with restriction" in change.context
    gone = identify(APACHE.replace("a perpetual, worldwide", "a worldwide", 1))
    assert [(each.kind, each.expected) for each in gone.changes] == [("delete", "perpetual")]


@pytest.mark.parametrize(
    "text",
    [
        MIT.replace("Ada Example", "Ada Example. Not for commercial use"),
        MIT.replace("Ada Example", "Ada Example, to whom every copy made costs the reader a hundred euros"),
        "For research only.\n\n" + MIT,
        "Pay 10 percent of revenue to Ada.\n\n" + MIT,
        MIT + "\nThis software must not be used by governments.\n",
        MIT + "\nLicensees send Ada a postcard.\n",
        APACHE + "\n\nCommons Clause: the right to Sell the Software is not granted.\n",
        APACHE[: APACHE.index("APPENDIX")] + "\nYou may not use the Work to train models.\n",
        "Non-commercial use only.\n\n" + standard("CC-BY-4.0"),
        standard("Unlicense").replace(
            "for any purpose, commercial or non-commercial", "for any non-commercial purpose"
        ),
        standard("BSD-3-Clause").replace("the copyright holder nor", "the copyright holder, except in war, nor"),
        standard("BSD-3-Clause").replace(
            "the copyright holder nor", "the copyright holder that shuns germans here nor"
        ),
        MIT.replace("MIT License", "MIT License\n\nExcluding Companies Above Ten Employees And Everybody In Germany"),
        MIT.replace("MIT License", "MIT License\n\nExpires On December 31 2025. Universities Excluded."),
        MIT.replace("MIT License", "MIT License\n\nGermany And France And Italy Stay Out"),
        MIT.replace("Ada Example", "Foo. Expires 2025. Excludes Google, Germany and competitors of Foo."),
        MIT.replace("Ada Example", "清华大学 禁止商用"),
        MIT.replace("Ada Example", "Foo For Research"),
        MIT.replace("Ada Example", "Foo. Germany Stays Out."),
        MIT.replace("Ada Example", "Foo <everybody in germany and any rival of foo is excluded from all of this>"),
        MIT.replace("Ada Example", "Foo <germany and france stay out of all this>"),
    ],
)
def test_hidden_rules_are_seen(text: str) -> None:
    match = identify(text)
    assert not match.exact and match.changes and match.label.startswith("modified "), match


@pytest.mark.parametrize(
    "line",
    [
        "Copyright (c) 2023-2025 DeepSeek",
        "Copyright 2024 The Allen Institute for AI. All rights reserved.",
        "Copyright (c) Meta Platforms, Inc. and affiliates.",
        "Copyright 2018- The Hugging Face team. All rights reserved.",
        "Copyright: 2000, 2010, Oracle and/or its affiliates.",
        "Copyright (c) 2021-2023, Arm Limited.",
        "Copyright (C) 1999 J. R. Smith <smith@example.no> and contributors",
        "Copyright (c) 2015 holger krekel",
        "Copyright (c) 2023 Example Research Private Limited",
        "Copyright (c) 2023 清华大学",
    ],
)
def test_honest_copyright_lines_mean_nothing(line: str) -> None:
    match = identify(MIT.replace("Copyright (c) 2024 Ada Example", line))
    assert match.exact and match.copyright == ((3, line),), match.changes


@pytest.mark.parametrize(
    "title", ["The MIT License (MIT)", "# License", "Foo Bar Project\n\nMIT License", "License: MIT"]
)
def test_honest_titles_mean_nothing(title: str) -> None:
    assert identify(MIT.replace("MIT License", title, 1)).exact


def test_what_is_too_long_to_be_compared_is_not_exact() -> None:
    match = identify(MIT + "\n" + " " * 201_000 + "\nYou may not use the weights for military purposes.\n")
    assert not match.exact and match.label == "MIT as far as it was compared"


def test_a_licence_with_other_texts_below_is_recognised() -> None:
    match = identify(MIT + "\n" + "Parts are of the Example project, which has its own notice.\n" * 500)
    assert match.exact and match.label == "MIT, with a note added"


def test_known_terms_without_shipped_text() -> None:
    match = identify(LLAMA_3_1)
    assert match.label == "LicenseRef-Llama-3.1 (by its title)" and not match.exact
    openmdw = standard("OpenMDW-1.0").replace("1.0", "1.1").replace("any patent,", "any patent or copyright,")
    assert identify(openmdw).label == "OpenMDW-1.1"
    assert identify("Gemma Terms of Use: see the web page.").label == "LicenseRef-Gemma (by its title)"


def test_the_same_words_in_another_order_are_no_licence() -> None:
    assert identify(" ".join(sorted(APACHE.split()))).licence is None


@pytest.mark.parametrize("text", ["", " \n", "\0" * 1000, "Copyright 2024", "licence", "# A README\n\nHello, world.\n"])
def test_other_texts_are_unknown(text: str) -> None:
    match = identify(text)
    assert (match.licence, match.exact, match.label) == (None, False, "unknown")


@pytest.mark.parametrize(
    "text",
    [
        os.urandom(5_000_000).decode("latin-1"), "a " * 2_500_000, "\n" * 5_000_000, ". " * 2_500_000,
        "A. B; (c) not use " * 300_000, MIT + "the software " * 400_000, "x" * 5_000_000, "(" * 200_000,
        "you shall not " * 300_000, "initiate claim " * 300_000, APACHE * 400,
    ],
)  # fmt: skip
def test_huge_and_broken_files_are_quick(text: str) -> None:
    begun = time.process_time()
    assert not identify(text).exact
    assert time.process_time() - begun < 20


@settings(deadline=None)
@given(st.text(max_size=3000))
def test_any_text_gets_an_answer(text: str) -> None:
    match = identify(text)
    assert match.licence is None and not match.exact
    assert all(1 <= clause.line <= text.count("\n") + 1 and len(clause.quote) <= 300 for clause in match.clauses)


SPARE = {each.id: {at for a, b, _, _, spare in each.slots if spare for at in range(a, b)} for each in known()}
WORDS = {
    name: [
        (word.begin, word.end)
        for at, word in enumerate(text_of(name).words)
        if at not in SPARE[name] and (is_operative(word.text) or is_grant(word.text))
    ]
    for name in ("MIT", "Apache-2.0", "CC-BY-4.0", "MPL-2.0", "CC0-1.0")
}


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(WORDS)), st.integers(0, 10**6), st.sampled_from(["", *POISON]), st.booleans())
def test_no_edit_of_one_word_passes(name: str, place: int, word: str, keep: bool) -> None:
    text = standard(name)
    place %= len(WORDS[name])
    assume(place > 0 or not word.istitle())  # a capital word before the first rule is the end of a title
    begin, end = WORDS[name][place]
    # remove the word, replace it, or put another before it
    edited = text[:begin] + word + (" " + text[begin:end] if keep and word else "") + text[end:]
    assume(edited.lower() != text.lower())
    match = identify(edited)
    assert not match.exact, (text[begin:end], word)
    assert match.licence is not None and match.licence.id == name and match.changes
