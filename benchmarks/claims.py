"""Claims, their figures, and whether they still hold: ``claims.toml`` read beside ``results/*.json``.

A claim names a result and the paths of its figures in it. It *holds* while the files that decide the result have the
hashes that its key ``about`` recorded. Where one has changed, the figure is of earlier code, and every page that cites
it must say so, unless ``[[accepted]]`` says why this very change leaves the measurement as it was.
"""

from __future__ import annotations

import json
import re
import statistics
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from record import CLAIMS, ROOT, hashes

RESULTS = ROOT / "benchmarks" / "results"
GONE = "gone"
"""In place of the hash of a file that is no longer there."""
PICKS: dict[str, Callable[[list[Any]], float]] = {
    "median": statistics.median, "mean": statistics.fmean, "max": max, "min": min, "count": len, "sum": sum,
    "largest": lambda values: max(values, key=abs),
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One number of a claim."""

    label: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    """The least and the most that was measured, or None where the result does not have them."""
    turns: int = 0
    """How many turns the spread is of; 0 where it is an interval or not known."""
    own: float | None = None
    peer: float | None = None
    """The two absolute figures of which a ratio was taken."""
    bar: str = ""
    reached: bool | None = None

    def numbers(self) -> Iterator[float]:
        """Every number that a page may cite of it."""
        yield self.value
        yield from (each for each in (self.own, self.peer) if each is not None)
        yield from self.spread or ()


@dataclass(frozen=True)
class Claim:
    """A sentence that was measured."""

    title: str
    says: str
    result: str
    peer: str
    figures: tuple[Figure, ...]
    about: Mapping[str, Any]
    measure: Mapping[str, Any]
    accepted: Mapping[tuple[str, str], str]

    @property
    def anchor(self) -> str:
        """The anchor of its heading in the book."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")

    @cached_property
    def differences(self) -> dict[str, str]:
        """Files that are not as they were, each with the reason why that changes no figure, or an empty string."""
        then, now = self.about["files"], hashes(self.measure)
        different = sorted(path for path in {*then, *now} if then.get(path) != now.get(path))
        return {path: self.accepted.get((path, now.get(path, GONE)), "") for path in different}

    @property
    def changed(self) -> list[str]:
        """Files that decide the figures and have changed since, without a reason why that does not matter."""
        return [path for path, why in self.differences.items() if not why]

    @property
    def holds(self) -> bool:
        """Whether the code that was measured is the present one."""
        return not self.changed


@cache
def claims() -> tuple[Claim, ...]:
    """All claims, in the order of the book."""
    table = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))
    accepted = {(path, each["sha256"]): each["why"] for each in table.get("accepted", ()) for path in [each["file"]]}
    found = []
    for claim in table["claims"]:
        content = load(claim["result"])
        measure = measure_of(claim["result"], content["about"], table["measures"])
        peer = claim.get("peer", "")
        if version := claim.get("peer_version"):
            peer += f" {_one(content, version)}"
        figures = tuple(figure for entry in claim["figures"] for figure in read_figures(content, entry))
        assert figures, f"{claim['title']}: no figure in results/{claim['result']}.json"
        found.append(
            Claim(claim["title"], claim["says"], claim["result"], peer, figures, content["about"], measure, accepted)
        )
    return tuple(found)


@cache
def load(result: str) -> dict[str, Any]:
    """A result by its name."""
    return dict(json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8")))


def measure_of(result: str, about: Mapping[str, Any], measures: Mapping[str, Any]) -> Mapping[str, Any]:
    """The entry of ``[measures]`` for a result: under its own name, or its script's."""
    entry = measures.get(result) or measures.get(Path(about["script"]).stem)
    assert entry, f"results/{result}.json: claims.toml has no [measures] for it, nor for {about['script']}"
    return dict(entry)


def read_figures(content: Any, entry: Mapping[str, Any]) -> Iterator[Figure]:
    """The figures of one entry of a claim, one for each way to fill the ``*`` of its path."""
    scale = entry.get("scale", 1)
    found = list(find(content, entry["path"]))
    if "join" in entry:
        found = [((), PICKS[entry["join"]]([value for _, value in found]))]
    for stars, value in found:
        other = {key: _filled(content, entry[key], stars) for key in _OTHERS if key in entry}
        if isinstance(value, list):
            value = PICKS[entry.get("pick", "median")](value)
        if "over" in other:
            value /= other["over"]
        turns = other.get("turns", ())
        if "turns_over" in other:
            turns = [each / base for each, base in zip(turns, other["turns_over"], strict=True)]
        ends = [each * scale for each in (turns or other.get("range", ()))]
        bar, reached = _bar(value * scale, other, scale)
        yield Figure(
            entry["label"].format(*stars) if "label" in entry else ", ".join(stars), value * scale, entry["unit"],
            (min(ends), max(ends)) if ends else None, len(turns), other.get("own"), other.get("peer"), bar, reached,
        )  # fmt: skip


_SLICE = re.compile(r"\[(-?\d*):?(-?\d*)\]")
_OTHERS = ("over", "turns", "turns_over", "range", "own", "peer", "least", "most")


def _bar(value: float, other: Mapping[str, Any], scale: float) -> tuple[str, bool | None]:
    """What was aimed for, and whether it was reached."""
    for key, words in (("least", "at least"), ("most", "at most")):
        if key in other:
            aim = other[key] * scale
            return f"{words} {aim:g}", value >= aim if key == "least" else value <= aim
    return "", None


def find(content: Any, path: list[Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield what a path leads to, with the names that filled its stars.

    A step is a key or an index; ``*`` is every one of them; a list of keys each of those; ``[]`` collects what the rest
    of the path gives of each item of a list, ``[-50:]`` of the items of a slice.
    """
    if not path:
        yield (), content
        return
    step, rest = path[0], path[1:]
    if isinstance(step, str) and (part := _SLICE.fullmatch(step)):
        start, stop = (int(each) if each else None for each in (part[1], part[2]))
        yield (), [_one(item, rest) for item in content[start:stop]]
    elif step == "*" or isinstance(step, list):
        every = content if isinstance(content, dict) else {str(i): item for i, item in enumerate(content)}
        for key in [*every] if step == "*" else step:
            for stars, value in find(every[key], rest):
                yield (key, *stars), value
    else:
        yield from find(content[int(step) if isinstance(content, list) else step], rest)


def _filled(content: Any, path: Any, stars: tuple[str, ...]) -> Any:
    """What a path leads to with these names in its ``{0}``, ``{1}``; a number stands for itself."""
    if not isinstance(path, list):
        return path
    return _one(content, [step.format(*stars) if isinstance(step, str) else step for step in path])


def _one(content: Any, path: list[Any]) -> Any:
    ((_, value),) = find(content, path)
    return value
