"""The documentation: what it shows must run, what it names must exist.

- The ``python`` blocks of a page run in one namespace, in a folder with a finished small run at ``runs/quickstart``.
- In ``console`` blocks, ``$ clearseek ...`` runs, must exit with 0, and must print the lines shown below it, in order;
  a line ``...`` stands for any others. Commands in other blocks and in the text are only parsed.
- ``toml`` blocks are recipes, or parts of one.
- Parts between ``<!-- generated: NAME -->`` and ``<!-- /generated -->`` are what the code says; ``make docs`` writes
  them anew.

Links, pictures and the site are in ``tests/test_site.py``.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import clearseek
from clearseek import cli
from clearseek.config.posttraining import with_defaults
from clearseek.errors import UserError
from clearseek.hub.write import export_hf
from clearseek.recipe import load_recipe, parse_recipe, shipped_recipes
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from docs.make import parts, settings
from tests.tiny import tiny

ROOT = parts.ROOT
PAGES = parts.pages()
COMMENT = re.compile(r"<!--.*?-->", re.S)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.S | re.M)
COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?clearseek (.+)$")


def blocks(page: str, *languages: str) -> list[str]:
    """Contents of a page's fenced blocks in these languages."""
    text = COMMENT.sub("", PAGES[page].read_text(encoding="utf-8"))
    return [content for language, content in FENCE.findall(text) if language in languages]


def prose(page: str) -> str:
    """A page without comments and fenced blocks."""
    return FENCE.sub("", COMMENT.sub("", PAGES[page].read_text(encoding="utf-8")))


def pages_with(*languages: str) -> list[str]:
    return [page for page in PAGES if blocks(page, *languages)]


def commands(page: str) -> list[str]:
    """Every clearseek command line of a page, without the program's name."""
    lines = [line for block in blocks(page, "sh", "console", "text") for line in block.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]
    return [match[1] for line in [*lines, *inline] if (match := COMMAND.match(line))]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as the pages assume it: texts, the recipes they show, and a finished run at runs/quickstart."""
    folder = tmp_path_factory.mktemp("desk")
    draw = random.Random(0)
    words = ["".join(draw.choices("aeioulnrstmd", k=draw.randint(2, 9))) for _ in range(2000)]
    for number in range(60):
        text = "".join(" ".join(draw.choices(words, k=9)).capitalize() + ".\n" for _ in range(100))
        (folder / "texts" / str(number % 4)).mkdir(parents=True, exist_ok=True)
        (folder / "texts" / str(number % 4) / f"{number}.txt").write_text(text, encoding="utf-8")
    sums = [{"question": f"{a}+{b}", "answer": str(a + b)} for a in range(10) for b in range(10)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sums), encoding="utf-8")
    for recipe in whole_recipes():
        (folder / recipe.splitlines()[0].removeprefix("# ")).write_text(recipe, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("COLUMNS", "100")
        run = Run(folder / "runs" / "quickstart")
        recipe = tiny(data={"paths": ["texts/*/1?.txt"]}, train={"steps": 3})
        train_recipe(recipe, run)
        model, _ = run.load_model()
        export_hf(model.state_dict(), recipe.model, run.tokenizer, run.root / "export")
        yield folder


def whole_recipes() -> list[str]:
    """The recipes shown in full; each starts with a comment that names its file."""
    return [block for page in PAGES for block in blocks(page, "toml") if "name" in tomllib.loads(block)]


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * (page == "docs/python.md")) for page in pages_with("python")]
)
def test_python_runs(page: str, desk: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    for mark, library in {"transformers": "transformers", "signing.keys": "cryptography"}.items():
        if mark in code:
            pytest.importorskip(library)
    exec(compile(code, page, "exec"), {"__name__": page})


@pytest.mark.parametrize("page", pages_with("console"))
def test_console_shows_what_is_printed(page: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            line, *shown = part.splitlines()
            capsys.readouterr()
            assert cli.main(shlex.split(line)[1:]) == 0, capsys.readouterr().err
            printed = iter([each.rstrip() for each in capsys.readouterr().out.splitlines()])
            for expected in shown:
                if expected and expected != "...":
                    assert expected in printed, f"{page}: {line} does not print, or not there: {expected}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page: str) -> None:
    for line in commands(page):
        try:
            cli.build_parser().parse_args(shlex.split(line.removesuffix(" &"), comments=True))
        except UserError as error:
            pytest.fail(f"clearseek {line}: {error}")
        except SystemExit as ended:
            assert ended.code == 0, line


def test_commands_are_found() -> None:
    found = {line.split()[0] for page in PAGES for line in commands(page)}
    assert set(cli.COMMANDS) <= found


@pytest.mark.parametrize("page", pages_with("toml"))
def test_recipes_are_valid(page: str, tmp_path: Path) -> None:
    for block in blocks(page, "toml"):
        shown = tomllib.loads(block)
        quickstart = tomllib.loads(shipped_recipes()["quickstart"].read_text(encoding="utf-8"))
        if "parent" in shown:
            parse_recipe(with_defaults(shown) | {"model": quickstart["model"]}, page)
            continue
        if "size" in shown:
            (tmp_path / "shown.toml").write_text(block, encoding="utf-8")
            load_recipe(tmp_path / "shown.toml")
            continue
        base = {} if "name" in shown else quickstart
        parse_recipe({**base, **{k: base.get(k, {}) | v if isinstance(v, dict) else v for k, v in shown.items()}}, page)


def test_every_recipe_and_dependency_is_named() -> None:
    readme, recipes = prose("README.md"), PAGES["docs/recipes.md"].read_text(encoding="utf-8")
    for name in shipped_recipes():
        assert f"`{name}`" in readme and f"| `{name}` |" in recipes, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
        name = re.split(r"[<>=~!;\[ ]", requirement)[0]
        assert f"| {name}" in prose("docs/dependencies.md"), name


@pytest.mark.parametrize(("page", "name"), parts.written())
def test_generated_parts_are_what_the_code_says(page: str, name: str) -> None:
    assert parts.written()[page, name] == parts.PARTS[name](), "write the generated parts anew with: make docs"


def test_every_generated_part_is_in_one_page() -> None:
    assert sorted(name for _, name in parts.written()) == sorted(parts.PARTS)


def test_every_setting_has_a_line_that_explains_it() -> None:
    page = PAGES["docs/settings.md"].read_text(encoding="utf-8")
    for group in settings.groups():
        for name, field in group.model_fields.items():
            assert f"\n| `{name}` | " in page
            assert field.description or name in ("model", "data", "optimizer", "train"), f"{name} has no explanation"


def test_every_command_has_a_line_and_its_options() -> None:
    guide, reference = PAGES["docs/cli.md"].read_text(), PAGES["docs/commands.md"].read_text()
    for name in cli.COMMANDS:
        assert re.search(rf"^\| .*`{name}`.* \|", guide, re.M) and f"\n## {name}\n" in reference, name


def test_what_functions_return_is_described() -> None:
    page = PAGES["docs/api.md"].read_text(encoding="utf-8")
    returned = set(re.findall(r"^\) -> (\w+)$", page, re.M)) - {"None"}
    assert returned and all(f"\n### {name}\n" in page for name in [*returned, *clearseek.__all__])
