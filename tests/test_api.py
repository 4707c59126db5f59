"""The Python interface: what it offers, and what it loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import clearseek
from clearseek import UserError, audit_release, load_recipe, make_plan, prepare_data


def loaded(code: str) -> set[str]:
    """Modules in a fresh process after some code."""
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


def test_every_name_is_there_and_in_the_guide() -> None:
    assert {"__doc__", "__version__", *clearseek.__all__} <= set(dir(clearseek))
    for name in clearseek.__all__:
        assert getattr(clearseek, name).__name__ == name
        assert getattr(clearseek, name).__doc__
        assert name in (clearseek.__doc__ or "") or name == "Recipe", name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'clearseek' has no attribute 'train_model'"):
        clearseek.train_model  # type: ignore[attr-defined]  # noqa: B018


def test_importing_loads_nothing() -> None:
    found = loaded("import clearseek")
    assert {name for name in found if name.startswith("clearseek.")} == set()
    assert not {"torch", "numpy", "pydantic", "rich"} & found


@pytest.mark.parametrize(
    "code",
    [
        "from clearseek import load_recipe, make_plan; make_plan(load_recipe('quickstart'))",
        "from clearseek import Recipe, Run, UserError, audit_release, prepare_data; Run('runs/x').begun",
    ],
)
def test_planning_data_and_audits_load_no_torch(code: str) -> None:
    assert "torch" not in loaded(code)


def test_paths_may_be_text(tmp_path: Path, corpus: Path, release: Path) -> None:
    recipe = load_recipe("quickstart-small", [f"data.paths=['{corpus}/*.txt']", "data.source=files"])
    manifest = prepare_data(recipe.data, 300, str(tmp_path / "data"))
    assert manifest.train.tokens > 0 and (tmp_path / "data" / "manifest.json").is_file()
    found = audit_release(str(release))
    assert found.files and all(found.files.values()), "the files of a folder are hashed"
    assert make_plan(recipe).count.total > 0


def test_what_a_user_can_mend_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        audit_release(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r'no recipe "quikstart".*did you mean "quickstart"'):
        load_recipe("quikstart")
