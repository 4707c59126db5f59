"""What a source file does and sets, read without running it: calls, classes, functions, commands, settings.

A word in a comment is a word. So Python is taken apart by its own parser, notebooks cell by cell, shell scripts word by
word, settings by their formats' parsers. What Python 3 cannot parse is split into tokens instead, other languages are
cleared of remarks and strings, and there the calls are names before a bracket. A file that none of this can read is
`unread`: it shows what was found before the fault, and that nothing is missing it does not show.
"""

from __future__ import annotations

import ast
import io
import json
import re
import token
import tokenize
import tomllib
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, Final

import yaml

from clearseek.filetypes import LFS_START
from clearseek.reading.card import decode

LONGEST_SETTINGS: Final = 200_000
"""Characters of a file of settings that are taken apart."""
_MOST_VALUES: Final = 20_000
_DEEPEST: Final = 60
"""Brackets within brackets of Python that is parsed: what people write has a dozen."""
SCRIPTS: Final = (".sh", ".bash", ".slurm", ".sbatch", ".mk", "makefile", ".bat")
SETTINGS: Final = (".yaml", ".yml", ".json", ".toml", ".gin", ".cfg", ".ini", ".conf", ".args")
_TEXTS: Final = r"|\"(?:\\.|[^\"\\])*(?:\"|\Z)|'(?:\\.[^'\n]{0,8}|[^'\\\n])'"
_C: Final = re.compile(r"//[^\n]*|/\*.*?(?:\*/|\Z)|\br(?P<hashes>#{0,3})\".*?(?:\"(?P=hashes)|\Z)" + _TEXTS, re.S)
_REMARKS: Final = {
    **dict.fromkeys((".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".rs", ".swift", ".go", ".java"), _C),
    ".jl": re.compile(r"#=.*?(?:=#|\Z)|#[^\n]*|\"\"\".*?(?:\"\"\"|\Z)" + _TEXTS, re.S),
}
"""Remarks and strings of other languages; each pattern consumes what it begins, so that a text is gone over once."""
ENDINGS: Final = (".py", ".ipynb", *_REMARKS)
_CALL = re.compile(r"(?P<kind>\b(?:def|class|fn|function|func|void)\s{1,9})?(?P<name>\w[\w.:]{0,200}!?)[ \t]{0,9}\(")
_HEREDOC = re.compile(r"<<-?[ ]?['\"]?(\w{1,40})['\"]?[^\n]*\n.*?(?:^\s*\1\s*$|\Z)", re.S | re.M)
_SHELL = re.compile(
    r"(?<![^\s;])#[^\n]*|(?P<end>[\n;|&]+)"
    r"|(?P<word>(?:[^\s'\"\\;|&]|\\.|'[^']*(?:'|\Z)|\"(?:\\.|[^\"\\])*(?:\"|\Z))+)",
    re.S,
)
_GIVEN = re.compile(r"[-+@]{0,3}(?P<key>[A-Za-z][\w.@/-]{0,120}?)\s*[:=]\s*(?P<value>\S.*)", re.S)
_COMMANDS = ("command", "cmd", "run", "script", "entrypoint", "args", "launch", "commands")


def has_number(text: str) -> bool:
    """Whether a value is a number, or has one in it."""
    return any(character.isdigit() for character in text)


@dataclass(frozen=True, slots=True)
class Call:
    """A call, by its names."""

    name: str
    """With dots, and with the whole name of what was imported: ``torch.optim.AdamW``, ``self.trainer.fit``."""
    maker: str = ""
    """What made the thing whose method this is: the names of the calls that its variable was set to."""
    keys: frozenset[str] = frozenset()
    """Its keywords."""
    given: tuple[str, ...] = ()
    """Names and short strings that it is given."""
    line: int = 0
    """Where it stands in a file of Python; 0 elsewhere."""

    @property
    def last(self) -> str:
        """The name without what it belongs to."""
        return self.name.rpartition(".")[2].rpartition(":")[2]

    @property
    def owner(self) -> str:
        """What it belongs to."""
        return self.name.rpartition(".")[0]


@dataclass(slots=True)
class Program:
    """What one file does and sets."""

    calls: list[Call] = field(default_factory=list)
    functions: set[str] = field(default_factory=set)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Class -> the classes that it is made from."""
    imports: set[str] = field(default_factory=set)
    """Modules, with dots."""
    makers: dict[str, list[str]] = field(default_factory=dict)
    """Variable -> the calls that it is set to, without those that only wrap what it was."""
    commands: list[tuple[str, ...]] = field(default_factory=list)
    """Command lines, word by word."""
    settings: dict[str, str] = field(default_factory=dict)
    """Name -> value, as far as it is a plain one."""
    lines: int = 0
    """Lines with code on them."""
    unread: str = ""
    """Why the file, or a part of it, could not be read."""

    def give(self, key: str, value: object) -> None:
        """Take note of a setting; the first number counts, or where there is none, the first value."""
        name = key.rpartition(".")[2].strip("-+@").replace("-", "_")[-100:]
        if value is None or isinstance(value, bool) or len(self.settings) >= _MOST_VALUES:
            return
        if name not in self.settings or (not has_number(self.settings[name]) and has_number(str(value))):
            self.settings[name] = str(value)[:200]


def read_program(path: str, raw: bytes) -> Program:
    """What a file does and sets, by the ending of its name. Never fails: what cannot be read is said in `unread`."""
    out, text, name = Program(), decode(raw), path.lower()
    if raw.startswith(LFS_START):
        out.unread = "points to bytes that are not here"
        return out
    ending = "." + name.rpartition(".")[2]
    try:
        if ending in (".py", ".ipynb"):
            code, shell = _cells(text) if ending == ".ipynb" else (text, "")
            _python(out, code)
            _shell(out, shell)
        elif name.endswith(SCRIPTS):
            _shell(out, text)
        elif name.endswith(SETTINGS):
            _settings(out, ending, text)
        elif ending in _REMARKS:
            _names(out, _REMARKS[ending].sub(" ", text))
    except RecursionError:
        out.unread = "is nested too deep"
    except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        out.unread = " ".join(str(error).split())[:100]
    return out


def _cells(text: str) -> tuple[str, str]:
    """The code of a notebook: lines of Python, and those for the shell."""
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    code = "\n".join(each for each in cells if not each.startswith("%%"))
    shell = [each for each in cells if each.startswith("%%")] + re.findall(r"^[ \t]*[%!][%! \t]*(.*)", code, re.M)
    return re.sub(r"^([ \t]*)[%!].*", r"\1pass", code, flags=re.M), "\n".join(shell)


def _python(out: Program, text: str) -> None:
    """Python by its parser, or where that refuses, by its tokens."""
    depths = accumulate(1 if match[0] in "[({" else -1 for match in re.finditer(r"[\[({\])}]", text))
    try:
        if max(depths, default=0) > _DEEPEST:
            raise SyntaxError
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = list(_nodes(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        _names(out, _tokens(out, text))
        return
    _Reader(out).read(nodes)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a parsed file in its order."""
    waiting = [tree]
    while waiting:
        yield (node := waiting.pop())
        waiting += reversed(list(ast.iter_child_nodes(node)))


def _tokens(out: Program, text: str) -> str:
    """The code of Python of any age without its remarks and strings, up to where it is no such thing."""
    kept: list[str] = []
    try:
        for each in tokenize.generate_tokens(io.StringIO(text).readline):
            if each.type not in (token.STRING, tokenize.COMMENT) and not token.tok_name[each.type].endswith("_MIDDLE"):
                kept.append(each.string)
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError) as error:
        out.unread = f"is no Python that can be read: {str(error)[:80]}"
    return " ".join(kept).replace(" . ", ".")


def _names(out: Program, text: str) -> None:
    """Names before brackets."""
    for match in _CALL.finditer(text):
        if not match["kind"]:
            out.calls.append(Call(match["name"]))
        elif match["kind"].strip() == "class":
            out.classes[match["name"]] = ()
        else:
            out.functions.add(match["name"])
    out.lines = sum(1 for line in text.split("\n") if line.strip())


class _Reader:
    """Goes over the parts of a parsed file."""

    def __init__(self, out: Program) -> None:
        self.out = out
        self.names: dict[str, str] = {}
        """Names that imports gave, and what for."""

    def read(self, nodes: list[ast.AST]) -> None:
        """Imports and assignments first, then what is made of them."""
        of: defaultdict[type[ast.AST], list[Any]] = defaultdict(list)
        for node in nodes:
            of[type(node)].append(node)
        docs = {each.lineno for each in of[ast.Expr] if isinstance(each.value, ast.Constant)}
        self.out.lines = len({each.lineno for each in nodes if isinstance(each, ast.expr | ast.stmt)} - docs)
        for each in of[ast.Import] + of[ast.ImportFrom]:
            module = "." * getattr(each, "level", 0) + (getattr(each, "module", "") or "")
            self.out.imports.update([module] if module else [alias.name for alias in each.names])
            for alias in each.names:
                if module or alias.asname:
                    self.names[alias.asname or alias.name] = f"{module}.{alias.name}" if module else alias.name
        for each in of[ast.Assign] + of[ast.AnnAssign] + of[ast.NamedExpr]:
            self._assign(getattr(each, "targets", None) or [each.target], each.value)
        for each in of[ast.withitem]:
            self._assign([each.optional_vars] if each.optional_vars else [], each.context_expr)
        for each in of[ast.Call]:
            self._call(each)
        for each in of[ast.AugAssign] + of[ast.BinOp]:  # ``p -= lr * g`` is as good as a call that does so
            right = each.value if isinstance(each, ast.AugAssign) else each.right
            if isinstance(each.op, ast.Sub) and isinstance(right, ast.BinOp):
                self.out.calls.append(Call("-", given=self._given(right), line=each.lineno))
        self.out.classes = {each.name: tuple(map(self.dotted, each.bases)) for each in of[ast.ClassDef]}
        for each in of[ast.FunctionDef] + of[ast.AsyncFunctionDef]:
            self.out.functions.add(each.name)
            plain = each.args.posonlyargs + each.args.args
            self._give([key.arg for key in plain[::-1]], each.args.defaults[::-1])
            self._give([key.arg for key in each.args.kwonlyargs], each.args.kw_defaults)
        for each in of[ast.Dict]:
            self._give([getattr(key, "value", None) for key in each.keys], each.values)

    def _give(self, keys: list[Any], values: list[ast.expr | None]) -> None:
        for key, value in zip(keys, values, strict=False):
            if isinstance(key, str):
                self.out.give(key, _value(value))

    def dotted(self, node: ast.AST | None) -> str:
        """A name with its dots; of what is called or taken by index, the name of that."""
        parts: list[str] = []
        while len(parts) < 20:
            match node:
                case ast.Attribute():
                    parts.append(node.attr)
                    node = node.value
                case ast.Call():
                    node = node.func
                case ast.Subscript() | ast.Await() | ast.Starred():
                    node = node.value
                case ast.Name():
                    parts.append(self.names.get(node.id, node.id))
                    break
                case _:
                    break
        return ".".join(reversed(parts))

    def _given(self, node: ast.AST) -> tuple[str, ...]:
        """Names and short strings of a plain expression."""
        parts = islice(ast.walk(node), 16) if isinstance(node, ast.BinOp | ast.UnaryOp) else (node,)
        return tuple(
            str(each.value)[:200] if isinstance(each, ast.Constant) else self.dotted(each)
            for each in parts if isinstance(each, ast.Name | ast.Attribute | ast.Constant)
        )  # fmt: skip

    def _assign(self, targets: list[ast.expr], value: ast.expr | None) -> None:
        call = value.value if isinstance(value, ast.Await) else value
        for target in targets:
            several = target.elts if isinstance(target, ast.Tuple | ast.List) else None
            for name in map(self.dotted, several or (target,)):
                made = self.out.makers.setdefault(name, []) if isinstance(call, ast.Call) else []
                if isinstance(call, ast.Call) and len(made) < 20:
                    passed = map(self.dotted, (*call.args, *(key.value for key in call.keywords)))
                    made += [self.dotted(call)] if name not in passed else []
                if several is None:
                    self.out.give(name, _value(value))

    def _call(self, node: ast.Call) -> None:
        name = self.dotted(node.func)
        keys = {each.arg: each.value for each in node.keywords[:200] if each.arg}
        given = tuple(part for each in (*node.args[:20], *keys.values()) for part in self._given(each))
        maker = " ".join(self.out.makers.get(name.rpartition(".")[0], ()))
        self.out.calls.append(Call(name, maker, frozenset(keys), given, node.lineno))
        if name.endswith(("add_argument", "option")):
            option = next((each for each in given if each.startswith("--")), "-")
            self._give([option], [keys.get("default")])
        else:
            self._give(list(keys), list(keys.values()))


def _value(node: ast.expr | None) -> object:
    """A plain value: a constant, a product or the like with one in it, a default; None for anything else."""
    for _ in range(8):
        match node:
            case ast.Constant():
                return node.value
            case ast.UnaryOp():
                node = node.operand
            case ast.BinOp():
                node = node.left if isinstance(node.left, ast.Constant | ast.BinOp) else node.right
            case ast.List() | ast.Tuple() if node.elts:
                node = node.elts[0]
            case ast.Call() if default := [each.value for each in node.keywords if each.arg == "default"]:
                node = default[0]
            case _:
                return "…" if isinstance(node, ast.Call | ast.Dict) else None
    return None


def _shell(out: Program, text: str) -> None:
    """Commands, word by word, and the settings that options and variables give."""
    command: list[str] = []
    text = _HEREDOC.sub("\n", text.replace("\\\r\n", " ").replace("\\\n", " "))
    out.lines += sum(1 for line in text.split("\n") if line.strip() and not line.lstrip().startswith("#"))
    for match in _SHELL.finditer(text + "\n"):
        if match["word"]:
            command.append(match["word"].replace('"', "").replace("'", "")[:1000])
        elif match["end"] and command:
            _command(out, command)
            command = []


def _command(out: Program, command: list[str]) -> None:
    if len(out.commands) >= _MOST_VALUES:
        return
    out.commands.append(tuple(command))
    for word, after in zip(command, (*command[1:], ""), strict=True):
        given = _GIVEN.fullmatch(word)
        if given and " " in given["value"] and "-" in given["value"]:  # a command, or a part of one, in a variable
            _command(out, given["value"].split())
        elif given:
            out.give(given["key"], given["value"])
        elif word.startswith("--") and after and not after.startswith("--"):
            out.give(word, after)


def _settings(out: Program, ending: str, text: str) -> None:
    """Settings, and the commands that some of them are."""
    if len(text) > LONGEST_SETTINGS:
        out.unread = "is longer than settings are"
        return
    lines = (_GIVEN.fullmatch(line.partition("#")[0].strip()) for line in text.split("\n"))
    values: Iterator[tuple[str, Any]] = ((given["key"], given["value"]) for given in lines if given)
    if ending in (".yaml", ".yml"):
        values = _events(text)
    elif ending in (".json", ".toml"):
        values = _leaves(json.loads(text) if ending == ".json" else tomllib.loads(text))
    for key, value in islice(values, _MOST_VALUES):
        out.give(key, value)
        if key.lower() in _COMMANDS and isinstance(value, str) and " " in value:
            _shell(out, value[:20_000])
    out.lines = len(out.settings)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """The plain values of a JSON or TOML value, each with its key."""
    waiting = [("", value)]
    while waiting:
        key, each = waiting.pop()
        if key and isinstance(each, dict | list):
            yield key, "…"
        if isinstance(each, dict):
            waiting += ((str(name), below) for name, below in reversed(each.items()))
        elif isinstance(each, list):
            waiting += ((key, below) for below in reversed(each))
        else:
            yield key, each


def _events(text: str) -> Iterator[tuple[str, str]]:
    """The plain values of YAML, each with its key, without building anything: no tag acts, and no alias grows."""
    keys: list[str | None] = []
    """For each open collection: the key whose value comes next, or ``""`` where a key comes next; None in a list."""
    name = ""
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            if keys and keys[-1]:
                yield name, "…"
            keys.append("" if isinstance(event, yaml.MappingStartEvent) else None)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            keys.pop()
        elif not isinstance(event, yaml.NodeEvent):
            continue
        elif keys and keys[-1] == "":
            keys[-1] = name = getattr(event, "value", "") or "?"
            continue
        elif (value := getattr(event, "value", "")) not in ("null", "~", ""):
            yield name, value
        if keys and keys[-1]:
            keys[-1] = ""
