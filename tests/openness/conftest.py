from __future__ import annotations

from pathlib import Path

import pytest

from clearseek.cli import main
from clearseek.train.run import RunFolder
from clearseek.train.session import run_training
from tests.train.conftest import corpus, tiny  # noqa: F401

from .releases import make_release


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small, truthful release."""
    return make_release(tmp_path / "Tiny")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:  # noqa: F811
    """A release of a tiny run, its key beside it."""
    folder = tmp_path_factory.mktemp("release")
    recipe = tiny(
        data={"paths": [str(corpus / "*.txt")]}, train={"keep_checkpoints": 9, "hash_every": 1, "checkpoint_every": 3}
    )
    run = RunFolder(folder / "run")
    run_training(recipe, run, quiet=True)
    assert main(["release", str(run.root), str(folder / "Tiny"), "--key", str(folder / "key"), "--make-key"]) == 0
    return folder / "Tiny"
