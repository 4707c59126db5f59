"""Memory that runs out in a step: one error, and what was saved is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.checkpoints import checkpoint
from clearseek.train.memory import explained
from clearseek.train.work import Work
from tests.tiny import tiny, trainer_of
from tests.train.parallel.runs import run_together

HUGE = 1 << 50


def test_one_process_says_what_and_keeps_what_was_saved(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, real = trainer_of(tiny(), tmp_path / "run", data), Work.norm

    def norm(self: Work, gradients: list[torch.Tensor]) -> float:
        if trainer.training.step == 4:
            torch.empty(HUGE)
        return real(self, gradients)

    monkeypatch.setattr(Work, "norm", norm)
    with pytest.raises(UserError) as raised:
        trainer.train()
    said = str(raised.value)
    assert said.startswith("step 5: out of memory (4,096.0 TiB more were asked for in step.py:")
    assert "step-00000003" in said and "--resume" in said and "rows" not in said
    assert checkpoint.steps(tmp_path / "run/checkpoints") == [3]
    monkeypatch.undo()
    assert trainer_of(tiny(), tmp_path / "run", data, resume=True).train().finished


@pytest.mark.parametrize("kind", ["numpy", "python", "gpu", "pipeline"])
def test_every_librarys_error_is_known(kind: str) -> None:
    def fail() -> None:
        if kind == "numpy":
            np.empty(HUGE)
        if kind == "python":
            bytearray(HUGE)
        if kind == "gpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        try:
            torch.empty(HUGE)
        except RuntimeError as error:
            raise RuntimeError("failed to run forward") from error

    with pytest.raises(UserError, match="step 7: out of memory"), explained(model(), "step 7", lambda: "Kept."):
        fail()


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(28, "No space left on device"), KeyError(1)])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained(model(), "step 7", lambda: "Kept."):
        raise error
    assert raised.value is error


def test_one_of_four_processes_names_the_layer_and_its_rows(data: Path, tmp_path: Path) -> None:
    train = {"steps": 6, "batch_size": 8, "micro_batch_size": 1, "lanes": 4, "checkpoint_every": 2}
    ended = run_together(tiny(train=train), tmp_path / "run", data, "dp=4,ep=4", fault="memory 1 4")
    errors = [each for _, each in ended]
    assert all(code in (1, 2) for code, _ in ended) and "a defect" not in "".join(errors)
    said = next(line for line in errors[0].splitlines() if "process 1 (" in line)
    assert "step 5: out of memory" in said and "where even routing brings 64" in said
    assert "most rows came to the experts of layer" in said
    assert 2 in checkpoint.steps(tmp_path / "run/checkpoints")


def model() -> DeepSeekModel:
    with torch.device("meta"):
        return DeepSeekModel(tiny().model)
