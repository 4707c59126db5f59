"""Code that decides the bits of a run: the modules that the trainer imports, and no others.

Two versions of ClearSeek train to the same bits on the same machine if these files are the same, whatever changed in
command line, server or audit. A transcript's header has one hash of their list, and a release carries the list. Imports
are read from the sources, and nothing is run: imports at the top of a file, inside functions, and of modules named in a
string, as the choice of an FP8 backend names them. Imports for type checkers alone do not count, nor does the package's
own ``__init__.py``, which only lists names: it has the version number, and so is another in every version. Code of
post-training decides the bits of runs that begin with another model, and of no others.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import clearseek
from clearseek.errors import UserError
from clearseek.files import reading

ROOTS: Final = ("clearseek.train.trainer", "clearseek.train.pretrain")
CHILDS_ROOTS: Final = (*ROOTS, ".".join(("clearseek", "posttrain", "methods")))  # whole, the name would be an import
"""Roots of a run that begins with another model."""
FORMAT: Final = "clearseek-code-1"
CODE: Final = "training/code.json"
"""Path of the list in a release."""


def package_sources() -> dict[str, bytes]:
    """Sources of this ClearSeek, by path such as ``clearseek/train/step.py``."""
    package = Path(clearseek.__file__).parent
    with reading(package):
        return {
            path.relative_to(package.parent).as_posix(): path.read_bytes()
            for path in package.rglob("[!.]*.py")  # not what editors leave
            if "__pycache__" not in path.parts and path.is_file()
        }


@cache
def code_here(child: bool = False) -> str:
    """Hash of the code that trains in this process, or trains a `child` of another model, when this was first asked."""
    return code_hash(trainers_code(package_sources(), CHILDS_ROOTS if child else ROOTS))


def trainers_code(sources: Mapping[str, bytes], roots: Sequence[str] = ROOTS) -> dict[str, str]:
    """SHA-256 of every source that the trainer's modules, `roots`, import, directly or not, by path.

    Raises UserError where one of `roots` is missing or a source is not Python.
    """
    modules = {module_of(path): path for path in sources}
    missing = [root for root in roots if root not in modules]
    if missing:
        raise UserError(f"no source of {missing[0]:.100}: not the code of a trainer")
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(modules[module], sources[modules[module]], modules)
    paths = sorted(modules[module] for module in found - {"clearseek"})
    return {path: hashlib.sha256(sources[path]).hexdigest() for path in paths}


def code_hash(files: Mapping[str, str]) -> str:
    """SHA-256 of the canonical JSON of the result of :func:`trainers_code`."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_list(files: Mapping[str, str], roots: Sequence[str] = ROOTS) -> dict[str, Any]:
    """Content of :data:`CODE`."""
    return {"format": FORMAT, "sha256": code_hash(files), "roots": list(roots), "files": dict(files)}


def module_of(path: str) -> str:
    """Name of the module in a source."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imports(path: str, source: bytes, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the modules of the package that one of its files imports, with the packages around them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise UserError(f"{path}: not Python that can be read") from None
    for name in _named(tree, path):
        parts = name.split(".")
        for length in range(2, len(parts) + 1):
            if (module := ".".join(parts[:length])) in modules:
                yield module
        if name.endswith(".*"):
            yield from (module for module in modules if module.startswith(name[:-1]))


def _named(tree: ast.AST, path: str) -> Iterator[str]:
    """Yield names of modules, or of their members, that may be imported; ``package.*`` for all of a package."""
    package = path.split("/")[:-1]
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            start = ".".join(part for part in (above, node.module) if part)
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.JoinedStr):
            first = node.values[0] if node.values else None
            if isinstance(first, ast.Constant) and str(first.value).startswith("clearseek."):
                yield f"{str(first.value).rpartition('.')[0]}.*"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("clearseek."):
            yield node.value.partition(":")[0]  # as entry points are written, module:object


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those of blocks for type checkers alone."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        skipped = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        waiting += node.orelse if skipped and isinstance(node, ast.If) else ast.iter_child_nodes(node)
