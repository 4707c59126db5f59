"""The Python interface: public names with their signatures and docstrings, read from the source.

Signatures are taken from the syntax tree, not from live objects: a default stays as it is written.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clearseek
from clearseek.audit.evidence import Audit, Row
from clearseek.data.manifest import Manifest
from clearseek.hub.convert.run import Converted
from clearseek.plan.plan import Options, Plan
from clearseek.release.make import ReleaseSummary
from clearseek.train.trainer import Outcome
from clearseek.verify.run import Verified

ROOT = Path(__file__).parents[2]
TYPES = (Plan, Options, Manifest, Outcome, Converted, ReleaseSummary, Audit, Row, Verified)
"""What the functions take and return, in the order in which people meet them."""
SECTION = re.compile(r"^(Args|Returns|Yields|Raises):$", re.M)
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def part() -> str:
    """Every public name, then the types of what functions take and return."""
    named = [getattr(clearseek, name) for name in clearseek.__all__]
    functions = [each for each in named if inspect.isfunction(each)]
    classes = [each for each in named if inspect.isclass(each)]
    lines = ["## Functions", ""]
    for function in functions:
        lines += _function(function)
    lines += ["## Types", ""]
    for cls in (*classes, *TYPES):
        lines += _class(cls)
    return "\n".join(lines)


def _tree(defined: Any) -> Any:
    """Syntax tree of a function or class, without the decorators before it."""
    return ast.parse(textwrap.dedent(inspect.getsource(defined))).body[0]


def _home(defined: Any) -> str:
    path = Path(str(inspect.getsourcefile(defined))).relative_to(ROOT)
    return f"[{path.as_posix()}](../{path.as_posix()})"


def _function(function: Any) -> Iterator[str]:
    tree = _tree(function)
    yield from (f"### {tree.name}", "", "```text", *_signature(tree), "```", "")
    yield from _docstring(ast.get_docstring(tree) or "")
    yield from (f"Source: {_home(function)}", "")


def _signature(tree: ast.FunctionDef) -> Iterator[str]:
    """A call with types and defaults, one parameter a line."""
    returns = f" -> {ast.unparse(tree.returns)}" if tree.returns else ""
    given = tree.args.posonlyargs + tree.args.args
    defaults = [None] * (len(given) - len(tree.args.defaults)) + list(tree.args.defaults)
    named = [(None, None)] if tree.args.kwonlyargs else []
    yield f"{tree.name}("
    for argument, default in [
        *zip(given, defaults, strict=True), *named, *zip(tree.args.kwonlyargs, tree.args.kw_defaults, strict=True)
    ]:  # fmt: skip
        value = "" if default is None else f" = {ast.unparse(default)}"
        yield f"    {'*' if argument is None else ast.unparse(argument)}{value},"
    yield f"){returns}"


def _docstring(text: str) -> Iterator[str]:
    """A docstring as Markdown: its sections are lists."""
    before, *sections = SECTION.split(text)
    yield from (_plain(before.strip()), "")
    for heading, body in zip(sections[::2], sections[1::2], strict=True):
        lines = textwrap.dedent(body.strip("\n")).split("\n")
        if heading in ("Returns", "Yields"):
            yield from (f"{heading}: {_plain(' '.join(line.strip() for line in lines if line))}", "")
            continue
        yield from ("Parameters:" if heading == "Args" else f"{heading}:", "")
        entries = re.split(r"\n(?=\S)", "\n".join(lines).strip())
        for entry in entries:
            name, _, words = entry.partition(":")
            yield f"- `{name}`: {_plain(' '.join(words.split()))}"
        yield ""


def _class(cls: Any) -> Iterator[str]:
    tree = _tree(cls)
    yield from (f"### {tree.name}", "", *_docstring(ast.get_docstring(tree) or ""))
    rows = list(_members(tree))
    if rows:
        yield from ("| name | type | what it is |", "|---|---|---|", *rows, "")
    yield from (f"Source: {_home(cls)}", "")


def _members(tree: ast.ClassDef) -> Iterator[str]:
    """Fields, properties and methods that are public, with the first paragraph of their explanation."""
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            explained = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            words = str(after.value.value) if explained else ""  # type: ignore[union-attr]
            yield from _row(node.target.id, ast.unparse(node.annotation), words)
        elif isinstance(node, ast.FunctionDef):
            words = ast.get_docstring(node) or ""
            decorators = {ast.unparse(each) for each in node.decorator_list}
            returns = ast.unparse(node.returns) if node.returns else ""
            if decorators & {"property", "cached_property"}:
                yield from _row(node.name, returns, words)
            elif not any("validator" in each or "serializer" in each for each in decorators):
                node.args.args = [each for each in node.args.args if each.arg not in ("self", "cls")]
                yield from _row(f"{node.name}({ast.unparse(node.args)})", returns, words)


def _row(name: str, annotation: str, words: str) -> Iterator[str]:
    if not name.startswith("_"):
        first = _plain(" ".join(inspect.cleandoc(words).split("\n\n")[0].split()))
        cells = (f"`{name}`", f"`{_without_field(annotation)}`" if annotation else "", first)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _without_field(annotation: str) -> str:
    """``Annotated[int, Field(ge=1)]`` as ``int``."""
    tree = ast.parse(annotation, mode="eval").body
    if isinstance(tree, ast.Subscript) and ast.unparse(tree.value) == "Annotated":
        return ast.unparse(tree.slice.elts[0]) if isinstance(tree.slice, ast.Tuple) else annotation
    return annotation


def _plain(text: str) -> str:
    """Without the roles of reStructuredText, and with one backtick around code."""
    return ROLE.sub(lambda match: f"`{match[1].split('.')[-1]}`", text).replace("``", "`")
