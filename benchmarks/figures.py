"""Measured figures in README and docs/: each refers to the benchmark book, and is what the book says.

Two forms. In a sentence a figure is a link to its claim, `[2.25 times](benchmarks.md#grpo-beside-trl)`, and every
number of the link's text is one of the claim, rounded as it is shown. A table stands in a *measured* part, between
``<!-- measured: ANCHOR -->`` and ``<!-- /measured -->``: every number in its rows but those of the first column is one
of the claims named, and the part has a link to each. Behind a link whose claim is of earlier code stands :data:`MARK`,
and at the end of such a page :data:`LEGEND`; book.py writes both.

What looks measured and is neither fails a test, unless the part says of which kind it is: ``<!-- figures: KIND -->``
before a paragraph, list or table, with a kind of :data:`KINDS`. Parts that are made from the code are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from claims import Claim, claims
from record import ROOT

MARK = "†"
LEGEND = "† Measured on code that has changed since; the [benchmark book]({}) says what changed."
KINDS = {
    "settings": "limits, defaults and sizes that the code has, which tests compare with it",
    "arithmetic": "follows from the dimensions or from a formula on the page",
    "packages": "sizes of packages when each was added, which no claim rests on",
    "published": "somebody else's figure, with its source",
    "example": "what a command prints, or a number in an example",
    "exact": "a property that a test proves for every run: counts of tests, tolerances, kills",
}
"""Figures that are not measured, with the reason why the book does not hold them."""
APART = frozenset({"docs/notebook.md", "docs/benchmarks.md"})
"""Pages that are no subject: the notebook is the record of every experiment, and the book is made from the results."""

LINK = re.compile(rf"\[([^\]]*)\]\(((?:docs/|\.\./)?benchmarks\.md)#([\w-]+)\)({MARK}?)")
NUMBER = re.compile(r"(?<![\w.])([-+\u2212]?)(\d[\d,]*(?:\.\d+)?)")
PART = re.compile(r"<!-- measured: ([\w ,-]+) -->\n(.*?)<!-- /measured -->", re.S)
KIND = re.compile(r"<!-- figures: (\w+) -->")
GENERATED = re.compile(r"<!-- generated: \w+ -->.*?<!-- /generated -->", re.S)
COMMENT = re.compile(r"<!--.*?-->", re.S)
FENCE = re.compile(r"^```.*?^```$", re.S | re.M)
MEASURED = re.compile(
    r"\d[\d.,]*\s(?:(?:times|%|s|ms|seconds|minutes|hours|GB|GiB|MB|MiB|bits per (?:byte|token))(?![\w/])|\w+/s(?!\w))"
)
"""What looks measured: a number with a unit of ratios, shares, time, memory or rate."""


def readers() -> list[str]:
    """The pages whose figures refer to the book."""
    return ["README.md", *sorted({page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md")} - APART)]


@cache
def by_anchor() -> dict[str, Claim]:
    """The claims by their anchors in the book."""
    return {claim.anchor: claim for claim in claims()}


def marked(text: str, page: str) -> str:
    """A page with the mark behind each figure of earlier code, and the legend where there is one."""
    legend = LEGEND.format(
        "docs/benchmarks.md" if page == "README.md" else "../" * (page.count("/") - 1) + "benchmarks.md"
    )
    text = text.replace(f"\n{legend}\n", "")

    def mark(link: re.Match[str]) -> str:
        claim = by_anchor().get(link[3])
        return link[0].removesuffix(MARK) + (MARK if claim and not claim.holds else "")

    text = LINK.sub(mark, text)
    return f"{text}\n{legend}\n" if any(link[4] for link in LINK.finditer(text)) else text


def wrong(text: str) -> Iterator[str]:
    """What a page says of a claim that the claim does not say."""
    text = FENCE.sub("", text)
    for link in LINK.finditer(text):
        shown, anchor = link[1], link[3]
        claim = by_anchor().get(anchor)
        if claim is None:
            yield f"no claim has the anchor #{anchor}"
        else:
            yield from (f"{number} is no figure of #{anchor}" for number in numbers(shown) if not held(number, [claim]))
    for part in PART.finditer(text):
        anchors = part[1].replace(",", " ").split()
        if missing := [each for each in anchors if each not in by_anchor() or f"#{each})" not in part[2]]:
            yield f"a measured part without a link to its claim: {', '.join(missing)}"
            continue
        every = [by_anchor()[each] for each in anchors]
        for row in rows(part[2]):
            for number in numbers(LINK.sub("", row.strip().strip("|").partition("|")[2])):
                if not held(number, every):
                    yield f"{number} in | {row.strip(' |')[:40]}… is no figure of #{', #'.join(anchors)}"


def rows(part: str) -> Iterator[str]:
    """Rows of the tables of a part, without headings and rulers."""
    lines = part.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|---") and not below.startswith("|---"):
            yield line


def numbers(text: str) -> list[str]:
    """Numbers of a text, with their signs if they have one."""
    return ["".join(found) for found in NUMBER.findall(re.sub(r"`[^`]*`", "", text))]


def held(number: str, every: list[Claim]) -> bool:
    """Whether one of the figures of these claims is shown as this number, rounded to its digits.

    A number without a sign is a magnitude.
    """
    sign, plain = number[0] if not number[0].isdigit() else "", number.lstrip("-+\u2212").replace(",", "")
    half = 0.5 * 10 ** -len(plain.partition(".")[2]) * (1 + 1e-9)
    shown = float(plain) * (-1 if sign in ("-", "\u2212") else 1)
    values = (value for claim in every for figure in claim.figures for value in figure.numbers())
    return any(abs((value if sign else abs(value)) - shown) <= half for value in values)


def unmarked(text: str) -> list[str]:
    """What looks measured and refers to no claim, with some words around it."""
    found = []
    kind = ""
    for apart in (FENCE, PART, GENERATED):
        text = apart.sub("", text)
    for block in re.split(r"\n\s*\n", text):
        own = KIND.search(block)
        bare = COMMENT.sub("", block)
        if own and not bare.strip():
            kind = own[1]  # of the block that follows
            continue
        told, kind = (own[1] if own else kind), ""
        if told not in KINDS:
            plain = re.sub(r"`[^`]*`", "", LINK.sub("", bare))
            places = [(max(0, each.start() - 30), each.end()) for each in MEASURED.finditer(plain)]
            found += [" ".join(plain[start:end].split()) for start, end in places]
    return found
