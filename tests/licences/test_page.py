"""The table in docs/licences.md is the table of the code; ``python -m tests.licences.test_page`` writes it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from clearseek.licences import LICENCES, identify, is_open_for
from clearseek.licences.known import known
from clearseek.licences.table import Kind, Licence
from clearseek.licences.words import read
from tests.licences.examples import MIT, standard

PAGE = Path(__file__).parents[2] / "docs" / "licences.md"
PLACE = re.compile(r"(<!-- licences -->\n).*?(<!-- /licences -->)", re.S)
KINDS: tuple[Kind, ...] = ("code", "weights", "data", "documents")


def table() -> str:
    shipped = {each.id for each in known() if each.shipped}
    rows = ["| licence | family | open for | restricts, asks | text shipped |", "|---|---|---|---|---|"]
    for row in LICENCES:
        open_for = ", ".join(kind for kind in KINDS if is_open_for(row, kind)) or "nothing"
        asks = ", ".join(_asks(row)) or "-"
        rows.append(f"| {row.id} | {row.family} | {open_for} | {asks} | {'yes' if row.id in shipped else 'no'} |")
    return "\n".join(rows) + "\n"


def _asks(row: Licence) -> list[str]:
    asks = {
        "uses": row.field_of_use, f"{(row.user_cap or 0) // 1_000_000} M users": row.user_cap,
        "commerce": row.non_commercial,
        "training others": row.no_compete, "outputs": row.output_restriction, "place": row.geo_exclusion,
        "same licence": row.share_alike, "passing on": row.pass_on, "names": row.shown or row.name_prefix,
    }  # fmt: skip
    return [name for name, asked in asks.items() if asked]


def test_the_table_is_what_the_code_says() -> None:
    message = "write it anew with: python -m tests.licences.test_page"
    assert table() in PAGE.read_text(encoding="utf-8"), message


def _in_common(one: str, other: str) -> float:
    """Share of the words that two texts have in common: 1 for the same words in any order."""
    a, b = (Counter(word.text for word in read(text).words) for text in (one, other))
    return 2 * (a & b).total() / (a.total() + b.total())


def test_the_traps_have_the_shares_that_the_page_gives() -> None:
    military = MIT.replace(
        "THE SOFTWARE IS", "The Software shall not be used for military purposes.\n\nTHE SOFTWARE IS", 1
    )
    pairs = [
        (standard("CC-BY-NC-4.0"), "CC-BY-4.0", "98 %"),
        (standard("JSON"), "MIT", "97 %"),
        (military, "MIT", "97 %"),
        (MIT.replace("without restriction", "with restriction"), "MIT", "99.4 %"),
    ]
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|") and " % |" in line]
    for (text, other, share), row in zip(pairs, rows, strict=True):
        measured = 100 * _in_common(text, standard(other))
        assert f"{measured:.{1 if '.' in share else 0}f} %" == share and f"| {share} |" in row, measured
        assert identify(text).label != other


def write() -> None:
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda match: match[1] + table() + match[2], text), encoding="utf-8")


if __name__ == "__main__":
    write()
