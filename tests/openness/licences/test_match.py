from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.openness.checks.licence import KINDS
from clearseek.openness.licences.clauses import RESTRICTING
from clearseek.openness.licences.match import identify
from clearseek.openness.licences.table import LICENCES as TABLE
from clearseek.openness.licences.table import is_open_for, lookup

from ..releases import LICENCES, fixture


def standard(name: str) -> str:
    return (LICENCES / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(path.stem for path in LICENCES.iterdir()))
def test_each_standard_text_is_itself(name: str) -> None:
    match = identify(standard(name))
    assert match.exact
    assert match.licence is lookup(name)
    assert match.name == match.licence.id


def test_deepseek_texts() -> None:
    folder = fixture("deepseek-v3")
    model = identify((folder / "LICENSE-MODEL").read_text(encoding="utf-8"))
    assert model.licence is not None
    assert (model.licence.id, model.licence.family, model.exact) == ("LicenseRef-DeepSeek-1.0", "rail", False)
    assert model.nearest == "CreativeML-OpenRAIL-M"
    assert 0.88 < model.likeness < 0.9
    assert {"field_of_use", "pass_on", "remote_restriction"} <= {clause.flag for clause in model.clauses}
    code = identify((folder / "LICENSE-CODE").read_text(encoding="utf-8"))
    assert (code.name, code.exact, code.clauses) == ("MIT", True, ())
    assert code.copyright == ((3, "Copyright (c) 2023 DeepSeek"),)


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (
            "MIT",
            "THE SOFTWARE IS",
            "The Software must not be used for military purposes. THE SOFTWARE IS",
            "modified MIT",
        ),
        ("MIT", "without restriction", "with restriction", "modified MIT"),
        ("MIT", "free of charge, ", "", "modified MIT"),
        ("MIT", "[year] [fullname]", "2026 Ada Lovelace and others", "MIT"),
        ("MIT", "MIT License\n", "The MIT License (MIT)\n", "MIT"),
        ("BSD-3-Clause", "the copyright holder nor", "Example University nor", "BSD-3-Clause"),
        ("Apache-2.0", "perpetual,\n      worldwide", "worldwide", "modified Apache-2.0"),
        ("CC-BY-4.0", "for commercial", "for non-commercial", None),
    ],
)
def test_what_is_changed_decides(name: str, old: str, new: str, expected: str | None) -> None:
    text = standard(name)
    if expected is None:
        text = re.sub("Attribution 4.0 International", "Attribution-NonCommercial 4.0 International", text)
        assert identify(text).name == "CC-BY-NC-4.0"
        return
    assert old in text
    match = identify(text.replace(old, new, 1))
    assert match.name == expected
    assert match.exact == (not expected.startswith("modified"))
    assert bool(match.changes) == expected.startswith("modified")


def test_apache_without_its_appendix_is_apache() -> None:
    text = standard("Apache-2.0")
    assert identify(text[: text.index("APPENDIX: How to apply")]).exact
    assert not identify(text + "\nYou may not use the software for anything but research.\n").exact


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["MIT", "ISC", "BSD-2-Clause", "OpenMDW-1.0", "CDLA-Permissive-2.0"]),
    st.randoms(use_true_random=False),
)
def test_a_word_that_turns_the_sense_is_never_exact(name: str, rng: random.Random) -> None:
    lines = standard(name).splitlines()
    start = next(n for n, line in enumerate(lines) if len(line.split()) > 8)
    number = rng.choice([n for n in range(start, len(lines)) if len(lines[n].split()) > 3])
    words = lines[number].split()
    words.insert(rng.randrange(1, len(words)), rng.choice(["not", "only", "except", "noncommercial", "military"]))
    lines[number] = " ".join(words)
    assert not identify("\n".join(lines)).exact


@pytest.mark.parametrize(
    "name", ["MIT", "Apache-2.0", "BSD-3-Clause", "ISC", "CC0-1.0", "CC-BY-4.0", "PSF-2.0", "MPL-2.0"]
)
def test_open_licences_restrict_no_use(name: str) -> None:
    assert not [clause for clause in identify(standard(name)).clauses if clause.flag in RESTRICTING]


def test_clauses_name_their_line() -> None:
    text = "Title\n\nTerms.\nYou agree not to use the Model\nfor military purposes in any way.\n"
    (clause, *_) = identify(text).clauses
    assert (clause.flag, clause.line) == ("field_of_use", 4)
    assert "for military purposes" in clause.quote


@settings(max_examples=200, deadline=2000)
@given(st.text(max_size=3000))
def test_any_text_is_read(text: str) -> None:
    match = identify(text)
    assert 0 <= match.likeness <= 1
    assert all(1 <= clause.line <= max(1, len(text.splitlines())) for clause in match.clauses)


@pytest.mark.parametrize("text", ["not use " * 30_000, "a" * 5_000_000, "the software " * 100_000, "\n" * 200_000])
def test_long_junk_is_read_quickly(text: str) -> None:
    start = time.perf_counter()
    identify(text)
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    ("name", "id"),
    [("mit", "MIT"), ("The MIT License", "MIT"), ("apache-2.0", "Apache-2.0"), ("cc-by-4.0", "CC-BY-4.0"),
     ("Apache License, Version 2.0", "Apache-2.0"), ("llama3.1", "LicenseRef-Llama-3.1"),
     ("Llama 3.1 Community License", "LicenseRef-Llama-3.1"), ("deepseek", "LicenseRef-DeepSeek-1.0"),
     ("gemma", "LicenseRef-Gemma")],
)  # fmt: skip
def test_tags_and_names(name: str, id: str) -> None:
    found = lookup(name)
    assert found is not None
    assert found.id == id


def test_what_is_open_for_what() -> None:
    def open_for(name: str) -> set[str]:
        licence = lookup(name)
        assert licence is not None
        return {kind for kind in KINDS if is_open_for(licence, kind)}

    assert open_for("mit") == {"code", "weights", "data", "documents"}
    assert open_for("cc-by-4.0") == {"weights", "data", "documents"}
    assert open_for("openmdw-1.0") == {"weights", "data", "documents"}
    for closed in ("llama3.1", "deepseek", "gemma", "cc-by-nc-4.0", "openrail", "json", "arxiv"):
        assert open_for(closed) == set()
    assert lookup("nothing known") is None
    assert len({licence.id for licence in TABLE}) == len(TABLE)
