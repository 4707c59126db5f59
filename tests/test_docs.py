"""The documentation: what it shows must run, what it names must exist.

- The ``python`` blocks of a page run in one namespace, in a folder with a finished small run at ``runs/quickstart``.
- In ``console`` blocks, ``$ clearseek ...`` runs, must exit with 0, and must print the lines shown below it, in order;
  a line ``...`` stands for any others. Commands in other blocks and in the text are only parsed.
- ``toml`` blocks are recipes, or parts of one.
- Tables between ``<!-- generated: NAME -->`` and ``<!-- /generated -->`` are what the code says;
  ``python -m tests.test_docs`` writes them anew.
"""

from __future__ import annotations

import io
import json
import random
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.console import Console

from clearseek import cli, config
from clearseek.audit.audit import audit_release
from clearseek.audit.questions import QUESTIONS
from clearseek.audit.render.text import DIMENSIONS, print_verdict
from clearseek.audit.verdict import verdict
from clearseek.cli.report import si
from clearseek.config.posttraining import with_defaults
from clearseek.counts import count_parameters
from clearseek.errors import UserError
from clearseek.hub.write import export_hf
from clearseek.recipe import load_recipe, parse_recipe, shipped_recipes
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from tests.published import published
from tests.tiny import tiny

ROOT = Path(__file__).parents[1]
PAGES = {page.relative_to(ROOT).as_posix(): page for page in [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/*.md"))]}
COMMENT = re.compile(r"<!--.*?-->", re.S)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.S | re.M)
COMMAND = re.compile(r"^(?:\$ )?(?:\S*/)?clearseek (.+)$")
GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- /generated -->)", re.S)
FIGURES = re.compile(r"[^\w\- ]")


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
            cli.build_parser().parse_args(shlex.split(line, comments=True))
        except UserError as error:
            pytest.fail(f"clearseek {line}: {error}")
        except SystemExit as ended:
            assert ended.code == 0, line


def test_commands_are_found() -> None:
    found = {line.split()[0] for page in PAGES for line in commands(page)}
    assert set(cli.COMMANDS) <= found


@pytest.mark.parametrize("page", pages_with("toml"))
def test_recipes_are_valid(page: str) -> None:
    for block in blocks(page, "toml"):
        shown = tomllib.loads(block)
        quickstart = tomllib.loads(shipped_recipes()["quickstart"].read_text(encoding="utf-8"))
        if "parent" in shown:
            parse_recipe(with_defaults(shown) | {"model": quickstart["model"]}, page)
            continue
        base = {} if "name" in shown else quickstart
        parse_recipe({**base, **{k: base.get(k, {}) | v if isinstance(v, dict) else v for k, v in shown.items()}}, page)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {FIGURES.sub("", heading.lower()).replace(" ", "-") for heading in headings}, target


def test_every_page_recipe_and_dependency_is_named() -> None:
    readme, recipes = prose("README.md"), PAGES["docs/recipes.md"].read_text(encoding="utf-8")
    assert [page for page in PAGES if page.startswith("docs/") and f"({page})" not in readme] == []
    for name in shipped_recipes():
        assert f"`{name}`" in readme and f"| `{name}` |" in recipes, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in sum(project["optional-dependencies"].values(), project["dependencies"]):
        name = re.split(r"[<>=~!;\[ ]", requirement)[0]
        assert f"| {name}" in prose("docs/dependencies.md"), name


def test_every_setting_is_listed() -> None:
    page = prose("docs/recipes.md")
    for model in (config.Recipe, config.ModelConfig, config.RopeScaling, config.DataConfig, config.OptimizerConfig,
                  config.Phase, config.TrainConfig, config.Fp8Config, config.ParentConfig, config.ProblemsConfig,
                  config.SftConfig, config.GrpoConfig, config.DistilConfig, config.LoraConfig,
                  config.ExpertsConfig):  # fmt: skip
        section = generated(model.__name__).strip()
        assert section in page, f"{model.__name__}: write the tables anew with: python -m tests.test_docs"
        for name, field in model.model_fields.items():
            assert f"| `{name}` |" in section
            assert field.description or name in ("model", "data", "optimizer", "train"), f"{name} has no explanation"


def test_recipe_table_is_what_is_shipped() -> None:
    message = "write the tables anew with: python -m tests.test_docs"
    assert generated("recipes").strip() in prose("docs/recipes.md"), message


def test_every_question_is_listed() -> None:
    message = "write the tables anew with: python -m tests.test_docs"
    assert generated("questions").strip() in prose("docs/audit.md"), message


SCREENS = {
    "deepseek_r1": ("deepseek-r1/LICENSE", ""), "deepseek_v3": ("deepseek-v3/LICENSE-MODEL", ""),
    "llama_3": ("llama3/LICENSE", "Meta-Llama-3-8B"), "mistral": ("mistral-inference/LICENSE", "Mistral-7B-v0.3"),
    "olmo": ("OLMo/LICENSE", "OLMo-2-1124-7B"),
}  # fmt: skip
"""First screens of docs/audit.md, each with a file that the published folder must have, and ``--name``."""


@pytest.mark.parametrize("name", SCREENS)
def test_first_screens_are_what_is_printed(name: str) -> None:
    message = "write the screens anew with: python -m tests.test_docs"
    assert screen(*SCREENS[name]) in PAGES["docs/audit.md"].read_text(encoding="utf-8"), message
    if name == "deepseek_r1":
        assert generated("sentence_deepseek_r1") in PAGES["README.md"].read_text(encoding="utf-8"), message


def screen(file: str, model: str) -> str:
    """The first screen of the audit of the folder of a published file, in a terminal of 100 columns."""
    folder = published(file).parent
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=True, color_system=None, highlight=False)
    print_verdict(console, verdict(audit_release(folder, model)))
    return f"```text\n{re.sub(r' +$', '', out.getvalue(), flags=re.M)}```\n"


def generated(name: str) -> str:
    """The table that stands under this name."""
    if name.startswith("screen_"):
        return screen(*SCREENS[name.removeprefix("screen_")])
    if name == "sentence_deepseek_r1":
        return "```text\n" + "\n".join(screen(*SCREENS["deepseek_r1"]).splitlines()[1:3]) + "\n```\n"
    if name == "questions":
        rows = ["| row | what it asserts |", "|---|---|"]
        for dimension, heading in DIMENSIONS.items():
            rows.append(f"| **{heading}** | |")
            rows += [f"| `{each.id}` | {each.title} |" for each in QUESTIONS if each.dimension == dimension]
    elif name == "recipes":
        rows = ["| recipe | parameters | activated | tokens | what it is |", "|---|---|---|---|---|"]
        base = load_recipe("ladder-base").model.model_dump(mode="json")
        for recipe in (load_recipe(name, (), lambda _: base) for name in shipped_recipes()):
            if recipe.parent is not None:
                rows.append(f"| `{recipe.name}` | of | `{recipe.parent.path}` | | {recipe.description} |")
                continue
            count = count_parameters(recipe.model)
            tokens = recipe.train.steps * recipe.train.batch_size * recipe.data.sequence_length
            sizes = (count.total, count.activated_without_embedding, tokens)
            rows.append(f"| `{recipe.name}` | {' | '.join(map(si, sizes))} | {recipe.description} |")
    else:
        model: type[BaseModel] = getattr(config, name)
        rows = ["| setting | if left out | what it is |", "|---|---|---|"]
        rows += [f"| `{key}` | {_default(field)} | {_explanation(key, field)} |" for key, field in _fields(model)]
    return "\n".join(rows) + "\n"


def _fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return list(model.model_fields.items())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, BaseModel):
        return "its defaults"
    value: Any = field.default
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return f"{len(value)} phases"
    return f"`{json.dumps(value)}`"


def _explanation(key: str, field: FieldInfo) -> str:
    text = " ".join((field.description or f"The table `[{key}]`, below.").split()).replace("|", "\\|")
    if get_origin(field.annotation) is Literal:
        text += " One of " + ", ".join(f"`{json.dumps(choice)}`" for choice in get_args(field.annotation)) + "."
    return text


def anew(match: re.Match[str]) -> str:
    """A generated part, written anew where what it needs is here."""
    try:
        return match[1] + generated(match[2]) + match[4]
    except pytest.skip.Exception:
        return match[0]


def write_tables() -> None:
    """Write every generated table anew."""
    for page in PAGES.values():
        text = page.read_text(encoding="utf-8")
        fresh = GENERATED.sub(anew, text)
        if fresh != text:
            page.write_text(fresh, encoding="utf-8")


if __name__ == "__main__":
    write_tables()
