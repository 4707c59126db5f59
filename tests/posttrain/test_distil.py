"""Distillation from the command line, with tiny teachers and students."""

from __future__ import annotations

import json
import random
import shutil
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import save

from clearseek.cli import main
from clearseek.data.shards import prepare_data
from clearseek.files import append, sha256_file
from clearseek.posttrain import material, soft_labels, texts
from clearseek.posttrain.material import Exercises
from clearseek.posttrain.methods import method_of
from clearseek.recipe import parse_recipe
from clearseek.train.record import StepRecord
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.trainer import Trainer
from clearseek.train.transcript import last_line, read_header, read_lines
from tests.tiny import tiny

STEPS = 4


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder of two runs with one tokenizer: `big`, which has learnt something, and `small`."""
    folder = tmp_path_factory.mktemp("models")
    wide = {"hidden_size": 48, "num_hidden_layers": 3}
    train_recipe(tiny(model=wide, train={"steps": 16}), folder / "big", data)
    train_recipe(tiny(train={"steps": 2, "seed": 5}), folder / "small", data)
    return folder


def recipe(folder: Path, models: Path, corpus: Path, distil: dict[str, Any], **tables: dict[str, Any]) -> Path:
    """A recipe's file."""
    given: dict[str, dict[str, Any]] = {
        "parent": {"path": str(models / "small")},
        "data": {"sequence_length": 32} if "problems" in tables else {
            "source": "files", "paths": [str(corpus / "*.txt")], "sequence_length": 32, "licence": "CC0-1.0",
            "held_out_fraction": 0.2},
        "distil": {"teacher": str(models / "big")} | distil,
        "optimizer": {"learning_rate": 3e-3},
        "train": {"steps": STEPS, "batch_size": 8, "precision": "fp32", "checkpoint_every": 2, "hash_every": 1,
                  "threads": 1, "micro_batch_size": 4},
    }  # fmt: skip
    lines = ['name = "student"']
    for name, table in given.items():
        lines += [
            f"[{name}]",
            *(f"{key} = {json.dumps(value)}" for key, value in (table | tables.get(name, {})).items()),
        ]
    for name in tables.keys() - given.keys():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in tables[name].items())]
    file = folder / "distil.toml"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def losses(run: Path, name: str = "divergence") -> list[float]:
    return [line.record.scalars[name] for line in read_lines(run / "transcript.jsonl") if line.record is not None]


def lines_of(run: Path) -> list[str]:
    return (run / "transcript.jsonl").read_text(encoding="utf-8").splitlines()


FORMS: dict[str, dict[str, Any]] = {
    "logits": {},
    "top-k": {"top_k": 8, "temperature": 2.0, "hard": 0.3},
    "reverse": {"divergence": "reverse"},
    "jsd": {"divergence": "jsd", "beta": 0.1, "top_k": 20},
    "text": {"form": "text", "texts": 40, "max_tokens": 12, "prompt_tokens": 6},
    "adapters": {"form": "on-policy", "max_tokens": 8, "prompt_tokens": 6},
    "experts": {"top_k": 8},
    "on-policy": {"form": "on-policy", "max_tokens": 12, "prompt_tokens": 6, "divergence": "reverse"},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_student_learns(form: str, tmp_path: Path, models: Path, corpus: Path) -> None:
    tables = {"adapters": {"lora": {"rank": 4}}, "experts": {"experts": {"share": 0.5}}}.get(form, {})
    file, run = recipe(tmp_path, models, corpus, FORMS[form], **tables), tmp_path / "run"
    assert main(["train", str(file), "--run", str(run)]) == 0
    found = losses(run, "loss" if form == "text" else "divergence")
    assert len(found) == STEPS
    if form not in ("on-policy", "adapters", "experts"):  # steps of other texts, or of few weights, differ by more
        assert found[-1] < found[0]
    header = read_header(run / "transcript.jsonl")
    teacher = read_header(models / "big" / "transcript.jsonl")
    assert header["teacher"]["name"] == "tiny" and header["parent"]["name"] == "tiny"
    assert header["teacher"]["weights_sha256"] == last_line(models / "big" / "transcript.jsonl").record.weights_sha256
    assert header["teacher"]["tokenizer_sha256"] == header["parent"]["tokenizer_sha256"]
    assert header["data_fingerprint"] != teacher["data_fingerprint"]
    assert set(json.loads((run / "recipe.json").read_text())["distil"]) >= {"teacher", "form"}
    before, after = (last_line(each / "transcript.jsonl").record for each in (models / "small", run))
    assert before is not None and after is not None
    assert after.scalars["held_out_bpb"] < before.scalars["held_out_bpb"]


@pytest.mark.parametrize("template", ["plain", "chat"])
@pytest.mark.parametrize("form", ["text", "on-policy"])
def test_problems_are_answered(
    form: str, template: str, tmp_path: Path, models: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the teacher, or by the student with the teacher as its judge."""
    monkeypatch.setattr(material, "PROBLEMS", 8)
    settings = FORMS[form] | {"max_tokens": 6}
    file = recipe(
        tmp_path, models, corpus, settings, problems={"kind": "addition", "template": template},
        train={"mtp_loss_weight": 0.1, "balance_loss_weight": 0.001},
    )  # fmt: skip
    assert main(["train", str(file), "--run", str(tmp_path / "one")]) == 0
    last = last_line(tmp_path / "one" / "transcript.jsonl").record
    assert last is not None and {"held_out_pass_at_1", "mtp_loss"} <= last.scalars.keys()
    if form == "text":
        lines = (tmp_path / "one" / "teacher" / "texts.jsonl").read_text().splitlines()
        prompts = [json.loads(line)["prompt"] for line in lines]
        assert len(prompts) == 40 and len({json.dumps(prompt) for prompt in prompts}) > 30
        assert all(isinstance(prompt, list if template == "chat" else str) for prompt in prompts)


def rounds_of(run: Path) -> list[str]:
    """Hashes of the records of what a student wrote, which are those of the lines."""
    found = [sha256_file(path) for path in sorted(run.glob("rollouts/*"))]
    stated = [json.loads(line).get("rollouts_sha256") for line in (run / "transcript.jsonl").read_text().splitlines()]
    assert found == [each for each in stated if each]
    return found


class StoppedError(Exception):
    """What ends a run in a test."""


def stop_after(step: int, recipe_file: Path, run: Path) -> None:
    """Begin a run, and end it in a step as a kill would: nothing is saved."""
    from clearseek.posttrain.parent import dimensions
    from clearseek.recipe import load_recipe

    def stop(record: StepRecord) -> None:
        if record.step == step:
            raise StoppedError

    loaded = load_recipe(recipe_file, (), dimensions)
    with pytest.raises(StoppedError):
        train_recipe(loaded, run, on_step=stop, method=method_of(loaded))


@pytest.mark.parametrize("form", ["logits", "top-k", "text", "on-policy"])
def test_stopped_and_resumed_gives_the_same_bits(form: str, tmp_path: Path, models: Path, corpus: Path) -> None:
    file, whole, stopped = recipe(tmp_path, models, corpus, FORMS[form]), tmp_path / "whole", tmp_path / "stopped"
    assert main(["train", str(file), "--run", str(whole)]) == 0
    stop_after(3, file, stopped)
    assert main(["train", "--resume", str(stopped)]) == 0
    assert lines_of(stopped) == lines_of(whole)
    for name in ("teacher.json", "texts.jsonl", "teacher-00000.safetensors"):
        if (whole / "teacher" / name).exists():
            assert (stopped / "teacher" / name).read_bytes() == (whole / "teacher" / name).read_bytes()
    assert rounds_of(stopped) == rounds_of(whole) and bool(rounds_of(whole)) == (form == "on-policy")


@pytest.mark.parametrize("form", ["top-k", "text"])
def test_killed_while_the_teacher_answers(
    form: str, tmp_path: Path, models: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was killed then begins again, with what there is, and gives the same bits."""
    file, whole, killed = recipe(tmp_path, models, corpus, FORMS[form]), tmp_path / "whole", tmp_path / "killed"
    monkeypatch.setattr(texts, "_AT_ONCE", 16)
    monkeypatch.setattr(soft_labels, "SHARD_BYTES", 30_000)
    assert main(["train", str(file), "--run", str(whole)]) == 0
    written = []

    def append_twice(out: Any, data: bytes) -> None:
        written.append(data)
        if len(written) == 3:
            append(out, data[: len(data) // 2])
            raise StoppedError
        append(out, data)

    def save_twice(arrays: Any) -> bytes:
        written.append(b"")
        if len(written) == 3:
            raise StoppedError
        return save(arrays)

    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(texts, "append", append_twice)
        patch.setattr(soft_labels, "save", save_twice)
        main(["train", str(file), "--run", str(killed)])
    left = killed / "teacher" / ("texts.jsonl" if form == "text" else "teacher-00001.safetensors")
    before = left.read_bytes()
    assert main(["train", str(file), "--run", str(killed)]) == 0
    assert before and left.read_bytes().startswith(before[:200]) and lines_of(killed) == lines_of(whole)


def train_until_killed(arguments: list[str]) -> None:
    """In a process of its own."""
    assert main(["train", *arguments]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["top-k", "text", "on-policy"])
def test_killed_at_random_moments(
    form: str, tmp_path: Path, models: Path, corpus: Path, processes: ForkServerContext
) -> None:
    """SIGKILL while data are made, the teacher answers, the student writes or trains: the bits are the same."""
    file, whole, killed = recipe(tmp_path, models, corpus, FORMS[form]), tmp_path / "whole", tmp_path / "killed"
    assert main(["train", str(file), "--run", str(whole)]) == 0
    chance, kills = random.Random(0), 0
    for wait in (0.2, 0.6, 1.2, 1.8, 2.5, 3.5, 1000.0):  # the first comes before any run can end
        begun = Run(killed).begun
        arguments = ["--resume", str(killed)] if begun else [str(file), "--run", str(killed)]
        process = processes.Process(target=train_until_killed, args=(arguments,))
        process.start()
        process.join(wait + chance.uniform(0.0, 0.3))
        if process.is_alive():
            process.kill()
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    assert process.exitcode == 0 and kills
    assert lines_of(killed) == lines_of(whole)
    assert rounds_of(killed) == rounds_of(whole)


def test_other_questions_are_asked_anew(tmp_path: Path, models: Path, corpus: Path) -> None:
    """A run that was killed before its first step, and whose recipe was then changed, takes no old answer."""
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(Trainer, "__init__", stopping)
        main(["train", str(recipe(tmp_path, models, corpus, {"top_k": 4})), "--run", str(run)])
    assert json.loads((run / "teacher" / "teacher.json").read_text())["top_k"] == 4
    assert main(["train", str(recipe(tmp_path, models, corpus, {"top_k": 5})), "--run", str(run)]) == 0
    assert json.loads((run / "teacher" / "teacher.json").read_text())["top_k"] == 5


def stopping(*_: Any, **__: Any) -> None:
    raise StoppedError


def test_kept_answers_are_those_of_the_running_teacher(tmp_path: Path, models: Path, corpus: Path) -> None:
    """Kept soft labels give the same bits as a teacher that is run in every step."""
    from clearseek.posttrain.lessons import Logits
    from clearseek.posttrain.parent import dimensions
    from clearseek.posttrain.teacher import open_teacher
    from clearseek.recipe import load_recipe

    settings = {"top_k": 8, "temperature": 1.5}
    run = Run(tmp_path / "run")
    file = recipe(tmp_path, models, corpus, settings)
    assert main(["train", str(file), "--run", str(run.root)]) == 0
    made = load_recipe(file, (), dimensions)
    kept = method_of(made).task(made, run, run.data)
    assert isinstance(kept, Logits)
    student, _ = run.load_model()
    student.requires_grad_(True)
    teacher = open_teacher(made.distil, json.loads((run.parent / "parent.json").read_text())["tokenizer_sha256"], 300)
    live = Logits(made, kept.material, teacher, {})
    found = []
    for task in (kept, live):
        loss = task.loss(student, task.batch(3, student))
        found.append([loss.total, *torch.autograd.grad(loss.total, [student.head_weight])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_the_loss_is_the_formulas(kind: str, tmp_path: Path, models: Path, corpus: Path) -> None:
    """Of whole distributions by autograd: the divergence times temperature squared, the plain loss, MTP and balance."""
    settings = {"divergence": kind, "beta": 0.3, "temperature": 1.7, "hard": 0.25}
    weights = {"mtp_loss_weight": 0.2, "mtp_loss_weight_final": 0.2, "balance_loss_weight": 0.01}
    run, file = Run(tmp_path / "run"), recipe(tmp_path, models, corpus, settings, train=weights | {"steps": 1})
    assert main(["train", str(file), "--run", str(run.root)]) == 0
    task = method_of(run.read_recipe()).task(run.read_recipe(), run, run.data)
    student, teacher = Run(models / "small").load_model()[0].requires_grad_(True), Run(models / "big").load_model()[0]
    batch = task.batch(1, student)
    found = task.loss(student, batch)
    plain = student.loss(batch.tokens_BX, 0.01, 0.0)
    inputs_BS, targets_BS = batch.tokens_BX[:, :32], batch.tokens_BX[:, 1:33]
    q_TV, p_TV = (each.logits(inputs_BS).flatten(0, 1).double() for each in (student, teacher))
    nats = torch.nn.functional.cross_entropy(q_TV, targets_BS.flatten())
    q_TV, p_TV = (q_TV / 1.7).log_softmax(-1), (p_TV / 1.7).log_softmax(-1)
    if kind == "jsd":
        m_TV = (0.3 * p_TV.exp() + 0.7 * q_TV.exp()).log()
        each_TV = 0.3 * p_TV.exp() * (p_TV - m_TV) + 0.7 * q_TV.exp() * (q_TV - m_TV)
    else:
        each_TV = p_TV.exp() * (p_TV - q_TV) if kind == "forward" else q_TV.exp() * (q_TV - p_TV)
    divergence = each_TV.sum(-1).mean()
    bare, mtp = student.loss(batch.tokens_BX).total, student.loss(batch.tokens_BX, 0.0, 1.0).total
    total = 0.75 * 1.7**2 * divergence + 0.25 * nats + 0.2 * (mtp - bare) + (plain.total - bare)
    assert found.scalars["divergence"].item() == pytest.approx(divergence.item(), rel=1e-5)
    assert found.scalars["loss"].item() == pytest.approx(nats.item(), rel=1e-5)
    assert found.total.item() == pytest.approx(total.item(), rel=1e-5)
    assert torch.equal(found.load_LE, plain.load_LE)
    parameters = list(student.parameters())
    gradients = (torch.autograd.grad(each, parameters) for each in (found.total, total))
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-8


# --- What is refused --------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> str:
    assert main(["train", str(file), *arguments]) != 0
    return " ".join(capsys.readouterr().err.split())


def test_a_teacher_with_other_tokens(
    tmp_path: Path, models: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    data = {"paths": [str(corpus / "0*.txt")]}
    train_recipe(tiny(data=data, model={"vocab_size": 310}, train={"steps": 1}), other)
    file = recipe(tmp_path, models, corpus, {"teacher": str(other)})
    assert "the teacher's tokenizer.json has the SHA-256" in refused(capsys, file, "--run", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "transcript.jsonl").exists()


def test_a_teacher_with_another_head(
    tmp_path: Path, models: Path, corpus: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_recipe(tiny(model={"vocab_size": 320}, train={"steps": 1}), tmp_path / "other", data)
    file = recipe(tmp_path, models, corpus, {"teacher": str(tmp_path / "other")})
    assert "head has 320 rows" in refused(capsys, file, "--run", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"teacher": "nowhere"}, "nowhere: no such folder"),
        ({"teacher_sha256": "0" * 64}, "distil.teacher_sha256 is 0000"),
        ({"teacher": "http://127.0.0.1:1/v1"}, "an endpoint shows no distributions"),
        ({"form": "text"}, "needs texts"),
        ({"texts": 4}, "texts goes with"),
        ({"form": "text", "texts": 4, "top_k": 3}, "top_k compares distributions"),
        ({"form": "on-policy", "hard": 0.5}, "hard learns the data's tokens"),
        ({"form": "on-policy", "max_tokens": 30}, "more than data.sequence_length together"),
        ({"model_name": "x"}, "model_name goes with an endpoint"),
        ({"top_k": 301}, "distil.top_k is above model.vocab_size = 300"),
    ],
)
def test_recipes_that_are_refused(
    settings: dict[str, Any], told: str, tmp_path: Path, models: Path, corpus: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    message = refused(capsys, recipe(tmp_path, models, corpus, settings), "--run", str(tmp_path / "run"))
    assert told in message and "Traceback" not in message


def test_data_that_are_given(tmp_path: Path, models: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data of the parent's tokenizer and the recipe's text are taken, others are refused."""
    file = recipe(tmp_path, models, corpus, {})
    own, other = tmp_path / "own", tmp_path / "other"
    settings = {"paths": [str(corpus / "*.txt")], "tokenizer": str(models / "small" / "tokenizer.json")}
    prepare_data(tiny(data=settings).data, 300, own)
    assert main(["train", str(file), "--run", str(tmp_path / "one"), "--data", str(own)]) == 0
    assert main(["train", str(file), "--run", str(tmp_path / "two")]) == 0
    assert lines_of(tmp_path / "one") == lines_of(tmp_path / "two")
    prepare_data(tiny(data={"paths": [str(corpus / "*.txt")]}, model={"vocab_size": 290}).data, 290, other)
    message = refused(capsys, file, "--run", str(tmp_path / "three"), "--data", str(other))
    assert "made with another tokenizer than the parent's" in message
    narrow = recipe(tmp_path, models, corpus, {}, data={"paths": [str(corpus / "0*.txt")]})
    message = refused(capsys, narrow, "--run", str(tmp_path / "four"), "--data", str(own))
    assert "not the data of the recipe" in message


def test_problems_have_no_data(
    tmp_path: Path, models: Path, corpus: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = {"kind": "addition"}
    file = recipe(tmp_path, models, corpus, FORMS["on-policy"], problems=problems)
    assert "are made, not read" in refused(capsys, file, "--run", str(tmp_path / "run"), "--data", str(data))
    file = recipe(tmp_path, models, corpus, {}, problems=problems)
    assert "[problems] have no tokens" in refused(capsys, file, "--run", str(tmp_path / "run"))
    both = {"source": "files", "paths": ["x"]}
    file = recipe(tmp_path, models, corpus, FORMS["text"], problems=problems, data=both)
    assert "data.paths beside [problems]" in refused(capsys, file, "--run", str(tmp_path / "run"))


def test_a_teacher_that_changed(tmp_path: Path, models: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run goes on with the teacher that it began with, by name and by answers."""
    shutil.copytree(models / "big", tmp_path / "big")
    file = recipe(tmp_path, models, corpus, {"teacher": str(tmp_path / "big")})
    stop_after(3, file, tmp_path / "run")
    shutil.rmtree(tmp_path / "big")
    shutil.copytree(models / "small", tmp_path / "big")
    assert main(["train", "--resume", str(tmp_path / "run")]) != 0
    assert "not the teacher that the run began with" in capsys.readouterr().err
    kept = recipe(tmp_path, models, corpus, {"top_k": 4})
    stop_after(3, kept, tmp_path / "kept")
    labels = tmp_path / "kept" / "teacher" / "teacher-00000.safetensors"
    content = bytearray(labels.read_bytes())
    content[-1] ^= 1
    labels.write_bytes(content)
    assert main(["train", "--resume", str(tmp_path / "kept")]) != 0
    assert "teacher-00000.safetensors: changed file" in capsys.readouterr().err


def test_only_right_answers_are_learnt_one_of_each_problem(models: Path, tmp_path: Path) -> None:
    problems = {"kind": "addition", "digits": 1, "held_out_fraction": 0.5, "template": "r1-zero"}
    raw = tiny().model_dump(mode="json")
    raw |= {"parent": {"path": "x"}, "problems": problems, "data": {"sequence_length": 32}}
    raw |= {"distil": {"teacher": "x", "form": "text", "texts": 9, "correct": True}}
    exercises = Exercises(parse_recipe(raw, "student.toml"), models / "small")
    answers = [int(exercises.questions.problems.train(number).answer) for number in range(200)]

    def line(number: int, text: str, ended: bool = True) -> dict[str, Any]:
        return {"number": number, "prompt": "", "text": f"<answer> {text} </answer>", "ended": ended}

    assert exercises.solved([line(number, str(answer + 1)) for number, answer in enumerate(answers)]) == []
    assert exercises.solved([line(0, f"0{answers[0]}"), line(1, str(answers[1]), ended=False)]) == []
    right = [line(number, str(answer)) for number, answer in enumerate(answers)]
    kept, prompts = exercises.solved(right), {exercises.questions.problems.train(n).prompt for n in range(200)}
    assert len(kept) == len(prompts) < 100 and kept[0] == right[0]
    assert exercises.solved([line(0, "x"), right[0], right[0]]) == [right[0]]


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        ({"form": "text", "texts": 5}, r"distil.correct needs [problems]: only their answers can be checked"),
        ({"form": "on-policy"}, 'correct goes with form = "text", not "on-policy"'),
    ],
)
def test_right_answers_need_problems_and_texts(
    distil: dict[str, Any], message: str, tmp_path: Path, models: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = recipe(tmp_path, models, corpus, distil | {"correct": True})
    assert main(["train", str(file), "--run", str(tmp_path / "run")]) == 2
    assert message in capfd.readouterr().err


def test_a_teacher_that_answers_nothing_right_is_named(
    tmp_path: Path, models: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    distil = {"form": "text", "texts": 5, "max_tokens": 4, "correct": True}
    file = recipe(tmp_path, models, corpus, distil, problems={"kind": "addition"})
    assert main(["train", str(file), "--run", str(tmp_path / "run")]) == 2
    assert (
        "texts.jsonl: none of 5 texts solves its problem: ask a better teacher, or for more" in capfd.readouterr().err
    )
