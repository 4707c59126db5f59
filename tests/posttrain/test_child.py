"""What a recipe trains: adapters or some experts, and no other byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from clearseek.cli import main
from clearseek.cli.costs import costs
from clearseek.errors import UserError
from clearseek.files import sha256_file
from clearseek.posttrain import child as posttrain_child
from clearseek.posttrain.child import Child
from clearseek.posttrain.experts import Usage
from clearseek.posttrain.grpo import Grpo
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import dimensions, weights_of
from clearseek.posttrain.peft import load_peft
from clearseek.problems.questions import Questions
from clearseek.recipe import load_recipe
from clearseek.train.checkpoints import checkpoint
from clearseek.train.chunks import hash_tensors
from clearseek.train.run import Run, read_metrics
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
    for record in check_transcript(run.transcript).steps:  # neither choosing nor drawing has written any again
        file = run.root / "rollouts" / f"round-{record.step - 1:08d}.safetensors"
        assert sha256_file(file) == record.rollouts_sha256
    given = trained(base, tmp_path / "given", **tables | {"experts": chosen.model_dump(mode="json")})
    assert given.transcript.read_bytes() == run.transcript.read_bytes()


@pytest.mark.parametrize(
    ("score", "counts", "expected"), [("gate", 0.0, (0, 1)), ("token", 0.0, (2,)), ("gate", 0.3, (0, 1))]
)
def test_experts_are_chosen_by_the_recipe_s_score(
    base: Run, monkeypatch: pytest.MonkeyPatch, score: str, counts: float, expected: tuple[int, ...]
) -> None:
    """By weights the first two hold the share, by counts the third; the MTP layer's where its loss counts alone."""
    layers = ("model.layers.1.mlp.experts", "model.layers.2.mlp.experts")
    gate_LE, token_LE = torch.zeros(2, 8, dtype=torch.float64), torch.zeros(2, 8, dtype=torch.int64)
    gate_LE[:, :3], token_LE[:, :3] = torch.tensor([3.0, 2.0, 1.0]), torch.tensor([1, 1, 8])
    monkeypatch.setattr(posttrain_child, "measure_usage", lambda *given: Usage(layers, gate_LE, token_LE, 10))
    monkeypatch.setattr(posttrain_child, "_parent", lambda *given: None)
    train = {"mtp_loss_weight": counts, "mtp_loss_weight_final": counts}
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, experts={"share": 0.8, "score": score}, train=train)
    found = Child().resolved(recipe, base, cast("Any", None)).experts
    assert found is not None and found.layers == dict.fromkeys(layers[: 2 if counts else 1], expected)


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


@pytest.mark.parametrize("tables", [{"lora": {"rank": 2, "targets": ["attention"]}}, {"experts": {"share": 0.3}}])
def test_how_much_is_trained_is_said(base: Run, tmp_path: Path, tables: dict[str, Any]) -> None:
    lines, run = list[str](), Run(tmp_path / "run")
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, **tables)
    train_recipe(recipe, run, method=method_of(recipe), say=lines.append)
    before, after = weights(base), weights(run)
    mtp = f"model.layers.{recipe.model.num_hidden_layers}."  # its adapters take no part
    count = sum(tensor.numel() for name, tensor in after.items() if name not in before and not name.startswith(mtp))
    for name, tensor in before.items():
        count += sum(old.numel() for old, new in zip(tensor, after[name], strict=True) if not torch.equal(old, new))
    of = "adapters" if "lora" in tables else "the chosen experts"
    assert f"trained: {count:,} parameters of {of}; the others are frozen" in lines


def test_adapters_of_a_run_are_exported_for_peft(base: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(base, tmp_path / "run", lora={"rank": 2, "alpha": 4.0})
    assert main(["export", str(run.root), str(tmp_path / "adapter"), "--format", "peft"]) == 0
    model, _ = base.load_model(0)
    load_peft(model, tmp_path / "adapter")
    tokens = torch.randint(0, 275, (2, 20), generator=torch.Generator().manual_seed(0))
    merged = run.load_model()[0].logits(tokens)
    assert (model.logits(tokens) - merged).abs().max() < 1e-4 * merged.abs().max()
    assert not torch.allclose(base.load_model(0)[0].logits(tokens), merged, atol=1e-3)
    moved = trained(base, tmp_path / "moved", lora={"rank": 2}, train={"bias_update_speed": 0.1})
    whole = trained(base, tmp_path / "whole")
    for other, says in ((moved, "moved the routers' balance biases"), (whole, "has no adapters")):
        assert main(["export", str(other.root), str(tmp_path / "no"), "--format", "peft"]) == 2
        assert says in capsys.readouterr().err and not (tmp_path / "no").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
@pytest.mark.parametrize(
    "tables", [{"lora": {"rank": 2}}, {"experts": {"share": 0.3, "batches": 2}, "optimizer": {"name": "muon"}}]
)
def test_narrow_training_rounds_what_is_frozen_once_and_resumes_to_the_bit(
    tables: dict[str, Any], precision: str, base: Run, tmp_path: Path
) -> None:
    wide = parent(tmp_path / "wide", intermediate_size=128, moe_intermediate_size=128)
    tables = tables | {"train": {"precision": precision, "steps": 4}}
    run = trained(wide, tmp_path / "run", **tables)
    chosen, before, after = run.read_recipe().experts, weights(wide), weights(run)
    changed = 0
    for name, tensor in before.items():
        experts = (chosen.layers or {}).get(name.rpartition(".")[0], ()) if chosen is not None else ()
        for number, (old, new) in enumerate(zip(tensor, after[name], strict=True)):
            if number not in experts:
                assert torch.equal(old.bfloat16().float(), new.float()), (name, number)
            changed += number in experts and not torch.equal(old, new)
    assert changed or chosen is None
    again = Run(tmp_path / "again")
    shutil.copytree(run.root, again.root)
    recipe = again.read_recipe()
    train_recipe(recipe, again, resume=True, from_step=2, method=method_of(recipe))
    assert again.transcript.read_bytes() == run.transcript.read_bytes()


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


LAYER = "model.layers.1.mlp.experts"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (
            {"experts": {"layers": {"model.layers.9.mlp.experts": [0]}}},
            "9.mlp.experts.: no layer with experts .did",
        ),
        ({"experts": {"layers": {"model.layers.0.mlp.experts": [0]}}}, "0.mlp.experts.: no layer with experts"),
        ({"experts": {"layers": {LAYER: [8]}}}, f"{LAYER}.: give numbers from 0 to 7, ascending, each once"),
        ({"experts": {"layers": {LAYER: [-1]}}}, "give numbers from 0 to 7"),
        ({"experts": {"layers": {LAYER: [1, 1]}}}, "give numbers from 0 to 7"),
        ({"experts": {"layers": {LAYER: [2, 1]}}}, "give numbers from 0 to 7"),
        ({"data": {"source": "jsonl", "paths": ["x.jsonl"]}}, r"data\.paths beside \[problems\]"),
        (
            {"sft": {}, "grpo": None, "data": {"source": "jsonl", "paths": ["x"]}},
            r"\[problems\] beside \[sft\] needs",
        ),
        ({"sft": {"demonstrations": 5, "prompt": "a", "answer": "b"}, "grpo": None}, "leave prompt, answer out"),
    ],
)
def test_tables_that_do_not_fit_are_refused(base: Run, tables: dict[str, Any], words: str) -> None:
    every = {"grpo": GRPO, "problems": {"kind": "addition"}} | tables
    with pytest.raises(UserError, match=words):
        child(base, **{name: table for name, table in every.items() if table is not None})
    child(base, grpo=GRPO, problems={"kind": "addition"}, experts={"layers": {LAYER: [0, 7]}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[sft]\n[train]\nsteps = 1\nbatch_size = 1\n",
            r"r\.toml: \[sft\] without \[parent\]: say which model to begin with$",
        ),
        ("[grpo]\n[sft]\n[model]\n", r"r\.toml: \[sft\] and \[grpo\] without \[parent\]"),
        (
            'parent = "base"\n[train]\nsteps = 1\nbatch_size = 1\n',
            r'r\.toml: parent = "base": must be a table of settings$',
        ),
        ("[parent]\npath = 3\n[train]\nsteps = 1\nbatch_size = 1\n", r"r\.toml: parent\.path = 3: [^\n]+$"),
        ("[parent]\n[train]\nsteps = 1\nbatch_size = 1\n", r"r\.toml: parent\.path is missing$"),
    ],
)
def test_what_is_wrong_with_a_parent_is_all_that_is_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "r.toml").write_text(f'name = "r"\n{text}', encoding="utf-8")
    with pytest.raises(UserError, match=words) as refused:
        load_recipe(tmp_path / "r.toml", (), dimensions)
    assert "\n" not in str(refused.value)


def test_work_that_is_not_known_is_not_stated(base: Run, tmp_path: Path) -> None:
    run = trained(base, tmp_path / "run", lora={"rank": 2})
    assert "tokens_per_second" in (line := next(read_metrics(run.metrics))) and "mfu" not in line
    found = costs(run.read_recipe())
    assert "parameters" in found and not {"tokens", "flops_per_token", "total_flops"} & set(found)


def test_adapters_of_nothing_are_refused_before_data_are_prepared(base: Run) -> None:
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, lora={"targets": ["atention"]})
    with pytest.raises(UserError, match=r"lora.targets: this model has no 'atention' \(did you mean \"attention\"\?\)"):
        method_of(recipe)
