"""A cut text is the same text, in parts of about the size, cut where it hurts least."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st

from clearseek.data.cut import parts

LINES = st.sampled_from(["word ", "é", "中", "😀", "\n", "\n\n", "x" * 90, "\r\n", " "])


@given(st.lists(LINES, max_size=300).map("".join), st.sampled_from([16, 40, 256]))
def test_parts_are_the_text_and_say_where_they_begin(text: str, size: int) -> None:
    raw = text.encode()
    found = list(parts(io.BytesIO(raw), size))
    assert b"".join(part for _, part in found) == raw
    position = 0
    for place, part in found:
        line, _, column = place.partition("+")
        start = 0
        for _ in range(int(line) - 1):
            start = raw.index(b"\n", start) + 1
        assert start + int(column or 0) == position
        part.decode()  # no character is cut
        assert 0 < len(part) <= 4 * size
        position += len(part)


def test_blank_lines_come_first_then_lines_then_characters() -> None:
    paragraphs = b"".join(b"line %d\n\n" % number for number in range(100))
    assert all(part.endswith(b"\n\n") for _, part in parts(io.BytesIO(paragraphs), 64))
    lines = b"".join(b"line %d\n" % number for number in range(100))
    assert all(part.endswith(b"\n") for _, part in parts(io.BytesIO(lines), 64))
    chinese = "没有标点".encode() * 1000
    found = list(parts(io.BytesIO(chinese), 64))
    assert len(found) > 90 and found[1][0] == f"1+{len(found[0][1])}"


@given(st.binary(max_size=400))
def test_what_is_no_text_is_cut_too(raw: bytes) -> None:
    assert b"".join(part for _, part in parts(io.BytesIO(raw), 16)) == raw
