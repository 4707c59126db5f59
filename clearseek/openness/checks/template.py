"""The chat template: does it parse, and does it reach for what no template needs.

It is a program in Jinja that whoever serves the model runs. So it is parsed and looked through, never rendered. Servers
run templates in a sandbox; one that asks for private attributes, or for other files, wants out of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from clearseek.openness.evidence import Answer, Evidence, Grade, Row
from clearseek.openness.subject import Subject, attempt

LONGEST: Final = 200_000
"""Characters of a template."""
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
    title, name = "The chat template parses, and reaches for nothing private", "tokenizer.template"
    found = list(_templates(subject))
    if not found:
        yield Row(name, "technical", title, "not applicable", Grade.ABSENT, "there is no chat template")
        return
    places = tuple(dict.fromkeys(place for _, _, place in found))[:4]
    problems = [f"{place.file}: {what}" for _, text, place in found for what in [problem(text)] if what]
    if problems:
        yield Row(name, "technical", title, "no", Grade.CLAIMED, "; ".join(problems[:4]), places)
        return
    answer: Answer = "yes"
    reason = f"{len({text for _, text, _ in found})} parsed: {', '.join(sorted({place.file for place in places}))}"
    if len({text for which, text, _ in found if which == "default"}) > 1:
        answer, reason = "partly", f"{reason}; they are different, and which one is used depends on the software"
    yield Row(name, "technical", title, answer, Grade.CHECKED if answer == "yes" else Grade.CLAIMED, reason, places)


def _templates(subject: Subject) -> Iterator[tuple[str, str, Evidence]]:
    """Name ("default" for the one that is used), text and place of each template."""
    source = subject.source
    for path in source.sizes:
        if path == _FILES[0] or (path.startswith("additional_chat_templates/") and path.endswith(".jinja")):
            text = source.read(path, LONGEST + 1).decode("utf-8", errors="replace")
            yield "default" if path == _FILES[0] else path, text, source.whole(path)
    for path in (_FILES[1], _CONFIG):
        content = attempt(lambda path=path: source.json(path)).value if path in source.sizes else None  # type: ignore[misc]
        held = (content or {}).get("chat_template")
        for each in held if isinstance(held, list) else [{"name": "default", "template": held}]:
            if isinstance(each, dict) and isinstance(each.get("template"), str):
                yield str(each.get("name")), each["template"], source.whole(path)


def problem(text: str) -> str:
    """What is wrong with a template; empty where nothing is."""
    if len(text) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    environment = Environment(extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _Generation])
    try:
        tree = environment.parse(text)
        for node in tree.find_all(
            (nodes.Getattr, nodes.Getitem, nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
        ):
            if not isinstance(node, nodes.Getattr | nodes.Getitem):
                return f"line {node.lineno} loads another template"
            asked = node.attr if isinstance(node, nodes.Getattr) else getattr(node.arg, "value", None)
            if isinstance(asked, str) and asked.startswith("_"):
                return f"line {node.lineno} asks for {asked[:40]!r}, which no template needs"
    except TemplateError as error:
        return f"line {getattr(error, 'lineno', '?')}: {error.message}"[:200]
    except RecursionError:
        return "nested too deep"
    return ""
