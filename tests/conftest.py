"""What must be decided before anything is imported, and what all rooms use."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch

from clearseek import machine
from clearseek.cli import main
from clearseek.cores import default_threads
from clearseek.data.shards import prepare_data
from clearseek.ops.compiled import use_kernels
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from tests.releases import make_release
from tests.tiny import tiny

if not torch.cuda.is_available():
    # Triton decides at its import whether kernels are interpreted, and other packages import it too.
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="slow tests too; a file or a test that is named runs anyway")


def _named(config: pytest.Config) -> bool:
    """Whether a file or a test is asked for, rather than folders."""
    return any("::" in argument or argument.endswith(".py") for argument in config.args)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Two processes or more run folders of tests, a file in one of them; what is named begins at once in this one."""
    option, worker = config.option, hasattr(config, "workerinput")  # a worker that had workers would be a fork bomb
    if worker or not config.pluginmanager.hasplugin("xdist") or option.numprocesses is not None or option.usepdb:
        return
    if not _named(config) and "gpu" not in option.markexpr:
        option.numprocesses, option.dist = max(2, min(4, default_threads())), "loadfile"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave slow tests out, unless everything, a mark, a file or a test is asked for."""
    if config.option.all or config.option.markexpr or _named(config):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if not item.get_closest_marker("slow")]


@pytest.fixture(scope="session", autouse=True)
def _processors_are_measured_briefly() -> Iterator[None]:
    """A trainer times products for 0.3 s a type before it begins. Hundreds begin here, and none needs the figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "measure_matmul_rates", partial(machine.measure_matmul_rates, seconds=0.0))
        yield


@pytest.fixture(autouse=True)
def _kernels_are_pytorchs() -> Iterator[None]:
    """A trainer chooses kernels for the whole process; the next test begins without."""
    yield
    use_kernels("torch")


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes to kill, which start in milliseconds: forked from a server that has imported the trainer."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.test_trainer"])
    return context


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small text files."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(30):
        lines = [f"line {i} of file {number}: {'the quick brown fox ' * (i % 5)}{i * number}" for i in range(40)]
        (folder / f"{number:02}.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as token shards."""
    out = tmp_path_factory.mktemp("data") / "data"
    prepare_data(tiny().data, 300, out, base=corpus)
    return out


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small, truthful release of somebody else's model."""
    return make_release(tmp_path / "Tiny")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A release of a tiny run, its key beside it."""
    folder = tmp_path_factory.mktemp("release")
    recipe = tiny(
        data={"paths": [str(corpus / "*.txt")]}, train={"keep_checkpoints": 9, "hash_every": 1, "checkpoint_every": 3}
    )
    run = Run(folder / "run")
    train_recipe(recipe, run)
    assert main(["release", str(run.root), str(folder / "Tiny"), "--key", str(folder / "key"), "--make-key"]) == 0
    return folder / "Tiny"
