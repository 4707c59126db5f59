from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.model.transformer import DeepSeekModel
from clearseek.train.checkpoints import checkpoint
from clearseek.train.record import StepRecord
from clearseek.train.run import Loads, Metrics, Run, is_imported, read_metrics
from tests.tiny import tiny


def record(step: int) -> StepRecord:
    return StepRecord(step, {"loss": 1.5}, 0.1, 100 * step, (1.2,), None, None, 1e-3, 100.0, 0.4)


def write(path: Path, first: int, last: int) -> None:
    metrics = Metrics(path, first - 1)
    for step in range(first, last + 1):
        metrics.append(record(step), torch.tensor([[step, 2, 3]]))
    metrics.close()


def steps(path: Path) -> list[int]:
    return [line["step"] for line in read_metrics(path)]


def test_metrics_hold_every_step_and_its_loads(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert not list(read_metrics(path))
    write(path, 1, 3)
    assert steps(path) == [1, 2, 3]
    second = list(read_metrics(path))[1]
    assert second["load"] == [[2, 2, 3]] and second["tokens_per_second"] == 100.0


def test_metrics_are_there_while_the_run_goes_on(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "m", 0)
    metrics.append(record(1), torch.tensor([[1]]))
    assert steps(tmp_path / "m") == [1]
    metrics.close()


def test_resuming_cuts_off_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 5)
    write(path, 4, 6)
    assert steps(path) == [1, 2, 3, 4, 5, 6]
    write(path, 1, 2)
    assert steps(path) == [1, 2]


@pytest.mark.parametrize("torn", [b'{"step": 4, "lo', b"\xff\xfe", b'{"step": 4}', b"\0" * 100])
def test_an_unfinished_last_line_is_dropped(torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 3)
    with path.open("ab") as file:
        file.write(torn)
    assert steps(path) == [1, 2, 3]
    write(path, 4, 5)
    assert steps(path) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "damaged", ["nonsense", "5", "[]", "{}", '{"step": "2", "load": []}', '{"step": 2}', "[" * 99999]
)
def test_what_follows_a_damaged_line_is_left_out(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 3)
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_text("\n".join([lines[0], damaged, *lines[2:]]), encoding="utf-8")
    assert steps(path) == [1]


@pytest.mark.slow
def test_metrics_are_read_line_by_line(tmp_path: Path) -> None:
    path, line = tmp_path / "metrics.jsonl", json.dumps({"step": 0, "load": [[1] * 64] * 16})
    path.write_text("".join(line.replace("0", str(step), 1) + "\n" for step in range(1, 2001)), encoding="utf-8")
    tracemalloc.start()
    Metrics(path, 1500).close()
    assert len(Loads(path)) == 1500
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000 < path.stat().st_size / 5


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clearseek.train.run._LONGEST_LINE", 1000)
    path = tmp_path / "metrics.jsonl"
    write(path, 1, 2)
    with path.open("ab") as file:
        file.write(b"x" * 100_000)
    write(path, 3, 3)
    assert steps(path) == [1, 2, 3]


def test_metrics_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot read: Is a directory"):
        list(read_metrics(tmp_path / "metrics.jsonl"))


def test_the_recipe_is_kept(tmp_path: Path) -> None:
    run = Run(tmp_path / "new")
    run.write_recipe(tiny())
    assert run.read_recipe() == tiny()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"not a run folder: it has no recipe\.json"),
        (b"", r"recipe\.json: damaged: .*: restore it"),
        (b"{", r"recipe\.json: damaged"),
        (b"\xff", r"recipe\.json: damaged"),
        (b"[" * 100_000, r"recipe\.json: damaged"),
        (b"[]", r"recipe\.json: the recipe = \[\]: must be a table of settings"),
        (b"{}", r"recipe\.json: name is missing"),
    ],
)
def test_a_folder_without_a_good_recipe_is_refused(content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(UserError, match=says):
        Run(tmp_path).read_recipe()


def test_a_recipe_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").mkdir()
    with pytest.raises(UserError, match=r"recipe\.json: cannot read: Is a directory"):
        Run(tmp_path).read_recipe()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"recipe\.json: cannot read: Not a directory"):
        Run(tmp_path / "file").read_recipe()


@pytest.mark.parametrize(("content", "begun"), [(None, False), (b"", False), (b'{"format"', False), (b"{}\n", True)])
def test_a_run_has_begun_with_its_first_whole_line(content: bytes | None, begun: bool, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "transcript.jsonl").write_bytes(content)
    assert Run(tmp_path).begun is begun
    assert not Run(tmp_path / "gone").begun


def saved(root: Path, *numbers: int) -> DeepSeekModel:
    model = DeepSeekModel(tiny().model)
    model.initialise(0)
    Run(root).write_recipe(tiny())
    for number in numbers:
        groups = {"weights": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}
        checkpoint.save(Run(root).checkpoints, number, groups, {}, keep=9)
    return model


def test_the_newest_checkpoint_is_loaded_or_the_one_asked_for(tmp_path: Path) -> None:
    model = saved(tmp_path, 3, 12)
    loaded, step = Run(tmp_path).load_model()
    assert step == 12 and Run(tmp_path).load_model(3)[1] == 3
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    halved = Run(tmp_path).load_model(dtype=torch.bfloat16)[0]
    assert {parameter.dtype for parameter in halved.parameters()} == {torch.bfloat16}
    with pytest.raises(UserError, match="no checkpoint of step 4: there are those of steps 3, 12"):
        Run(tmp_path).load_model(4)


def test_a_model_is_loaded_without_its_optimiser(tmp_path: Path) -> None:
    model = saved(tmp_path, 1)
    run = Run(tmp_path)
    groups = {"weights": dict(model.named_parameters()), "buffers": dict(model.named_buffers())}
    checkpoint.save(run.checkpoints, 2, groups | {"optimizer": {"x": torch.ones(3)}}, {}, keep=1)
    (run.checkpoints / "step-00000002/optimizer.safetensors").unlink()
    assert run.load_model()[1] == 2
    (run.checkpoints / "step-00000002/weights.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"weights\.safetensors: cut short"):
        run.load_model()


def test_an_import_is_told_from_a_run(tmp_path: Path) -> None:
    saved(tmp_path, 0)
    assert is_imported(Run(tmp_path))
    Run(tmp_path).transcript.touch()
    assert not is_imported(Run(tmp_path))


def test_a_run_without_checkpoints_is_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(UserError, match="no checkpoint yet"):
        Run(tmp_path).load_model()


@pytest.mark.parametrize("change", [{"hidden_size": 64}, {"num_hidden_layers": 3}, {"tie_word_embeddings": True}])
def test_a_recipe_that_does_not_fit_the_checkpoint_is_named(change: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path, 1)
    raw = json.loads(Run(tmp_path).recipe.read_text(encoding="utf-8"))
    raw["model"] |= change
    Run(tmp_path).recipe.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError, match=r"step-00000001: not of the model that .*recipe\.json describes"):
        Run(tmp_path).load_model()


def test_metrics_that_cannot_be_read_are_not_none(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert list(read_metrics(file)) == []
    file.symlink_to(file)
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot read: "):
        list(read_metrics(file))
