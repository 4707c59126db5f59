"""The AI Act's summary: fields are found in tables and sections, and what says nothing fills none."""

from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.audit.checks.content_summary import FIELDS
from clearseek.audit.evidence import Audit, Grade
from clearseek.audit.facts import SummaryFact
from clearseek.audit.views import View, views
from tests.releases import audited


def row_and_view(release: Path) -> tuple[Audit, View]:
    found = audited(release)
    return found, next(view for view in views(found) if view.id == "ai-act")


def table(**changes: str) -> str:
    rows = {field.name: "something true" for field in FIELDS} | {"2.4 user data": "none"} | changes
    return "| field | value |\n|---|---|\n" + "\n".join(f"| {name} | {text} |" for name, text in rows.items()) + "\n"


def test_a_full_summary_fills_every_field(release: Path) -> None:
    (release / "training-content-summary.md").write_text(table())
    found, view = row_and_view(release)
    assert (found["documents.data_summary"].answer, found["documents.data_summary"].grade) == ("yes", Grade.PRESENT)
    fields = [entry for entry in view.entries if entry.name.startswith("53(1)(d) ") and entry.name[9].isdigit()]
    assert len(fields) == len(FIELDS) == 15
    assert all(entry.proven == "yes" for entry in fields)


@pytest.mark.parametrize("nothing", ["", "-", "not stated", "Unknown to us", "TBD", "n/a", "is not disclosed, for now"])
def test_a_field_that_says_nothing_is_not_filled(release: Path, nothing: str) -> None:
    (release / "training-content-summary.md").write_text(table(**{"2.5 synthetic data": nothing}))
    found, view = row_and_view(release)
    assert found["documents.data_summary"].answer == "partly"
    assert "not 2.5 synthetic data" in found["documents.data_summary"].reason
    entry = next(each for each in view.entries if "2.5" in each.name)
    assert (entry.claimed, entry.proven) == ("no", "no")
    assert "14 of 15 fields" in view.proven


def test_sections_and_other_words_count_too(release: Path) -> None:
    text = (
        "# Summary\n\n## Name of the model\n\n## 1.1 Provider\n\nUs Ltd.\n\n## Crawlers\n\nNone were run.\n\n## Size\n"
    )
    (release / "public_summary.md").write_text(text)
    found, _ = row_and_view(release)
    assert found["documents.data_summary"].facts == (
        SummaryFact({"1.1 provider": "Us Ltd.", "2.3 crawled data": "None were run."}),
    )


def test_what_documents_say_elsewhere_is_claimed_and_not_proven(release: Path) -> None:
    found, view = row_and_view(release)
    assert found["documents.data_summary"].answer == "no"
    model = next(each for each in view.entries if "1.2" in each.name)
    assert (model.claimed, model.proven) == ("yes", "no")
    assert next(each for each in view.entries if "2.1" in each.name).claimed == "no"


def test_an_empty_file_of_that_name_is_no_summary(release: Path) -> None:
    (release / "ai-act-summary.md").write_text("to come\n")
    assert audited(release)["documents.data_summary"].answer == "no"


def test_a_file_that_is_not_read_is_only_present(release: Path) -> None:
    (release / "training-data-summary.pdf").write_bytes(b"%PDF-1.7" + bytes(20_000))
    row = audited(release)["documents.data_summary"]
    assert (row.answer, row.grade) == ("partly", Grade.PRESENT)
    assert "not read field by field" in row.reason


@pytest.mark.parametrize(("name", "content"), [("ai-act.pdf", b""), ("ai-act.pdf", b"%PDF-1.7"), ("ai-act.md", b"")])
def test_a_file_that_holds_nothing_is_no_summary(release: Path, name: str, content: bytes) -> None:
    (release / name).write_bytes(content)
    row = audited(release)["documents.data_summary"]
    assert (row.answer, row.grade) == ("no", Grade.CLAIMED)
    assert f"named like one and holds nothing: {name}" in row.reason


def test_code_is_no_summary(release: Path) -> None:
    (release / "ai-act.py").write_text("x = 1\n")
    assert audited(release)["documents.data_summary"].grade == Grade.ABSENT
