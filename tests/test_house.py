"""The house: a room imports only rooms below it, in no circle, and some never load PyTorch (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clearseek.cli import COMMANDS

PACKAGE = Path(__file__).parents[1] / "clearseek"
FLOORS = (
    ("errors", "jsontext", "program", "sysfiles", "interrupts", "locks", "templates"),
    ("files", "filetypes", "training_code", "endpoint"),
    ("cores", "machine", "config"),
    ("tensors", "parts"),
    ("counts",),
    ("size", "recipe"),
    ("licences",),
    ("kernels",),
    ("ops",),
    ("data",),
    ("chat",),
    ("problems",),
    ("plan",),
    ("fp8",),
    ("model",),
    ("hub",),
    ("signing",),
    ("inference",),
    ("evaluate",),
    ("reading",),
    ("audit",),
    ("serve",),
    ("train",),
    ("posttrain",),
    ("release",),
    ("verify",),
    ("cli",),
)
"""From the ground up. Rooms of one floor may use each other, but in no circle."""
WITHOUT_TORCH = (
    "tensors",
    "parts",
    "counts",
    "licences",
    "plan",
    "signing",
    "reading",
    "audit",
    "chat",
    "config",
    "size",
    "recipe",
    "data",
    "cli",
)
SHARE = 0.30
"""Largest share of the package's lines in one room."""
HEAVY = ("matplotlib", "transformers", "triton", "numba", "pyarrow", "huggingface_hub", "cryptography")


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere, also for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def arrows() -> dict[str, set[str]]:
    """Room -> other rooms that it imports."""
    found: dict[str, set[str]] = {room(path): set() for path in sources()}
    for path in sources():
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "clearseek" and len(parts) > 1 and parts[1] in found:
                found[room(path)].add(parts[1])
    return {name: others - {name} for name, others in found.items()}


def test_every_room_has_a_floor() -> None:
    known = {name for floor in FLOORS for name in floor} | {"__init__", "__main__"}
    assert set(arrows()) == known


def map_of(page: str) -> list[tuple[list[str], list[str], str]]:
    """Rooms, pages and whole text of each row of the table under "The rooms"."""
    text = (PACKAGE.parent / page).read_text(encoding="utf-8").split("\n## The rooms\n")[1].split("\n#")[0]
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    return [
        (re.findall(r"`(\w+)`", row.split("|")[1]), re.findall(r"\]\(([^)#]+)", row.split("|")[3]), row) for row in rows
    ]


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_room_is_on_the_map_with_its_page(page: str) -> None:
    rows = map_of(page)
    assert sorted(name for names, _, _ in rows for name in names) == sorted(arrows().keys() - {"__init__", "__main__"})
    for names, links, _ in rows:
        assert links, names
        assert all(((PACKAGE.parent / page).parent / link).is_file() for link in links), names


def test_the_map_has_the_floors_and_the_commands() -> None:
    in_order = [name for names, _, _ in map_of("docs/architecture.md") for name in names]
    assert in_order == [name for floor in FLOORS for name in floor]
    without = {name for names, _, row in map_of("docs/architecture.md") if "✓" in row for name in names}
    assert without == set(WITHOUT_TORCH)
    commands = [name for _, _, row in map_of("README.md") for name in re.findall(r"`(\w+)`", row.split("|")[4])]
    assert sorted(commands) == sorted(COMMANDS)


def test_no_room_imports_one_above_it() -> None:
    height = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if name in height and height[other] > height[name]
    ]
    assert not wrong


def test_rooms_import_each_other_in_no_circle() -> None:
    graph, done = arrows(), set[str]()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join((*above, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_no_module_imports_itself_over_others() -> None:
    """Within rooms too: a circle is an idea in two files."""
    modules = {path: ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in sources()}
    by_name = {name.removesuffix(".__init__"): path for path, name in modules.items()}
    done: set[Path] = set()

    def visit(path: Path, above: tuple[Path, ...]) -> None:
        assert path not in above, " -> ".join(modules[each] for each in (*above, path))
        if path in done:
            return
        tops = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
        for node in tops:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                target = by_name.get(name) or by_name.get(str(node.module))
                if target is not None and target != path:
                    visit(target, (*above, path))
        done.add(path)

    for path in sources():
        visit(path, ())


def test_no_room_is_a_drawer() -> None:
    lines: dict[str, int] = {}
    for path in sources():
        lines[room(path)] = lines.get(room(path), 0) + path.read_text(encoding="utf-8").count("\n")
    largest = max(lines, key=lambda name: lines[name])
    assert lines[largest] <= SHARE * sum(lines.values()), f"{largest}: {lines[largest]} of {sum(lines.values())} lines"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rooms_that_load_no_torch(name: str) -> None:
    """Not at import: what a command needs of it is imported when it is needed."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if room(path) == name
    ]
    code = f"import importlib, sys\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", *HEAVY} & set(loaded)
