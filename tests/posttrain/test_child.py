"""What a recipe trains: adapters or some experts, and no other byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.errors import UserError
from clearseek.posttrain.grpo import Grpo
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import weights_of
from clearseek.posttrain.questions import Questions
from clearseek.train import checkpoint
from clearseek.train.chunks import hash_tensors
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.transcript import check_transcript, read_header
from tests.posttrain.tiny import child, easy, parent

GRPO: dict[str, Any] = {"completions": 4, "max_tokens": 6, "evaluate_problems": 8}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Questions, "score", easy)
    return parent(tmp_path / "base")


def trained(base: Run, folder: Path, **tables: Any) -> Run:
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, **tables)
    run = Run(folder)
    assert train_recipe(recipe, run, method=method_of(recipe)).finished
    return run


def weights(run: Run, step: int | None = None) -> dict[str, torch.Tensor]:
    path = checkpoint.latest(run.checkpoints) if step is None else checkpoint.find(run.checkpoints, step)
    assert path is not None
    return checkpoint.load(path).tensors["weights"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_chosen_experts_change(base: Run, tmp_path: Path, optimizer: str) -> None:
    tables: dict[str, Any] = {
        "experts": {"share": 0.3, "batches": 2},
        "optimizer": {"name": optimizer, "weight_decay": 0.1, "learning_rate": 1e-2},
    }
    run = trained(base, tmp_path / "run", **tables)
    chosen = run.read_recipe().experts
    assert chosen is not None and chosen.layers
    assert set(chosen.layers) == {"model.layers.1.mlp.experts"}  # the MTP layer takes no part
    before, after = weights(base), weights(run)
    for name, tensor in before.items():
        experts = chosen.layers.get(name.rpartition(".")[0], ())
        for number, (old, new) in enumerate(zip(tensor, after[name], strict=True)):
            assert torch.equal(old, new) == (number not in experts), (name, number)
    assert 0 < len(chosen.layers["model.layers.1.mlp.experts"]) < 8
    assert (run.pictures / "experts-of-the-task.png").is_file()
    given = trained(base, tmp_path / "given", **tables | {"experts": chosen.model_dump(mode="json")})
    assert given.transcript.read_bytes() == run.transcript.read_bytes()


def test_adapters_are_trained_alone_and_folded_in(base: Run, tmp_path: Path) -> None:
    run = trained(base, tmp_path / "run", lora={"rank": 2, "targets": ["attention", "experts"]})
    before, after = weights(base), weights(run)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    added = after.keys() - before.keys()
    assert added and all(name.endswith((".lora_A", ".lora_B")) for name in added)
    state = checkpoint.load(checkpoint.find(run.checkpoints, 6)).tensors["optimizer"]
    assert {name.rpartition(".")[0] for name in state} <= added
    merged, _ = run.load_model()
    adapted = {name for name, p in merged.named_parameters() if not torch.equal(p, before[name])}
    assert adapted and all("self_attn" in name or "experts" in name for name in adapted)
    grandchild = trained(run, tmp_path / "grandchild")
    _, tensors, _ = weights_of(run.root)
    pairs = [pair for group in tensors.values() for pair in group.items()]
    assert read_header(grandchild.transcript)["parent"]["weights_sha256"] == hash_tensors(pairs)


def test_a_child_says_whose_it_is(base: Run, tmp_path: Path) -> None:
    run = trained(base, tmp_path / "run")
    header = read_header(run.transcript)
    _, tensors, _ = weights_of(base.root)
    found = hash_tensors([pair for group in tensors.values() for pair in group.items()])
    assert header["parent"]["weights_sha256"] == found and header["parent"]["name"] == "tiny"
    assert "model" in header["recipe"] and header["recipe"]["parent"]["path"] == str(base.root)
    assert check_transcript(run.transcript).begin == 0
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, parent={"path": str(base.root), "sha256": "0" * 64})
    with pytest.raises(UserError, match=f"its weights have the SHA-256 {found}, and parent.sha256 is 0000"):
        train_recipe(recipe, Run(tmp_path / "other"), method=Grpo())


def test_a_parent_that_changed_is_refused(base: Run, tmp_path: Path) -> None:
    run = trained(base, tmp_path / "run")
    file = run.parent / "parent.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"weights_sha256": "0" * 64}))
    with pytest.raises(UserError, match="not the weights that the run began with"):
        train_recipe(run.read_recipe(), run, resume=True, method=Grpo())
