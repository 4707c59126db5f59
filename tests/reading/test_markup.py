"""Cards as people write them come whole, each piece with its line; texts made to keep a reader busy are bounded."""

from __future__ import annotations

import time

import pytest

from clearseek.reading.card import Document
from clearseek.reading.markup import LONGEST_TEXT, MOST_CELLS, MOST_LINKS

CARD = """\
---
license: mit
homepage: https://h.example/x
---
# Foo **7B**

Foo natively supports a context of 1
million tokens (e.g. for books) and has 355 billion
parameters. See [our
paper](https://arxiv.org/abs/1), please! It is free.

<div align="center">
  <a href="https://hub.example/Foo"><img alt="Weights" src="x.png"/></a>
  <h2>Use</h2>
</div>

- one item
  wraps https://a.example/c.
- **License**: MIT<br>Size: small

[![License](https://badge.example/b.svg)](LICENSE)

See [the list][ref] and <https://auto.example/?a=1&b=2>.

```sh
curl https://code.example/x
# no heading
```
<!-- hidden https://no.example -->
Below
=====
[ref]: https://ref.example
[unused]: https://unused.example
"""


def test_blocks_are_whole_texts_with_their_headings() -> None:
    document = Document("README.md", CARD)
    assert [(each.kind, each.line, each.text) for each in document.blocks] == [
        ("heading", 5, "Foo 7B"),
        (
            "paragraph", 7, "Foo natively supports a context of 1 million tokens (e.g. for books) and has 355 billion "
            "parameters. See our paper, please! It is free.",
        ),
        ("heading", 14, "Use"),
        ("item", 17, "one item wraps https://a.example/c."),
        ("item", 19, "License: MIT"),
        ("item", 19, "Size: small"),
        ("paragraph", 23, "See the list and https://auto.example/?a=1&b=2."),
        ("heading", 30, "Below"),
    ]  # fmt: skip
    assert document.blocks[3].headings == ("Foo 7B", "Use")
    assert document.blocks[1].line_at(document.blocks[1].text.index("parameters")) == 9
    assert [block.level for block in document.blocks if block.kind == "heading"] == [1, 2, 1]
    assert document.headings[16] == ("Foo 7B", "Use")
    assert document.headings[-1] == ("Below",)


def test_sentences_know_their_lines_and_links() -> None:
    found = [(each.line, each.text, [link.target for link in each.links]) for each in Document("f", CARD).sentences]
    assert found[1:4] == [
        (7, "Foo natively supports a context of 1 million tokens (e.g. for books) and has 355 billion parameters.", []),
        (9, "See our paper, please!", ["https://arxiv.org/abs/1"]),
        (10, "It is free.", []),
    ]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It has 2.5B. Dr. Ada et al. made it, cf. Fig. 3.", ["It has 2.5B.", "Dr. Ada et al. made it, cf. Fig. 3."]),
        ("1\\. Foo is free. it sings? “Yes.” So", ["1. Foo is free. it sings?", "“Yes.”", "So"]),
        ("模型是\n开放的。许可证\uff1aMIT\uff01很好", ["模型是开放的。", "许可证\uff1aMIT\uff01", "很好"]),
        ("Use v1. It is Foo", ["Use v1.", "It is Foo"]),
    ],
)
def test_sentences_end_where_they_do(text: str, sentences: list[str]) -> None:
    assert [each.text for each in Document("f", text).sentences] == sentences


def test_links_come_with_words_or_pictures_and_comments_have_none() -> None:
    links = {each.target: each for each in Document("f", CARD).links}
    assert {target: each.line for target, each in links.items()} == {
        "https://h.example/x": 3, "https://arxiv.org/abs/1": 10, "https://hub.example/Foo": 13,
        "https://a.example/c": 18,
        "LICENSE": 21, "https://ref.example": 23, "https://auto.example/?a=1&b=2": 23, "https://code.example/x": 26,
        "https://unused.example": 33,
    }  # fmt: skip
    assert links["https://arxiv.org/abs/1"].text == "our paper"
    assert (links["LICENSE"].text, links["LICENSE"].image) == ("License", "https://badge.example/b.svg")
    assert (links["https://hub.example/Foo"].text, links["https://hub.example/Foo"].image) == ("Weights", "x.png")
    assert not any("no.example" in each for each in links)


TABLE = """\
<table>
<thead><tr><th></th><th colspan="2">Scores</th></tr>
<tr><th>Model</th><th>A</th><th>B</th></tr></thead>
<tr><td rowspan="2"><b>Foo</b></td><td>1</td>

    <td><p>2</p> <a href="u">here</a></td></tr>
<tr><td>3<td>**4** [x](y)
</table>
after
"""


def test_tables_of_html_come_whole() -> None:
    document = Document("f", TABLE)
    header = ("Model", "Scores A", "Scores B")
    assert [(each.row, each.header, each.text, each.line) for each in document.cells] == [
        (("Foo", "1", "2 here"), header, "Foo", 4),
        (("Foo", "1", "2 here"), header, "1", 4),
        (("Foo", "1", "2 here"), header, "2 here", 6),
        (("Foo", "3", "4 x"), header, "Foo", 7),
        (("Foo", "3", "4 x"), header, "3", 7),
        (("Foo", "3", "4 x"), header, "4 x", 7),
    ]
    assert [[link.target for link in each.links] for each in document.cells][2:] == [["u"], [], [], ["y"]]
    assert [each.text for each in document.blocks] == ["after"]


def test_a_table_that_never_ends_swallows_no_section() -> None:
    document = Document("f", "<table><tr><td>a\n\n# Next\n\ntext\n")
    assert [each.text for each in document.blocks] == ["Next", "text"]
    assert [each.text for each in document.cells] == ["a"]


def test_a_first_row_without_names_is_told_as_well() -> None:
    cells = Document("f", "<table><tr><td>License</td><td>MIT</td></tr><tr><td>Size</td><td>7B</td></tr></table>").cells
    assert [each.row for each in cells[::2]] == [("License", "MIT"), ("Size", "7B")]


PATTERNS = [
    "[", "![", "[[]", "[a](", "[a](<b", "*a_", "**a", "*a **a ", "_", "`a``", "<a ", "<", "&", "&#", '\\', "[a][",
    "![[]()", "<http:", '[a](b "', '[a]: <b "\n', "<a b='", '<a href="', "(", ">", "> ", "- ", "1. ", "|a", "a|",
    "|a\n|-\n", "<!--", "<?", "<![CDATA[", "<td>", "<table>", "<tr><td rowspan=50 colspan=50>", "<pre>",
    "<script>", "<h1>", "# a\n", "a\n=\n", "```\n", "[a]\n", "[a\n", "<br>", "\t- a\n", ">\n", "http://",
    "https://a.b/c ", "\u3002", "a. B", "<li>", "&amp;", "<a href=x>", "</table>", "</a>", "<p\n", "| a | b |\n",
    "!--", "\0", "\u2028", '<a b=c d="e" f=\'g\'>',
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("end", ["", "\n"])
def test_no_text_takes_long(pattern: str, end: str) -> None:
    piece = pattern * (4_000 // len(pattern)) + end
    start = time.process_time()
    document = Document("f", piece * 20)
    assert len(document.headings) == len(document.lines)
    assert len(document.links) <= MOST_LINKS and len(document.cells) <= MOST_CELLS
    assert all(1 <= each.line <= len(document.lines) for each in (*document.blocks, *document.links, *document.cells))
    assert all(1 <= each.line <= len(document.lines) for each in document.sentences)
    assert time.process_time() - start < 8


def test_what_is_left_out_is_said() -> None:
    assert "links" in Document("f", "https://a.example\n" * (MOST_LINKS + 1)).unread
    assert "cells" in Document("f", "|a|b|c|d|e|\n|-|-|-|-|-|\n" + "|1|2|3|4|5|\n" * 11_000).unread
    long = Document("f", "word " * 10 + "\n" + "text\n\n" * (LONGEST_TEXT // 5))
    assert "lines" in long.unread
    assert len(long.headings) == len(long.lines)
    assert not Document("f", CARD).unread
