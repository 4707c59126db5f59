"""A command loads what it uses: PyTorch takes seconds to load, its compiler as long again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clearseek.cli import COMMANDS
from tests.tiny import TINY

UNUSED = ("torch._dynamo", "torch._inductor", "sympy", "transformers", "jinja2", "yaml", "cryptography")
"""What training has no use for unless it compiles."""


def loaded(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """Which of the modules `names` a command has loaded when it is done."""
    program = (
        f"import sys; from clearseek.cli import main; code = main({arguments!r})\n"
        f"print('loaded', *(name for name in {names!r} if name in sys.modules)); sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1].split()[1:]


def recipe_file(folder: Path) -> Path:
    """The tests' tiny recipe, over text of its own, as TOML."""
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"text number {number}: {'a few words ' * number}\n" * 20)
    tables = {name: dict(table) for name, table in TINY.items() if isinstance(table, dict)}
    tables["data"]["paths"] = [str(folder / "*.txt")]
    tables["train"] |= {"precision": "fp32", "steps": 2}
    lines = [f'name = "{TINY["name"]}"']
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    path = folder / "tiny.toml"
    path.write_text("\n".join(lines))
    return path


def child_file(folder: Path, parent: Path) -> Path:
    """A recipe that fine-tunes a run on a few lines."""
    lines, path = folder / "a.jsonl", folder / "child.toml"
    lines.write_text("".join(f'{{"q": "{n}", "a": "{n + 1}"}}\n' for n in range(20)))
    path.write_text(
        f'name = "child"\n[parent]\npath = "{parent}"\n[sft]\nprompt = "q"\nanswer = "a"\n[data]\nsource = "jsonl"\n'
        f'paths = ["{lines}"]\nsequence_length = 32\nheld_out_fraction = 0.2\n[train]\nsteps = 1\nbatch_size = 1\n'
    )
    return path


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


@pytest.mark.parametrize(
    "arguments",
    [["recipes"], ["plan", "v3-671b"], ["plan", "--published"], ["train", "quickstart", "--dry-run"]],
    ids=" ".join,
)
def test_commands_that_only_count_load_no_pytorch(arguments: list[str]) -> None:
    assert loaded(arguments, ("torch", "matplotlib", "jinja2", "yaml", "tokenizers")) == []


@pytest.mark.slow
def test_data_and_a_dry_run_of_a_run_load_no_pytorch(tmp_path: Path) -> None:
    recipe, out = str(recipe_file(tmp_path)), str(tmp_path / "data")
    assert loaded(["data", recipe, "--out", out], ("torch", "matplotlib", "jinja2", "yaml")) == []
    run = tmp_path / "run"
    plain = ["--set", "train.kernels=torch"]  # numba reads its settings with yaml
    assert loaded(["train", recipe, "--data", out, "--run", str(run), *plain], UNUSED) == []
    assert loaded(["train", "--resume", str(run), "--dry-run"], ("torch", "matplotlib")) == []
    assert loaded(["train", "--resume", str(run), "--more-steps", "2", "--dry-run"], ("torch", "matplotlib")) == []
    child, heavy = str(child_file(tmp_path, run)), ("torch", "matplotlib", "transformers")
    assert loaded(["train", child, "--dry-run"], (*heavy, "jinja2", "tokenizers")) == []
    assert loaded(["data", child, "--out", str(tmp_path / "packs")], heavy) == []


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_but_the_command_line(command: str) -> None:
    program = f"import sys; from clearseek.cli import main; main({[*command.split(), '--help']!r}); print(*sys.modules)"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found = ended.stdout.splitlines()[-1].split()
    assert not {"pydantic", "rich", "numpy", "torch", "tomllib", "fcntl"} & set(found)
    modules = {f"clearseek.cli.{'import_' if name == 'import' else name}": name for name in COMMANDS}
    assert [modules[name] for name in found if name in modules] == command.split()
