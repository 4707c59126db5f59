"""The chat template: does it parse, and does it reach for what no template needs.

It is a program in Jinja that whoever serves the model runs. So it is parsed and looked through, never rendered, and
what parses is present, not checked. Servers run templates in a sandbox; one that asks for private attributes, also by
names that it puts together, or for other files, wants out of it; one that counts to a billion wants to keep it busy.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from clearseek.audit import questions as ask
from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.reading.evidence import Evidence
from clearseek.reading.subject import Subject

LONGEST: Final = 200_000
"""Characters of a template."""
MOST_TURNS: Final = 100_000
"""Most turns of a loop with a number in it, or repeats of a text."""
_DUNDER = re.compile(
    r"\s*__(?:class|mro|base|bases|subclasses|globals|builtins|import|init|getattribute|getattr|dict|code|self|module|"
    r"reduce|reduce_ex|func|closure|call|new|doc|name)__\s*"
)
_PIECE = re.compile(r"\w{0,12}__\w{0,12}")
_MAKES_TEXT = ("join", "replace", "format", "reverse")
_BY_ATTRIBUTE = ("groupby", "selectattr", "rejectattr")
_CONFIG = "tokenizer_config.json"
_FILES = ("chat_template.jinja", "chat_template.json")


class _Generation(Extension):
    """``{% generation %}``, with which transformers marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.CallBlock(
            self.call_method("_body"), [], [], parser.parse_statements(("name:endgeneration",), drop_needle=True)
        ).set_lineno(line)


def rows(subject: Subject) -> Iterator[Row]:
    """One row for all templates."""
    found = list(_templates(subject))
    if not found:
        yield ask.TOKENIZER_TEMPLATE.not_applicable("there is no chat template")
        return
    places = tuple(dict.fromkeys(place for _, _, place in found))[:4]
    problems = [f"{place.file}: {what}" for _, text, place in found for what in [problem(text)] if what]
    if problems:
        yield ask.TOKENIZER_TEMPLATE.no(Grade.CLAIMED, "; ".join(problems[:4]), *places)
        return
    answer: Answer = "yes"
    reason = (
        f"{len({text for _, text, _ in found})} parsed, not run: {', '.join(sorted({place.file for place in places}))}"
    )
    if len({text for which, text, _ in found if which == "default"}) > 1:
        answer, reason = "partly", f"{reason}; they are different, and which one is used depends on the software"
    yield ask.TOKENIZER_TEMPLATE.answer(answer, Grade.PRESENT if answer == "yes" else Grade.CLAIMED, reason, *places)


def _templates(subject: Subject) -> Iterator[tuple[str, str, Evidence]]:
    """Name ("default" for the one that is used), text and place of each template."""
    source = subject.source
    for path in source.sizes:
        if path == _FILES[0] or (path.startswith("additional_chat_templates/") and path.endswith(".jinja")):
            text = source.read(path, LONGEST + 1).decode("utf-8", errors="replace")
            yield "default" if path == _FILES[0] else path, text, source.whole(path)
    for path in (_FILES[1], _CONFIG):
        held = source.settings(path).get("chat_template")
        for each in held if isinstance(held, list) else [{"name": "default", "template": held}]:
            if isinstance(each, dict) and isinstance(each.get("template"), str):
                yield str(each.get("name")), each["template"], source.whole(path)


def problem(text: str) -> str:
    """What is wrong with a template; empty where nothing is."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    environment = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation])
    try:
        return next(_problems(environment.parse(text)), "")
    except TemplateError as error:
        return f"line {getattr(error, 'lineno', '?')}: {error.message}"[:200]
    except RecursionError:
        return "nested too deep"


def _problems(tree: nodes.Template) -> Iterator[str]:
    """What a template does that none needs."""
    pieces: list[str] = []
    computed = 0
    for node in tree.find_all(nodes.Node):
        what = ""
        if isinstance(node, nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends):
            what = "loads another template"
        elif isinstance(node, nodes.Getattr):
            what = _private(node.attr)
        elif isinstance(node, nodes.Getitem):
            what = _subscript(node.arg)
            computed = computed or node.lineno * (not isinstance(node.arg, nodes.Const | nodes.Slice))
        elif isinstance(node, nodes.Filter | nodes.Test):
            what = _filtered(node)
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            what = f"holds the private name {node.value[:40]!r}" if _DUNDER.fullmatch(node.value) else ""
            pieces += [node.value] if _PIECE.fullmatch(node.value) else []
        elif isinstance(node, nodes.Call | nodes.Mul | nodes.Pow):
            what = _endless(node)
        if what:
            yield f"line {node.lineno} {what}"
    if pieces and computed:
        yield f"line {computed} asks for a name that is computed, and {pieces[0][:40]!r} is a piece of a private one"


def _private(name: object) -> str:
    if isinstance(name, str) and name.startswith("_"):
        return f"asks for {name[:40]!r}, which no template needs"
    return ""


def _subscript(key: nodes.Expr) -> str:
    """A key that is private, or a text that is put together from pieces of one."""
    if isinstance(key, nodes.Const):
        return _private(key.value)
    pieces = [each.value for each in key.find_all(nodes.Const) if isinstance(each.value, str)]
    private = any("__" in each for each in pieces) or any(each.startswith("_") for each in pieces[:1])
    if isinstance(key, nodes.Concat | nodes.Add | nodes.Mod) and private:
        return f"puts together the name that it asks for: {' '.join(pieces)[:40]!r}"
    if isinstance(key, nodes.Filter) and key.name in _MAKES_TEXT:
        return f"makes the name that it asks for with the filter {key.name}"
    return ""


def _filtered(node: nodes.Filter | nodes.Test) -> str:
    """Filters that fetch attributes: the name must stand there, and be no private one."""
    names = [pair.value for pair in node.kwargs if pair.key in ("attribute", "name")]
    names += node.args[: 1 if node.name in ("attr", *_BY_ATTRIBUTE) else 0]
    if node.name == "map" and node.args and getattr(node.args[0], "value", "attr") == "attr":
        names += node.args[1:2]
    for each in names:
        if not isinstance(each, nodes.Const):
            return f"puts together the attribute of the filter {node.name}"
        if isinstance(each.value, str) and any(part.startswith("_") for part in each.value.split(".")):
            return f"asks for {each.value[:40]!r}, which no template needs"
    if node.name == "format" and any("%c" in str(each.value) for each in node.find_all(nodes.Const)):
        return "puts a text together from codes of characters"
    return _large(node.args) if node.name in ("center", "indent") else ""


def _endless(node: nodes.Call | nodes.Mul | nodes.Pow) -> str:
    """Loops and texts of a size that no conversation has."""
    if isinstance(node, nodes.Call):
        return _large(node.args) if isinstance(node.node, nodes.Name) and node.node.name in ("range", "lipsum") else ""
    if isinstance(node, nodes.Pow):
        return "computes a power, which no template needs"
    return _large([node.left, node.right])


def _large(values: list[nodes.Expr]) -> str:
    for value in values:
        for each in value.find_all(nodes.Const) if not isinstance(value, nodes.Const) else [value]:
            if isinstance(each.value, int) and abs(each.value) > MOST_TURNS:
                return f"counts to {str(each.value)[:20]}, which no template needs"
    return ""
