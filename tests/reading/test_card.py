from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.reading.card import Document, decode, plain, read_yaml, shorten


def test_metadata_is_the_block_on_top() -> None:
    document = Document("README.md", "---\nlicense: mit\ndatasets:\n- a/b\n---\n# Title\n")
    assert document.metadata == {"license": "mit", "datasets": ["a/b"]}
    assert Document("README.md", "# Title\n---\nlicense: mit\n---\n").metadata == {}


@pytest.mark.parametrize(
    ("block", "what"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("a: 1\na: 2", "stands there twice"),
        ("- 1\n- 2", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_metadata_that_is_none_is_refused(block: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_yaml(block, "README.md")


def test_a_block_without_end_is_refused() -> None:
    with pytest.raises(UserError, match="has no end"):
        _ = Document("README.md", "---\na: 1\n").metadata


def test_headings_tables_and_links() -> None:
    text = (
        '# A\n## B\n[one](http://x/1) <a href="http://x/2">t</a> http://x/3.\n\n'
        "| m | n |\n|---|---|\n| **1** | [2](u) |\n"
    )
    document = Document("f", text + "```\n# not one\n```\n")
    assert document.headings[2] == ("A", "B")
    assert document.headings[-2] == ("A", "B")
    assert [(link.target, link.text, link.line) for link in document.links][:3] == [
        ("http://x/1", "one", 3),
        ("http://x/2", "t", 3),
        ("http://x/3", "", 3),
    ]
    assert [(cell.row, cell.header, cell.column, cell.text, cell.line) for cell in document.cells] == [
        (("1", "2"), ("m", "n"), 0, "1", 7),
        (("1", "2"), ("m", "n"), 1, "2", 7),
    ]


def test_shortening_and_markup() -> None:
    assert plain("**a** `b` <i>c</i> [d](e)") == "a b c d"
    assert shorten("x" * 300, 10) == "x" * 9 + "…"


@settings(max_examples=300, deadline=1000)
@given(st.text(max_size=2000))
def test_any_text_is_read(text: str) -> None:
    document = Document("f", text)
    assert len(document.headings) == len(document.lines)
    assert all(1 <= link.line <= len(document.lines) for link in document.links)
    assert all(1 <= cell.line <= len(document.lines) for cell in document.cells)
    with contextlib.suppress(UserError):
        assert isinstance(document.metadata, dict)


@pytest.mark.parametrize("piece", ["[", "<", "](", "http://", "|", "**", "[a](b", "#", "`", "(" * 10])
def test_no_line_takes_long(piece: str) -> None:
    start = time.process_time()
    document = Document("f", piece * (1_000_000 // len(piece)) + "\n" + (piece + "\n") * 2000)
    _ = document.links, document.headings, list(document.cells), plain(document.lines[0])
    assert time.process_time() - start < 20


def test_a_line_of_spaces_and_marks_is_no_trap() -> None:
    start = time.process_time()
    text = "# x" + " " * 3990 + "y\n" + ("# " + "#" * 3990 + "x\n") * 30
    document = Document(
        "f",
        "|1" * 200
        + "\n"
        + "|-" * 200
        + "\n"
        + ("|1" * 200 + "\n") * 260
        + "\n"
        + ("http://a.b " * 360 + "\n") * 20
        + text,
    )
    assert len(document.headings) == len(document.lines)
    assert len(document.links) == 5000
    assert len(document.cells) == 50_000
    assert "only" in document.unread
    assert time.process_time() - start < 20


def test_headings_may_close_with_marks() -> None:
    assert Document("f", "# A ##\n## B #\t\n").headings == (("A",), ("A", "B"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_mark_of_byte_order_says_how_a_text_is_written(encoding: str) -> None:
    text = "---\nlicense: mit\n---\n# Größe\n"
    document = Document("README.md", decode(text.encode(encoding)))
    assert document.metadata == {"license": "mit"}
    assert document.headings[-1] == ("Größe",)
    assert "\ufffd" in decode(b"\xff" * 64)
