"""Children's releases: replayed to the bit, their completions checked draw by draw, and every forgery found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clearseek.audit.evidence import Grade, Row
from clearseek.files import sha256_file
from clearseek.posttrain.methods import method_of
from clearseek.posttrain.rollouts import Rollouts, Writer, round_file, seed_of
from clearseek.problems.questions import Questions
from clearseek.release.make import make_release
from clearseek.signing.manifest import MANIFEST, build
from clearseek.train.chunks import hash_tensors
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.transcript import canonical
from clearseek.verify import replay as replays
from clearseek.verify.forced import check_draws
from clearseek.verify.replay import Replay, open_release
from clearseek.verify.rollouts import rollouts_row
from clearseek.verify.run import verify_release
from tests.posttrain.tiny import child, easy, parent
from tests.releases import compared
from tests.verify.test_parts import joined, spoken

pytest.importorskip("cryptography", reason="signing needs the extra `release`")
GRPO: dict[str, Any] = {"completions": 2, "max_tokens": 6, "evaluate_problems": 8}


@pytest.fixture(scope="module", autouse=True)
def rewarded() -> Iterator[None]:
    """Rewards that untrained models earn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Questions, "score", easy)
        yield


def released(folder: Path, name: str, options: dict[str, Any] | None = None, **tables: Any) -> Path:
    base = Run(folder / "base") if (folder / "base").is_dir() else parent(folder / "base")
    recipe, run = child(base, **tables), Run(folder / f"{name}-run")
    train_recipe(recipe, run, method=method_of(recipe))
    make_release(run, folder / name, **(options or {}))
    return folder / name


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, two with each round's completions; checkpoints in the middle of a round, too."""
    folder = tmp_path_factory.mktemp("policy")
    return released(
        folder, "Policy", grpo=GRPO | {"updates": 2}, problems={"kind": "addition"},
        train={"steps": 4, "checkpoint_every": 1},
    )  # fmt: skip


@pytest.fixture
def release(policy: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(policy, tmp_path / "Policy"))


def rows(release: Path, *levels: int, **options: Any) -> dict[str, Row]:
    return {row.id: row for row in verify_release(release, levels=levels, nonce="n", **options)}


def answers(found: dict[str, Row]) -> dict[str, str]:
    return {row.id: row.answer for row in found.values() if row.id.startswith("verify.")}


# -- honest releases --------------------------------------------------------------------------------------------------


def test_policy_optimisation_is_made_again_to_the_bit(policy: Path) -> None:
    found = rows(policy, 0, 1, 2, 3, 4, 6)
    assert answers(found) == dict.fromkeys(
        ["verify.files", "verify.static", "verify.complete", "verify.final", "verify.logits", "verify.evaluation",
         "verify.data", "verify.data_rebuilt", "verify.rollouts", "verify.code", "verify.steps.1-1",
         "verify.steps.2-2", "verify.steps.3-3", "verify.steps.4-4"], "yes") | {"verify.parent": "unknown"}  # fmt: skip
    assert found["verify.rollouts"].grade == found["verify.steps.2-2"].grade == Grade.REEXECUTED
    assert (
        "the draws of 2 of them" in found["verify.rollouts"].reason and "0 undecided" in found["verify.rollouts"].reason
    )
    assert "which are here and have that hash" in found["verify.parent"].reason
    assert {id: (found[id].answer, found[id].grade) for id in ("lineage.parent", "data.completions")} == {
        "lineage.parent": ("yes", Grade.CHECKED),
        "data.completions": ("yes", Grade.CHECKED),
    }


def in_parts(release: Path, folder: Path, count: int, **options: Any) -> dict[str, str]:
    """Answers of the parts of level 6, joined."""
    result = joined(release, folder, spoken(release, count, **options)).result
    groups = {"yes": result.passed, "no": result.failed, "unknown": result.undecided}
    return {id: answer for answer, ids in groups.items() for id in ids}


def test_policy_optimisation_is_made_again_in_parts(policy: Path, tmp_path: Path) -> None:
    assert in_parts(policy, tmp_path, 3) == answers(rows(policy, 0, 6))


def test_every_row_of_the_definition_but_the_weights_licence_is_cross_checked(policy: Path) -> None:
    audit = compared(policy)
    below = {row.id: row.answer for row in audit.of("definition") if (row.answer, row.grade) != ("yes", Grade.CHECKED)}
    assert below.keys() == {"licence.weights"}, "no record says under which licence the parent is"


def test_fine_tuning_is_made_again_to_the_bit(tmp_path: Path) -> None:
    out = released(
        tmp_path, "Chatty", sft={"demonstrations": 20}, problems={"kind": "addition", "template": "chat"},
        data={"sequence_length": 60, "held_out_fraction": 0.2}, train={"steps": 3},
    )  # fmt: skip
    found = rows(out, 0, 1, 2, 3, 4, 6)
    assert {id for id, answer in answers(found).items() if answer != "yes"} == {"verify.parent"}
    assert "verify.documents" in found and "verify.rollouts" not in found
    assert in_parts(out, tmp_path, 2) == {id: answer for id, answer in answers(found).items() if id in rows(out, 0, 6)}
    assert found["data.training"].grade == Grade.CHECKED
    assert "conversational" in (out / "README.md").read_text()


def test_filters_and_narrow_types_are_checked_too(tmp_path: Path) -> None:
    out = released(
        tmp_path, "Narrow", grpo=GRPO | {"top_p": 0.8, "temperature": 1.3}, problems={"kind": "addition"},
        train={"steps": 2, "precision": "bf16"},
    )  # fmt: skip
    assert rows(out, 4)["verify.rollouts"].answer == "yes"


@pytest.mark.parametrize("form", ["logits", "text", "on-policy"])
def test_distillation_is_made_again_with_what_its_teacher_said(tmp_path: Path, corpus: Path, form: str) -> None:
    base = parent(tmp_path / "base")
    data = {"source": "files", "paths": [str(corpus / "*.txt")], "held_out_fraction": 0.2, "licence": "CC0-1.0",
            "sequence_length": 32}  # fmt: skip
    teacher = {"teacher": str(base.root), "form": form, "max_tokens": 4}
    teacher |= {"top_k": 4} if form == "logits" else {"texts": 12} if form == "text" else {}
    out = released(tmp_path, "Student", distil=teacher, data=data, train={"steps": 2})
    found = rows(out, 0, 1, 2, 3, 4, 6)
    undecided = {id for id, answer in answers(found).items() if answer == "unknown"}
    assert undecided == {"verify.parent", "verify.data_rebuilt"} | (
        {"verify.steps.1-2"} if form == "on-policy" else set()
    )
    assert not [id for id, answer in answers(found).items() if answer not in ("yes", "unknown")]
    again = rows(out, 4, 6, read_sources=True)
    assert again["verify.data_rebuilt"].answer == again["verify.steps.1-2"].answer == "yes"
    if form == "on-policy":
        assert found["data.completions"].answer == found["verify.rollouts"].answer == "yes"
    if form == "logits":
        labels = next(path for path in (out / "training/teacher").iterdir() if path.suffix != ".json")
        labels.write_bytes(labels.read_bytes()[:-1] + bytes([labels.read_bytes()[-1] ^ 1]))
        assert rows(out, 4)["verify.data"].answer == "no"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on what the student wrote."""
    folder = tmp_path_factory.mktemp("student")
    teacher = parent(folder / "teacher", initializer_range=0.2)
    return released(
        folder, "Student", distil={"teacher": str(teacher.root), "form": "on-policy", "max_tokens": 6},
        problems={"kind": "addition"}, train={"steps": 2, "checkpoint_every": 1},
    )  # fmt: skip


def test_a_student_is_made_again_in_parts(student: Path, tmp_path: Path) -> None:
    assert in_parts(student, tmp_path, 3, read_sources=True) == answers(rows(student, 0, 6, read_sources=True))
    found = in_parts(student, tmp_path, 2)
    assert found["verify.steps.1-1"] == "unknown", "the teacher is elsewhere"
    assert found["verify.rollouts"] == "yes"


def test_what_a_student_wrote_is_checked_without_its_teacher(student: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(student, tmp_path / "Student"))
    teacher = student.parent / "teacher"
    moved = teacher.rename(student.parent / "elsewhere")
    try:
        found = rows(release, 1, 4, 6, read_sources=True)
    finally:
        moved.rename(teacher)
    assert found["verify.rollouts"].answer == found["data.completions"].answer == "yes"
    assert (
        "of 2 rounds 2 are here" in found["verify.rollouts"].reason and "rewards" not in found["verify.rollouts"].reason
    )
    assert "the draws of 2 of them" in found["verify.rollouts"].reason
    assert found["verify.steps.1-1"].answer == "unknown" and str(teacher) in found["verify.steps.1-1"].reason
    forge(release, lambda rollouts: rollouts.reward_N.fill_(1), 1)
    assert "round 1: completion 0 earns 0" in rows(release, 4)["verify.rollouts"].reason
    forge(release, lambda rollouts: rollouts.reward_N.fill_(0), 1)
    forge(release, other_token, 1)
    found = rows(release, 4)
    assert found["verify.files"].answer == "yes" and found["verify.rollouts"].answer == "no"


def test_elsewhere_a_student_learns_from_its_published_texts(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    found = rows(student, 6, read_sources=True)
    assert {id: row.answer for id, row in found.items() if id.startswith("verify.drift")} == {
        "verify.drift.1-1": "yes", "verify.drift.2-2": "yes",
    }  # fmt: skip


NARROW: dict[str, Any] = {"train": {"precision": "bf16"}, "lora": {"rank": 2}}
EXPERTS: dict[str, Any] = {"experts": {"share": 0.3, "batches": 2}}


@pytest.mark.parametrize("tables", [{"lora": {"rank": 2}}, NARROW, EXPERTS])
def test_adapters_write_and_are_checked_folded_in(tmp_path: Path, tables: dict[str, Any]) -> None:
    """So is a model of which some experts are trained; what measures their use writes no rounds of the run."""
    tables = {"optimizer": {"learning_rate": 0.05}, "train": {}} | tables
    tables["train"] = {"steps": 3, "checkpoint_every": 1} | tables["train"]
    out = released(tmp_path, "Adapted", grpo=GRPO, problems={"kind": "addition"}, **tables)
    found = rows(out, 2, 4, 6)
    assert {id for id, answer in answers(found).items() if answer != "yes"} == {"verify.parent"}


@pytest.mark.parametrize(
    "tables", [{"lora": {"rank": 2}}, {"lora": {"rank": 2, "targets": ["experts"]}}, {"experts": {"batches": 1}}]
)
def test_what_is_frozen_refutes_no_order_of_checkpoints(tmp_path: Path, tables: dict[str, Any]) -> None:
    out = released(
        tmp_path, "Part", sft={"demonstrations": 600}, problems={"kind": "addition"},
        train={"steps": 6, "checkpoint_every": 2, "batch_size": 2}, **tables,
    )  # fmt: skip
    found = rows(out, 0, 1)
    assert found["weights.trajectory"].answer == "yes"
    assert found["weights.order"].answer == (
        "yes" if "targets" not in tables.get("lora", {"targets": ()}) else "unknown"
    )
    assert found["verify.static"].answer == "yes", found["verify.static"].reason


def test_models_without_experts_and_of_v2_s_router_are_checked(tmp_path: Path) -> None:
    v2 = {"scoring_func": "softmax", "topk_method": "greedy", "num_nextn_predict_layers": 0}
    for name, changes in (("dense", {"first_k_dense_replace": 2, "num_nextn_predict_layers": 0}), ("v2", v2)):
        folder = tmp_path / name
        folder.mkdir()
        parent(folder / "base", **changes)
        out = released(folder, "Model", grpo=GRPO, problems={"kind": "addition"}, train={"steps": 2})
        assert rows(out, 4)["verify.rollouts"].answer == "yes", name


def test_weights_that_are_only_named_are_taken_from_where_they_are(tmp_path: Path) -> None:
    out = released(
        tmp_path, "Named", {"with_parent": False}, grpo=GRPO, problems={"kind": "addition"}, train={"steps": 2}
    )
    assert not (out / "training/parent/step-00000000").exists()
    found = rows(out, 4, 6)
    assert found["verify.parent"].grade == Grade.CLAIMED and "which are not here" in found["verify.parent"].reason
    assert found["verify.steps.1-2"].answer == "unknown" and "--parent" in found["verify.steps.1-2"].reason
    assert found["verify.rollouts"].answer == "unknown"
    found = rows(out, 4, 6, parent=tmp_path / "base")
    assert found["verify.steps.1-2"].answer == found["verify.rollouts"].answer == "yes"
    other = rows(out, 6, parent=parent(tmp_path / "other", initializer_range=0.2).root)
    assert other["verify.steps.1-2"].answer == "unknown" and "give its parent" in other["verify.steps.1-2"].reason


def test_completions_that_were_not_kept_are_written_again_where_that_is_possible(tmp_path: Path) -> None:
    out = released(
        tmp_path, "Lost", grpo=GRPO | {"updates": 2, "keep_rollouts": False}, problems={"kind": "addition"},
        train={"steps": 3, "checkpoint_every": 1},
    )  # fmt: skip
    (out / "training/rollouts/round-00000000.safetensors").unlink()  # people were shown it, so it was there
    (out / MANIFEST).write_bytes(build(out).to_bytes())
    found = rows(out, 4, 6)
    assert found["verify.steps.1-1"].answer == found["verify.steps.3-3"].answer == "yes"
    assert found["verify.steps.2-2"].answer == "unknown" and "round 0" in found["verify.steps.2-2"].reason


# -- another kind of machine ------------------------------------------------------------------------------------------


def elsewhere(patch: pytest.MonkeyPatch) -> None:
    """This machine is another, which rounds the weights otherwise."""
    patch.setattr(Replay, "differs", property(lambda self: ("cpu_capability AVX512 -> AVX2",)))
    plain = Replay.train

    def rounded(self: Replay, segment: Any, nudged: float = 0.0, given: bool = False) -> Any:
        return plain(self, segment, nudged or 2.0**-21, given)

    patch.setattr(Replay, "train", rounded)


def test_elsewhere_completions_are_the_published_ones(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding moves the weights a little, so the policy draws otherwise here and there; it is not accused of it."""
    elsewhere(monkeypatch)
    found = rows(policy, 6)
    assert {id: row.answer for id, row in found.items() if id.startswith("verify.drift")} == {
        f"verify.drift.{step}-{step}": "yes" for step in (1, 2, 3, 4)
    }


def test_one_flipped_draw_does_not_drag_the_rest_along(policy: Path) -> None:
    """Weights as another machine's rounding leaves them: all draws but those closer than rounding are the same."""
    replay = Replay(open_release(policy))
    task = replay.task
    assert isinstance(task, Writer)
    model = replay.at(0).model
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1 + 2.0**-22 * (2 * torch.randint(0, 2, weight.shape) - 1))
    judged = check_draws(model, Rollouts.read(policy / "training/rollouts/round-00000000.safetensors"), task.drawing)
    assert judged.wrong == [] and judged.undecided <= 0.001 * judged.draws


# -- forgeries --------------------------------------------------------------------------------------------------------


def forge(release: Path, change: Callable[[Rollouts], None], number: int = 0) -> None:
    """Change a round, and mend every hash."""

    def rewrite(file: Path) -> None:
        rollouts = Rollouts.read(file)
        change(rollouts)
        rollouts.write(file)

    mend(release, rewrite, number)


def mend(release: Path, change: Callable[[Path], None], number: int = 0) -> None:
    """Change a round's file, and mend every hash: its lines', the chain of lines, the manifest."""
    file = round_file(release / "training", number)
    old = sha256_file(file)
    change(file)
    transcript = release / "training/transcript.jsonl"
    lines = transcript.read_bytes().replace(old.encode(), sha256_file(file).encode()).splitlines()
    written = [lines[0]]
    for line in lines[1:]:
        import hashlib

        entry = json.loads(line) | {"prev": hashlib.sha256(written[-1]).hexdigest()}
        written.append(canonical(entry))
    transcript.write_bytes(b"\n".join(written) + b"\n")
    (release / MANIFEST).write_bytes(build(release).to_bytes())


def other_token(rollouts: Rollouts) -> None:
    place = int(rollouts.prompt_N[0])
    rollouts.token_T[place] = 7 if int(rollouts.token_T[place]) != 7 else 8


def other_last_token(rollouts: Rollouts) -> None:
    cut = next(k for k in range(len(rollouts)) if not rollouts.ended_N[k])
    place = int(rollouts.length_N[: cut + 1].sum()) - 1
    rollouts.token_T[place] = 9 if int(rollouts.token_T[place]) != 9 else 10
    rollouts.reward_N[cut] = float(sum(rollouts.completions()[cut]) % 2)


def other_reward(rollouts: Rollouts) -> None:
    rollouts.reward_N[3] = 1 - rollouts.reward_N[3]


def other_seed(rollouts: Rollouts) -> None:
    rollouts.seed_N[2] = seed_of(1, 0, 2)


def other_prompt(rollouts: Rollouts) -> None:
    rollouts.token_T[1] += 1


def other_problem(rollouts: Rollouts) -> None:
    rollouts.problem_N[0] = 5


def other_end(rollouts: Rollouts) -> None:
    rollouts.ended_N[0] = 1 - rollouts.ended_N[0]


def other_probability(rollouts: Rollouts) -> None:
    rollouts.logp_C[1] -= 0.01


def other_expert(rollouts: Rollouts) -> None:
    route_K = rollouts.route_LTK[0, 3]
    route_K[0] = next(e for e in range(8) if e not in route_K.tolist())


FORGED: dict[str, tuple[Callable[[Rollouts], None], str]] = {
    "a token": (other_token, "token"),
    "the last token, its reward mended": (other_last_token, "and weights and noise give"),
    "a reward": (other_reward, "completion 3 earns"),
    "a seed": (other_seed, "was drawn with seed"),
    "a prompt": (other_prompt, "has another prompt than its problem"),
    "a problem's number": (other_problem, "is of problem 5"),
    "an end": (other_end, "does not end where its tokens say"),
    "a probability": (other_probability, "log-probability"),
    "an expert": (other_expert, "and the router chooses"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_each_forgery_is_found_with_every_hash_mended(release: Path, kind: str) -> None:
    change, words = FORGED[kind]
    forge(release, change)
    found = rows(release, 0, 4)
    assert found["verify.files"].answer == "yes"
    row = found["verify.rollouts"]
    assert row.answer == "no" and row.grade == Grade.CLAIMED
    assert words in row.reason or kind == "a token"
    assert "round 0" in row.reason


RESHAPED: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "a wider type": (lambda t: t.update(token_T=t["token_T"].long()), "token_T is of type torch.int64"),
    "fractions": (lambda t: t.update(problem_N=t["problem_N"].double()), "problem_N is of type torch.float64"),
    "columns": (lambda t: t.update(reward_N=t["reward_N"][:, None]), "different lengths"),
    "another end": (lambda t: t.update(ended_N=t["ended_N"] * 2), "an end is neither 0 nor 1"),
    "no end": (lambda t: t.update(ended_N=t["ended_N"][:-1]), "different lengths"),
    "experts of nothing": (
        lambda t: t.update(route_LTK=t["route_LTK"].clamp(min=1)),
        "which was not read, has experts",
    ),
    "filters of nothing": (lambda t: t.update(kept_ids=torch.ones(9, dtype=torch.int32)), "what filters left"),
    "lengths that wrap": (lambda t: t["length_N"].add_(2**61) is t["prompt_N"].add_(2**61), "different lengths"),
    "no rewards": (lambda t: t.pop("reward_N"), "damaged"),
    "another tensor": (lambda t: t.update(notes=torch.zeros(1)), "damaged"),
    "nothing": (lambda t: t.update({name: each.flatten()[:0] for name, each in t.items()}), "different lengths"),
    "no number": (lambda t: t["reward_N"].fill_(torch.nan), "the record says nan"),
}


@pytest.mark.parametrize("kind", RESHAPED)
def test_a_file_of_another_form_is_found(release: Path, kind: str) -> None:
    change, words = RESHAPED[kind]

    def reshape(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file({name: each.contiguous() for name, each in tensors.items()}, file)

    mend(release, reshape)
    row = rollouts_row(Replay(open_release(release)))
    assert row.answer == "no" and words in row.reason


def test_a_file_that_holds_more_than_a_record_is_found(release: Path) -> None:
    mend(release, lambda file: save_file(load_file(file), file, {"notes": "hidden"}))
    row = rollouts_row(Replay(open_release(release)))
    assert row.answer == "no" and "holds more than completions" in row.reason
    (release / "training/rollouts/notes.txt").touch()
    assert rollouts_row(Replay(open_release(release))).reason == "notes.txt is no round"


def test_rounds_that_are_missing_or_without_weights_are_not_vouched_for(release: Path) -> None:
    shutil.rmtree(release / "checkpoints/step-00000002")
    row = rollouts_row(Replay(open_release(release)))
    assert (row.answer, row.grade) == ("yes", Grade.CHECKED) and "the draws of 1 of them" in row.reason
    (release / "training/rollouts/round-00000001.safetensors").unlink()
    row = rollouts_row(Replay(open_release(release)))
    assert row.answer == "unknown" and "of 2 rounds 1 are here" in row.reason


def test_a_file_with_another_hash_than_its_line_is_found_without_pytorch(release: Path) -> None:
    file = release / "training/rollouts/round-00000001.safetensors"
    rollouts = Rollouts.read(file)
    other_reward(rollouts)
    rollouts.write(file)
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    found = rows(release, 1, 4)
    assert found["data.completions"].answer == found["verify.static"].answer == "no"
    assert "not the completions whose hash the transcript has" in found["verify.rollouts"].reason


@pytest.mark.parametrize("what", ["weights", "record", "tokenizer"])
def test_another_parent_is_found(release: Path, what: str) -> None:
    from clearseek.train.checkpoints import checkpoint

    folder = release / "training/parent"
    if what == "weights":
        saved = checkpoint.load(checkpoint.find(folder, 0))
        saved.tensors["weights"]["lm_head.weight"] = saved.tensors["weights"]["lm_head.weight"] + 1
        checkpoint.save(folder, 0, saved.tensors, {}, keep=1)
    elif what == "record":
        record = json.loads((folder / "parent.json").read_text()) | {"name": "DeepSeek-V3"}
        (folder / "parent.json").write_text(json.dumps(record))
    else:
        (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes() + b" ")
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    found = rows(release, 1, 2)
    assert found["verify.parent"].answer == "no"
    if what != "tokenizer":
        assert found["lineage.parent"].answer == found["verify.static"].answer == "no"


def test_nothing_is_written_into_a_release(policy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in policy.rglob("*")}
    rows(policy, 4, 6)
    assert before == {path: path.stat().st_mtime_ns for path in policy.rglob("*")}


def test_segments_in_the_middle_of_a_round_begin_with_its_published_completions(policy: Path) -> None:
    replay = Replay(open_release(policy))
    for segment in reversed(replays.every_segment(replay.release)):  # no earlier segment has written them
        records, tensors = replay.train(segment)
        stated = replay.release.record(segment.end)
        assert records[-1] == stated
        assert hash_tensors([*tensors["weights"].items(), *tensors["buffers"].items()]) == stated.weights_sha256


# -- draws of their own -----------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32), st.sampled_from([0.5, 0.9, 1.0]))
def test_a_set_that_top_p_leaves_is_known_from_others(seed: int, top_p: float) -> None:
    import numpy as np

    from clearseek.inference.request import Settings
    from clearseek.inference.sampling import draw_rows
    from clearseek.verify.draws import _may_keep

    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (1, 40)).astype(np.float32)
    drawn = draw_rows(logits, Settings(1, 1.0, top_p), np.array([3]), np.array([5]))
    scaled = (logits[0] - logits[0].max()).astype(np.float64)
    kept = np.arange(40) if drawn.kept is None else drawn.kept[0]
    assert _may_keep(scaled, kept, top_p, 1e-6)
    without = kept[kept != scaled.argmax()]
    assert not len(without) or not _may_keep(scaled, without, top_p, 1e-6)
