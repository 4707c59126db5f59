"""Commands with their options, from the parsers that ``--help`` is printed from."""

from __future__ import annotations

import argparse
import re

from clearseek.cli import COMMANDS, build_parser


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command, with its options."""
    (commands,) = (each for each in build_parser()._actions if isinstance(each, argparse._SubParsersAction))
    for parser in commands.choices.values():
        parser.add_options()
    return dict(commands.choices)


def part() -> str:
    """Every command: its sentence, its options, its examples."""
    return "\n".join(_command(name, parser) for name, parser in parsers().items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"## {name}", "", COMMANDS[name], "", "| option | default | what it does |", "|---|---|---|"]
    lines += [_row(action) for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    for group in parser._mutually_exclusive_groups:
        names = " and ".join(f"`{action.option_strings[-1]}`" for action in group._group_actions)
        lines += ["", f"{names} exclude each other."]
    _, *examples = (parser.epilog or "").splitlines()
    return "\n".join([*lines, "", "```sh", *map(_example, examples), "```", ""])


def _row(action: argparse.Action) -> str:
    """One option: how it is written, its default, its help without the default."""
    words = (action.help or "").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    default = str(action.default or "") if action.option_strings else ""
    if "(default: " in words:
        before, _, rest = words.partition("(default: ")
        default, _, after = rest.partition(")")
        words = before.rstrip() + after
    elif action.required and action.option_strings:
        default = "required"
    if not all(str(choice) in words for choice in action.choices or ()):
        words += f" ({', '.join(map(str, action.choices or ()))})"
    return f"| `{_written(action)}` | {default} | {words} |"


def _written(action: argparse.Action) -> str:
    """``--run RUN``, ``--dry-run``, ``MODEL``, ``[RECIPE]`` or ``RECORD ...``."""
    value = str(action.metavar or action.dest.upper())
    value = {"+": f"{value} ...", "?": f"[{value}]"}.get(str(action.nargs), value)
    if not action.option_strings:
        return value
    return action.option_strings[-1] if action.nargs == 0 else f"{action.option_strings[-1]} {value}"


def _example(line: str) -> str:
    """An example, with what it says in brackets behind a gap as a comment."""
    return re.sub(r"  +\((.+)\)$", r"   # \1", line.strip())
