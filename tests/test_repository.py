"""The files around the code: what they name exists."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return content


def workflows() -> list[dict[str, Any]]:
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in (ROOT / ".github/workflows").glob("*.yml")]


def steps() -> list[dict[str, Any]]:
    return [step for flow in workflows() for job in flow["jobs"].values() for step in job["steps"]]


def test_the_citation_is_valid_and_of_this_version() -> None:
    """The keys that Citation File Format 1.2.0 requires, and those that it knows."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert set(citation) - {"cff-version", "message", "title", "authors"} <= {
        "abstract", "type", "version", "license", "keywords",
    }  # fmt: skip
    assert (citation["cff-version"], citation["title"], citation["type"]) == ("1.2.0", "ClearSeek", "software")
    assert citation["authors"] == [{"name": author["name"]} for author in project()["authors"]]
    assert (str(citation["version"]), citation["license"]) == (project()["version"], project()["license"])


def test_make_targets_that_are_called_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    runs = [step["run"] for step in steps() if "run" in step]
    called = re.findall(r"^make ([a-z-]+)", "\n".join([*runs, (ROOT / ".ci/run").read_text(encoding="utf-8")]), re.M)
    assert set(called) == {"lint", "test", "wheel"} <= targets
    assert all(run.startswith("make ") for run in runs), "one way to do it: what a job does is a target of the Makefile"
    phony = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[0].split()
    assert set(phony) == targets


@pytest.mark.parametrize(
    ("browser", "tests", "seconds", "code", "words"),
    [("true", "true", 9, 0, ""), ("true", "false", 9, 1, ""), ("echo Error: no host; false", "false", 9, 0, "no host"),
     ("sleep 30", "false", 1, 0, "not installed within 1 seconds")],
)  # fmt: skip
def test_the_page_is_tested_in_a_browser_where_one_can_be_had(
    browser: str, tests: str, seconds: int, code: int, words: str, tmp_path: Path
) -> None:
    """`make` is another one here, which does as told."""
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()[-3:] == ["make lint", "make test", ".ci/browser"]
    (tmp_path / "make").write_text(f"#!/bin/sh\ncase $1 in browser) {browser};; *) echo tests ran; {tests};; esac\n")
    (tmp_path / "make").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "BROWSER_SECONDS": str(seconds)}
    said = subprocess.run([ROOT / ".ci/browser"], env=os.environ | path, capture_output=True, text=True, timeout=60)
    assert said.returncode == code and said.stderr == ""
    assert (said.stdout == "tests ran\n") == (not words)
    assert not words or (said.stdout.startswith("The page was NOT tested in a browser") and words in said.stdout)
    assert said.stdout.count("\n") == 1


def test_workflows_may_only_read_and_pin_their_actions() -> None:
    assert workflows()
    for flow in workflows():
        assert flow["permissions"] == {"contents": "read"} and "concurrency" in flow
    for step in steps():
        assert "uses" not in step or re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+)*", step["uses"]), step


def test_every_python_that_is_supported_is_tested() -> None:
    matrix = [job["strategy"]["matrix"]["python"] for flow in workflows() for job in flow["jobs"].values()
              if "strategy" in job]  # fmt: skip
    assert matrix == [["3.11", "3.12", "3.13"]] and project()["requires-python"] == ">=3.11"


def test_nothing_leads_out_of_the_repository() -> None:
    """A stranger's clone has nothing beside it."""
    beside = re.compile(r"parents?(\[\d\])? / \"\.\./")
    files = [file for folder in ("tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    assert [file.name for file in files if beside.search(file.read_text(encoding="utf-8"))] == []


def test_every_package_of_the_source_is_installed() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "clearseek").rglob("__init__.py")}
    assert found | {"clearseek.recipes"} == set(setuptools["packages"])
