"""The text of a stranger's PDF: read where pypdf is here, bounded in size and time, never a no where it is not."""

from __future__ import annotations

import importlib.util
import zlib
from pathlib import Path

import pytest

from clearseek.audit.evidence import Row
from clearseek.audit.facts import SummaryFact
from clearseek.errors import UserError
from clearseek.reading import pdf
from clearseek.reading.pdf import pdf_lines
from clearseek.reading.source import Folder
from tests.releases import audited

HERE = importlib.util.find_spec("pypdf") is not None
SUMMARY = (
    "Public Summary of Training Content", "1.1. Provider identification", "Provider name and contact details: Us, Inc.",
    "1.2 Model identification", "Versioned model name(s): Foo 1", "Training data size Types of content",
    "more than 10 trillion tokens of text", "Latest date of data acquisition/collection for model training:", "05/2025",
    "2.1 Publicly available datasets", "Common texts.", "2.4 User data", "Were user data used? \u2610 Yes \u2610 No",
    "2.5 Synthetic data", "None.",
)  # fmt: skip


def write_pdf(file: Path, lines: tuple[str, ...], packed: bytes = b"") -> None:
    """A PDF of one page with these lines; `packed` is a stream of its own instead."""
    shown = " ".join(f"({line}) Tj 0 -14 Td".replace("(s)", "\\(s\\)") for line in lines)
    stream = packed or zlib.compress(f"BT /F1 11 Tf 40 800 Td {shown} ET".encode("latin-1", errors="replace"))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 900] /Contents 4 0 R /Resources "
        b"<< /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]  # fmt: skip
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    out += b"%" + b" " * 12_000 + b"\n"  # as large as a document is
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"%" * 3_000 + b"\n"  # as large as any document
    out += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table, len(out),
    )  # fmt: skip
    file.write_bytes(out)


def summary(folder: Path) -> Row:
    (folder / "README.md").write_text("# Foo\n\nFoo is a model.\n")
    return audited(folder)["documents.data_summary"]


@pytest.mark.skipif(not HERE, reason="pypdf is not installed")
def test_the_fields_of_a_summary_are_read_by_their_headings(tmp_path: Path) -> None:
    write_pdf(tmp_path / "Foo_EU_Public_Summary.pdf", SUMMARY)
    row = summary(tmp_path)
    (fact,) = row.facts_of(SummaryFact)
    assert row.answer == "partly" and int(row.grade) == 3
    assert fact.fields["1.1 provider"].startswith("Provider name and contact details: Us, Inc.")
    assert fact.fields["1.3 modality and size"].endswith(fact.fields["1.3 types of content"])
    assert fact.fields["1.3 latest acquisition"] == "05/2025"
    assert fact.fields["2.5 synthetic data"] == "None."
    assert {"2.6 other data", "3.1 reservations of rights"}.isdisjoint(fact.fields)


@pytest.mark.skipif(not HERE, reason="pypdf is not installed")
def test_another_language_and_another_form_are_not_a_no(tmp_path: Path) -> None:
    write_pdf(tmp_path / "public-summary.pdf", ("Sintesi dei contenuti", "Identificazione del fornitore", "Noi"))
    row = summary(tmp_path)
    assert row.answer == "partly" and "were not read" in row.reason and not row.facts


@pytest.mark.skipif(HERE, reason="pypdf is installed")
def test_without_pypdf_the_row_says_how_to_get_it(tmp_path: Path) -> None:
    write_pdf(tmp_path / "public-summary.pdf", SUMMARY)
    row = summary(tmp_path)
    assert row.answer == "partly" and "pip install -e '.[pdf]'" in row.reason


@pytest.mark.parametrize("content", [b"%PDF-1.7\n", b"%PDF-1.4\n" + b"1 0 obj\n" * 50_000, b"no pdf" * 100])
def test_a_pdf_that_is_none_is_not_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "public-summary.pdf").write_bytes(content)
    with pytest.raises(UserError):
        pdf_lines(Folder(tmp_path), "public-summary.pdf")
    assert summary(tmp_path).answer != "yes"


def test_a_page_that_unpacks_to_gigabytes_ends(tmp_path: Path) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(b" " * 10_000_000) for _ in range(200)) + packer.flush()
    write_pdf(tmp_path / "public-summary.pdf", (), bomb)
    try:
        assert sum(map(len, pdf_lines(Folder(tmp_path), "public-summary.pdf"))) <= pdf.LONGEST
    except UserError as error:
        assert "public-summary.pdf" in str(error)


def test_a_pdf_that_is_too_large_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pdf(tmp_path / "public-summary.pdf", SUMMARY)
    monkeypatch.setattr(pdf, "LARGEST", 100)
    with pytest.raises(UserError, match="is not read"):
        pdf_lines(Folder(tmp_path), "public-summary.pdf")
