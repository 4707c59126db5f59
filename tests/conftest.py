"""What must be decided before anything is imported, and what all rooms use."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from multiprocessing.context import ForkServerContext

import pytest
import torch

from clearseek import machine
from clearseek.fusion import use_kernels

if not torch.cuda.is_available():
    # Triton decides at its import whether kernels are interpreted, and other packages import it too.
    os.environ.setdefault("TRITON_INTERPRET", "1")


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


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes to kill, which start in milliseconds: forked from a server that has imported the trainer."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.test_trainer"])
    return context
