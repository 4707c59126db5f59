"""Supervised fine-tuning from the command line to a model that chats; its loss beside transformers'."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clearseek.chat.render import render
from clearseek.cli import main
from clearseek.cli.serve import chats
from clearseek.config import ProblemsConfig
from clearseek.data.decode import check_documents
from clearseek.data.loader import LEARNT, PADDING
from clearseek.data.manifest import read_manifest
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.hub.write import export_hf
from clearseek.model.transformer import DeepSeekModel
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.parent import dimensions
from clearseek.posttrain.sft import FineTuning
from clearseek.problems.problems import Problems
from clearseek.recipe import load_recipe
from clearseek.train.checkpoints import checkpoint
from clearseek.train.run import Run, model_of
from clearseek.train.session import train_recipe
from clearseek.train.task import Batch
from clearseek.train.transcript import check_transcript
from tests.posttrain.conftest import RECIPE, questions, write_lines
from tests.posttrain.killed import train_until


@pytest.fixture(scope="module")
def tuned(recipe_file: Path) -> Run:
    """The recipe's run, trained through the command line; leave it as it is."""
    folder = recipe_file.parent / "runs" / "sft"
    assert main(["train", str(recipe_file), "--run", str(folder), "--json"]) == 0
    return Run(folder)


def test_a_run_learns_answers_and_says_what_it_measured(tuned: Run, parent: Run) -> None:
    transcript = check_transcript(tuned.transcript)
    steps, header = transcript.steps, transcript.header
    assert header["task"] == "sft" and header["parent"]["name"] == "tiny"
    assert header["data_fingerprint"] == read_manifest(tuned.data).fingerprint
    before = steps[0].scalars["held_out_nats_before"]
    assert [step.step for step in steps if "held_out_nats" in step.scalars] == [4, 8]
    assert steps[-1].scalars["held_out_nats"] < 0.95 * before
    assert steps[-1].tokens < 8 * 4 * 63, "only learnt tokens are counted"
    assert tuned.tokenizer.read_bytes() == parent.tokenizer.read_bytes()
    assert (tuned.pictures / "experts.png").is_file()


def test_the_json_of_a_run_has_what_was_measured(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe_file), "--run", str(tmp_path / "run"), "--json", "--set", "train.steps=2"]) == 0
    said = capsys.readouterr()
    ended = json.loads(said.out)
    assert ended["finished"] and 0 < ended["held_out_nats"] < 9 and "held_out_bpb" not in ended
    assert "conversations in" in said.err and "padding" in said.err and "are learnt" in said.err
    assert "held-out before" in said.err and "nats/token" in said.err


def test_what_comes_out_chats(tuned: Run, parent: Run, tmp_path: Path) -> None:
    assert chats(tuned.root) and not chats(parent.root)
    for run, answer in ((tuned, True), (parent, False)):
        out = tmp_path / run.root.name
        assert main(["export", str(run.root), str(out), "--dtype", "fp32"]) == 0
        assert chats(out) == answer
        assert ("conversational" in (out / "README.md").read_text(encoding="utf-8")) == answer


def test_a_release_is_tagged_too(tuned: Run, tmp_path: Path) -> None:
    assert main(["release", str(tuned.root), str(tmp_path / "Tuned"), "--key", str(tmp_path / "k"), "--make-key"]) == 0
    card = (tmp_path / "Tuned" / "README.md").read_text(encoding="utf-8")
    assert "- conversational" in card and "nats per token of answers" in card
    assert chats(tmp_path / "Tuned")


def test_data_can_be_prepared_before(
    recipe_file: Path, tuned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", str(recipe_file), "--out", str(tmp_path / "packs")]) == 0
    said = capsys.readouterr().out
    assert "100 conversations in" in said and "padding" in said and "120 documents MIT" in said
    assert main(["data", str(recipe_file), "--out", str(tmp_path / "packs"), "--json"]) == 0  # again
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["fingerprint"] == read_manifest(tuned.data).fingerprint
    run = str(tmp_path / "run")
    assert main(["train", str(recipe_file), "--run", run, "--data", str(tmp_path / "packs"), "--json"]) == 0
    assert (tmp_path / "run/transcript.jsonl").read_bytes() == tuned.transcript.read_bytes()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("sft.thinking=true", r"packs: not the data of the recipe: \[sft\]"),
        ("data.held_out_fraction=0.3", r"packs: not the data of the recipe: data\.held_out_fraction = 0\.3"),
        ("data.sequence_length=40", "packs: not the data of the recipe: data.sequence_length = 40"),
    ],
)
def test_other_data_than_the_recipes_are_refused(
    recipe_file: Path, tuned: Run, tmp_path: Path, override: str, problem: str
) -> None:
    (tmp_path / "packs").symlink_to(tuned.data)
    recipe = load_recipe(recipe_file, [override], dimensions)
    with pytest.raises(UserError, match=problem):
        train_recipe(recipe, tmp_path / "run", tmp_path / "packs", method=method_of(recipe))


def test_a_stream_and_another_tokenizer_are_refused(recipe_file: Path, parent: Run, tmp_path: Path, tuned: Run) -> None:
    recipe = load_recipe(recipe_file, (), dimensions)
    with pytest.raises(UserError, match="a stream of documents"):
        train_recipe(recipe, tmp_path / "run", parent.data, method=method_of(recipe))
    manifest = json.loads((tuned.data / "manifest.json").read_bytes()) | {"tokenizer_sha256": "0" * 64}
    (tmp_path / "packs").mkdir()
    (tmp_path / "packs/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="another tokenizer than the parent's"):
        train_recipe(recipe, tmp_path / "run2", tmp_path / "packs", method=method_of(recipe))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("strip = '<<[^>]*>>'", "strip = '<<('"), "not a regular expression"),
        (('licence = "MIT"', 'licence = "MIT"\ntokenizer = "t.json"'), "the tokenizer is the parent's"),
        (('licence = "MIT"', 'licence = "MIT"\ntext_field = "text2"'), "data.text_field is for pre-training"),
        (('answer = "answer"', ""), "prompt and answer go together"),
        (("[train]", "[model]\nvocab_size = 300\n[train]"), "[model] beside [parent]"),
        (('source = "jsonl"', 'source = "csv"'), '[sft] reads data.source = "jsonl"'),
    ],
)
def test_recipes_that_contradict_themselves(
    parent: Run, tmp_path: Path, change: tuple[str, str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = RECIPE.format(parent=parent.root, lines="a.jsonl")
    assert change[0] in text
    (tmp_path / "sft.toml").write_text(text.replace(*change), encoding="utf-8")
    assert main(["train", str(tmp_path / "sft.toml"), "--run", str(tmp_path / "run")]) == 2
    assert problem in capsys.readouterr().err


def test_a_conversation_that_is_too_long_is_named(
    parent: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = write_lines(tmp_path / "a.jsonl", [*questions(20), {"question": "x" * 70, "answer": "<<>>y"}])
    (tmp_path / "sft.toml").write_text(RECIPE.format(parent=parent.root, lines=lines), encoding="utf-8")
    assert main(["train", str(tmp_path / "sft.toml"), "--run", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "a.jsonl:21: 7" in said and 'sft.too_long = "skip" or "crop"' in said


def test_a_dry_run_has_the_parents_costs(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe_file), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["sft"]["prompt"] == "question" and found["recipe"]["model"]["vocab_size"] == 300
    assert found["parameters"]["total"] > 0 and "tokens" not in found  # which depend on the packs


# The loss


def beginning(run: Run, parent: Run) -> tuple[FineTuning, DeepSeekModel]:
    """The run's task, and a model of its parent's weights."""
    recipe = run.read_recipe()
    saved = checkpoint.load(checkpoint.find(run.parent, 0), checkpoint.MODEL)
    return FineTuning(recipe, run.data), model_of(recipe, saved.tensors, torch.float32)


def conversations(task: FineTuning, batch: Batch) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and weights of each conversation of a batch by itself."""
    rows = task.packs.rows(task.packs.windows(batch.step - 1))
    found = []
    for tokens, weights, starts, mask in zip(
        batch.tokens_BX, batch.weight_BX, rows.start_BX, rows.mask_BX, strict=True
    ):
        for first in np.unique(starts).tolist():
            here = starts == first
            if mask[first] <= LEARNT:
                found.append((tokens[here], weights[here]))
    return found


def test_weights_are_a_share_of_what_the_whole_step_learns(tuned: Run, parent: Run) -> None:
    task, model = beginning(tuned, parent)
    batch = task.batch(2, model)
    assert batch.weight_BX.sum().item() == pytest.approx(1) and batch.weight_BX[:, 0].sum() == 0
    assert len(batch.weight_BX[batch.weight_BX > 0].unique()) == 1
    assert batch.counted == int((batch.weight_BX > 0).sum())
    assert len(task.contents(2)) == len(conversations(task, batch)) > 4
    tokenizer = Tokenizer.load(tuned.tokenizer)
    lines = {f"sums.jsonl:{number}": line for number, line in enumerate(questions(120), 1)}
    for name, (tokens, weights) in zip(task.contents(2), conversations(task, batch), strict=True):
        line = lines[Path(name).name]
        messages = [{"role": "user", "content": line["question"]}]
        messages += [{"role": "assistant", "content": line["answer"].removeprefix("<<sum>>")}]
        expected = render(tokenizer, messages, prompt=False)
        assert tokens.tolist() == expected.ids and (weights > 0).tolist() == expected.written


@pytest.mark.parametrize("mtp", [0.0, 0.3])
def test_packed_equals_separate(tuned: Run, parent: Run, mtp: float) -> None:
    task, model = beginning(tuned, parent)
    batch = task.batch(3, model)
    model.requires_grad_(True)

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))

    packed = model.loss(batch.tokens_BX, 0.0, mtp, batch.weight_BX, batch.start_BX, None, batch.valid_BX).total
    alone = torch.zeros(())
    for tokens, weights in conversations(task, batch):
        ends = torch.tensor([tokens[-1], tokens[-1]])  # look-ahead without weight
        both = torch.cat([tokens, ends]).unsqueeze(0), torch.cat([weights, torch.zeros(2)]).unsqueeze(0)
        alone = alone + model.loss(both[0], 0.0, mtp, both[1]).total
    assert packed.item() == pytest.approx(alone.item(), rel=1e-5)
    for ours, theirs in zip(gradients(packed), gradients(alone), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * max(1.0, theirs.abs().max().item())


def test_experts_are_balanced_by_all_tokens_but_padding(tuned: Run, parent: Run) -> None:
    """Prompts count as answers do; loads are those of each conversation by itself."""
    task, model = beginning(tuned, parent)
    batch, length = task.batch(2, model), task.recipe.data.sequence_length
    rows = task.packs.rows(task.packs.windows(1))
    expected_LE = torch.zeros(1, 8, dtype=torch.int64)
    for tokens, starts, mask in zip(batch.tokens_BX, rows.start_BX, rows.mask_BX, strict=True):
        for first in np.unique(starts).tolist():
            here = tokens[:length][starts[:length] == first]
            if len(here) and mask[first] <= LEARNT:
                states = model.states(torch.cat([here, here[-1:]]).unsqueeze(0), False)
                expected_LE += torch.stack([each.index_TK.flatten().bincount(minlength=8) for each in states.routings])
    with torch.no_grad():
        found_LE = torch.stack([task.loss(model, micro).load_LE for micro in batch.split(2)]).sum(0)
    assert (rows.mask_BX == PADDING).any() and torch.equal(found_LE[:1], expected_LE)


def test_another_conversation_in_the_row_has_no_influence_at_all(tuned: Run, parent: Run) -> None:
    task, model = beginning(tuned, parent)
    batch = task.batch(1, model)
    starts = batch.start_BX
    assert starts is not None
    first = int(starts[0][starts[0] > 0].min())  # where the row's second conversation begins
    weight = batch.weight_BX.clone()
    weight[:, :first] = 0
    weight[1:] = 0
    assert weight.sum() > 0
    other = batch.tokens_BX.clone()
    other[0, :first] = (other[0, :first] + 7) % 300
    with torch.no_grad():
        losses = [model.loss(tokens, weight_BX=weight, start_BX=starts).main for tokens in (batch.tokens_BX, other)]
    assert losses[0].item() == losses[1].item() > 0


def test_the_loss_is_transformers(tuned: Run, parent: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    task, model = beginning(tuned, parent)
    export_hf(model.state_dict(), model.config, tuned.tokenizer, tmp_path / "model", torch.float32)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()

    def nats(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, int]:
        """Summed cross-entropy of what is learnt, each conversation by itself with masked labels, and its tokens."""
        total, count = 0.0, 0
        for tokens, weights in pairs:
            with torch.no_grad():
                logits = theirs(tokens.unsqueeze(0)).logits[0]
            labels = torch.where(weights > 0, tokens, torch.tensor(-100))[1:]
            total += F.cross_entropy(logits[:-1].float(), labels, reduction="sum").item()
            count += int((labels >= 0).sum())
        return total, count

    batch = task.batch(2, model)
    with torch.no_grad():
        micros = [task.loss(model, micro) for micro in batch.split(2)]
    total, count = nats(conversations(task, batch))
    assert count == batch.counted
    assert sum(each.scalars["loss"].item() for each in micros) == pytest.approx(total / count, rel=1e-5)
    assert task.held_out is not None
    rows = task.held_out.rows(np.arange(task.held_out.windows_per_epoch))
    pairs = [
        (torch.from_numpy(tokens[starts == first]), torch.from_numpy(mask[starts == first] == LEARNT).float())
        for tokens, mask, starts in zip(*rows, strict=True)
        for first in np.unique(starts).tolist()
        if mask[first] <= LEARNT
    ]
    assert len(pairs) == task.packs.manifest.heldout.documents
    total, count = nats(pairs)
    measured = check_transcript(tuned.transcript).steps[0].scalars["held_out_nats_before"]
    assert measured == pytest.approx(total / count, rel=1e-5)


def test_a_sample_of_held_out_rows_is_spread(tuned: Run, parent: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step measures all of them."""
    task, model = beginning(tuned, parent)
    assert task.held_out is not None
    rows, taken = task.held_out.windows_per_epoch, list[list[int]]()

    def nats(self: FineTuning, model: DeepSeekModel, rows: list[int] | range, progress: object) -> float:
        taken.append(list(rows))
        return 1.0

    monkeypatch.setattr(FineTuning, "_nats", nats)
    assert [bool(task.evaluate(model, step)) for step in range(1, 9)] == [False] * 3 + [True] + [False] * 3 + [True]
    assert taken == [[0, rows - 1], list(range(rows))] and rows > 3


# Bits


def steps_done(folder: Path) -> int:
    file = folder / "transcript.jsonl"
    return file.read_bytes().count(b"\n") - 1 if file.exists() else -1


def wait_for(process: BaseProcess, event: Callable[[], bool]) -> None:
    while not event():
        assert process.is_alive(), "the run was over before it could be killed"
        time.sleep(0.002)


def test_killed_and_resumed_it_ends_in_the_same_bits(
    recipe_file: Path, tuned: Run, tmp_path: Path, processes: ForkServerContext
) -> None:
    folder = tmp_path / "runs" / "killed"
    for last in (1, 6):
        process = processes.Process(target=train_until, args=(str(recipe_file), str(folder), last))
        process.start()
        wait_for(process, lambda last=last: steps_done(folder) >= last)  # type: ignore[misc]
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert main(["train", "--resume", str(folder), "--json"]) == 0
    assert (folder / "transcript.jsonl").read_bytes() == tuned.transcript.read_bytes()


def test_a_finished_run_is_trained_for_longer(tuned: Run, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    assert main(["train", "--resume", str(tuned.root), "--more-steps", "2", "--run", str(longer), "--json"]) == 0
    steps = check_transcript(longer / "transcript.jsonl").steps
    assert [step.step for step in steps] == [9, 10] and "held_out_nats" in steps[-1].scalars


@pytest.mark.parametrize("template", ["plain", "chat"])
def test_demonstrations_of_problems_are_learnt(parent: Run, tmp_path: Path, template: str) -> None:
    (tmp_path / "sft.toml").write_text(
        f'name = "start"\n[parent]\npath = "{parent.root}"\n[problems]\nkind = "addition"\ntemplate = "{template}"\n'
        "[sft]\ndemonstrations = 150\n[data]\nsequence_length = 63\nheld_out_fraction = 0.1\n"
        '[train]\nsteps = 2\nbatch_size = 2\nprecision = "fp32"\nkernels = "torch"\nthreads = 1\n'
    )
    run = Run(tmp_path / "run")
    assert main(["train", str(tmp_path / "sft.toml"), "--run", str(run.root), "--json"]) == 0
    manifest = read_manifest(run.data)
    assert manifest.train.documents + manifest.heldout.documents == 150 and manifest.duplicates == 0
    assert manifest.source == "addition" and manifest.licences == {"Apache-2.0": 150}
    assert check_documents(run.data) == 150 and chats(run.root) == (template == "chat")
    tokenizer, problems = Tokenizer.load(run.tokenizer), Problems(ProblemsConfig(kind="addition"))
    task, model = beginning(run, parent)
    for name, (tokens, weights) in zip(task.contents(1), conversations(task, task.batch(1, model)), strict=True):
        problem = problems.train(int(name.partition(":")[2]))
        assert not problems.is_held_out(problem)
        assert tokenizer.decode(tokens[weights > 0].tolist(), skip_control=True) == problem.solution


def test_a_parent_with_another_tokenizer_is_refused(parent: Run, recipe_file: Path, tmp_path: Path) -> None:
    shutil.copytree(parent.root, tmp_path / "base")
    raw = json.loads(parent.tokenizer.read_bytes())
    words = raw["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    Run(tmp_path / "base").tokenizer.write_text(json.dumps(raw), encoding="utf-8")
    recipe = load_recipe(recipe_file, [f"parent.path={tmp_path / 'base'}"], dimensions)
    with pytest.raises(UserError, match=r"base/tokenizer\.json: its SHA-256 is \w+, and the model was trained with "):
        train_recipe(recipe, tmp_path / "run", method=method_of(recipe))


def test_killed_while_data_are_prepared_it_begins_again(recipe_file: Path, tuned: Run, tmp_path: Path) -> None:
    class KilledError(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise KilledError

    recipe = load_recipe(recipe_file, (), dimensions)
    with pytest.raises(KilledError):
        train_recipe(recipe, tmp_path / "run", on_data=kill, method=method_of(recipe))
    assert main(["train", str(recipe_file), "--run", str(tmp_path / "run"), "--json"]) == 0
    assert (tmp_path / "run/transcript.jsonl").read_bytes() == tuned.transcript.read_bytes()
