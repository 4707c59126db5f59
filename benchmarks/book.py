"""The benchmark book, docs/benchmarks.md, and the marks of figures that pages cite from it.

``python benchmarks/book.py`` writes the book from ``claims.toml`` and ``results/*.json``, and in README and docs/ the
mark † behind figures whose code has changed since. ``--check`` writes nothing, says which pages are not what they would
be, and ends with 1 if there are any. ``--changed`` prints the files that changed under each claim, with their hashes as
``[[accepted]]`` takes them. :func:`pages` gives the texts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from claims import GONE, Claim, Figure, claims
from figures import MARK, marked, readers
from record import ROOT, hashes

from clearseek.files import write_atomic

BOOK = "docs/benchmarks.md"
MOST_FILES = 3
"""Changed files that are named one by one."""
MOST_ROWS = 24
"""Rows of a claim's table; what is beyond is in the result's file."""
HEAD = f"""\
<!-- Made by benchmarks/book.py from benchmarks/claims.toml and benchmarks/results/: do not edit. -->

# Benchmarks

Every figure that README and the other pages cite, with its script, machine, date, versions and spread, what it was
compared with, and whether it still holds.

- **Holds** says that the files which decide the figure are those that were measured, byte for byte. Else the figure is
  of *earlier code*, the files that changed are named, and pages mark it {MARK}. What it is today was not measured yet.
- *Spread* is the least and the most of the turns, or an interval of 95 %. Where a script kept only its median, there is
  none.
- A *bar* is what was aimed for, reached or not.
- Machines were shared ones: a few per cent between two runs say nothing.

[benchmarks/claims.toml](../benchmarks/claims.toml) has the claims and the files that decide each,
[benchmarks/results](../benchmarks/results) all figures.
"""


def pages() -> dict[str, str]:
    """The book and every page that cites it, as they should be, by path in the repository.

    The pages are read from the disk as they are: where another generator writes into them too, it goes first.
    """
    made = {BOOK: book(claims())}
    for page in readers():
        text = (ROOT / page).read_text(encoding="utf-8")
        made[page] = marked(text, page)
    return made


def others() -> dict[str, str]:
    """The pages that are not as they should be, each as it should be."""
    made = {(ROOT / page): (page, text) for page, text in pages().items()}
    now = {file: file.read_text(encoding="utf-8") if file.is_file() else "" for file in made}
    return {page: text for file, (page, text) in made.items() if now[file] != text}


def write() -> list[str]:
    """Write the pages that are not as they should be; return their paths."""
    changed = others()
    for page, text in changed.items():
        write_atomic(ROOT / page, text)
    return list(changed)


def book(every: tuple[Claim, ...]) -> str:
    """The whole page."""
    rows = ["| claim | first figure | measured | code |", "|---|---|---|---|"]
    for claim in every:
        first = claim.figures[0]
        missed = ", a bar missed" if any(figure.reached is False for figure in claim.figures) else ""
        state = ("holds" if claim.holds else "earlier") + missed
        what = f"{amount(first.value)} {first.unit} ({escaped(first.label)})"
        rows.append(f"| [{claim.title}](#{claim.anchor}) | {what} | {claim.about['date'][:10]} | {state} |")
    parts = [HEAD, "\n".join(rows) + "\n", *("\n".join(section(claim)) + "\n" for claim in every)]
    return "\n".join(parts)


def section(claim: Claim) -> Iterator[str]:
    """Lines of one claim."""
    yield f"## {claim.title}\n"
    yield f"{claim.says}\n"
    yield from table(claim)
    about, name = claim.about, f"benchmarks/results/{claim.result}.json"
    yield ""
    yield f"- **{'Holds' if claim.holds else 'Earlier code'}.** {state(claim)}"
    yield f"- Measured {about['date'][:10]} on {machine(claim)}; {versions(claim)}."
    if claim.peer:
        yield f"- Peer: {claim.peer}."
    if quotes := about.get("quotes"):
        yield "- No script wrote this: it was noted in the [notebook](notebook.md) by hand."
        yield f"- Again: `{claim.measure['again']}`. Noted: {'; '.join(f'“{quote}”' for quote in quotes)}."
    else:
        yield f"- Script: [{about['script']}](../{about['script']}); command: {command(claim)}."
    told = f" Its key `about` was written {about['recorded']}." if "recorded" in about else ""
    begun = f" Begun {about['begun'][:10]}." if "begun" in about else ""
    yield f"- Result: [{claim.result}.json](../{name}).{begun}{told}"


def table(claim: Claim) -> Iterator[str]:
    """The figures of a claim; columns that none of them fills are left out."""
    shown = claim.figures[:MOST_ROWS]
    cells = [row(figure) for figure in shown]
    used = [name for name in cells[0] if any(each[name] for each in cells)]
    yield f"| {' | '.join(used)} |"
    yield "|" + "---|" * len(used)
    yield from (f"| {' | '.join(each[name] for name in used)} |" for each in cells)
    if more := len(claim.figures) - len(shown):
        yield f"\n{more} more are in the result."


def row(figure: Figure) -> dict[str, str]:
    """Cells of a figure by their columns."""
    spread = " to ".join(map(amount, figure.spread)) if figure.spread else ""
    turns = f", {figure.turns} turns" if figure.turns else ""
    return {
        "figure": escaped(figure.label),
        "value": f"{amount(figure.value)} {figure.unit}".strip(),
        "spread": spread + turns,
        "ours": "" if figure.own is None else amount(figure.own),
        "peer's": "" if figure.peer is None else amount(figure.peer),
        "bar": f"{figure.bar}: {'reached' if figure.reached else '**missed**'}" if figure.bar else "",
    }


def state(claim: Claim) -> str:
    """Whether the code is what was measured, and what changed."""
    reasons = [f"`{path}` has changed: {why}" for path, why in claim.differences.items() if why]
    said = f" Accepted: {'; '.join(reasons)}." if reasons else ""
    if claim.holds:
        return f"The {len(claim.about['files'])} files that decide it are those that were measured.{said}"
    if not claim.about["files"]:
        return f"The files that decide it had other names then.{said}"
    if len(claim.changed) <= MOST_FILES:
        return f"Changed since: {', '.join(f'`{path}`' for path in claim.changed)}.{said}"
    folders = sorted({path.rpartition("/")[0] for path in claim.changed})  # names would change with every commit
    return f"More than {MOST_FILES} files have changed since, in {', '.join(f'`{each}`' for each in folders)}.{said}"


def machine(claim: Claim) -> str:
    """The machine in words."""
    here = claim.about["machine"]
    if not here:
        return "a machine that was not recorded"
    cores = here.get("usable_cores") or here.get("logical_cores")
    parts = [
        f"{cores} cores" if cores else "",
        here.get("cpu_capability"),
        *(gpu["name"] for gpu in here.get("gpus", ())),
    ]
    said = ", ".join(each for each in parts if each)
    return f"{here['processor'].replace('(R)', '')}{f' ({said})' if said else ''}"


def versions(claim: Claim) -> str:
    """Versions of what computed."""
    here = claim.about["machine"]
    found = {key: here[key] for key in ("python", "torch") if here.get(key)} | dict(claim.about["versions"])
    return ", ".join(f"{name} {version}" for name, version in found.items())


def command(claim: Claim) -> str:
    """The command that was run, or how the script is run."""
    if said := claim.about["command"]:
        return f"`{said}`"
    return f"not recorded; again: `{claim.measure['again']}`"


def amount(value: float) -> str:
    """A number to three or four digits."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    size = f"{value:.3g}"
    return f"{value:.3f}".rstrip("0").rstrip(".") if "e" not in size and 1 <= abs(value) < 10 else size


def escaped(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page would change")
    parser.add_argument("--changed", action="store_true", help="print the files that changed under each claim")
    arguments = parser.parse_args()
    if arguments.changed:
        print("\n".join(line for claim in claims() for line in changes(claim)))
        return
    if arguments.check:
        changed = others()
        print("".join(f"{page}: not what benchmarks/book.py writes\n" for page in changed), end="")
        sys.exit(1 if changed else 0)
    for page in write():
        print(f"{page}: written anew")


def changes(claim: Claim) -> Iterator[str]:
    """The changed files of a claim, in the form of ``[[accepted]]``."""
    now = hashes(claim.measure)
    yield f"# {claim.title}"
    yield from (f'[[accepted]]\nfile = "{path}"\nsha256 = "{now.get(path, GONE)}"' for path in claim.changed)


if __name__ == "__main__":
    main()
