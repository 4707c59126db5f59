"""What a child's release says of its parent: name, hash, licence; and that its documents are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clearseek.audit.evidence import Grade
from clearseek.cli import main
from clearseek.data.manifest import read_documents, read_manifest
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.posttrain.methods import method_of
from clearseek.release.lineage import lineage_of
from clearseek.release.make import make_release
from clearseek.release.problems import makes_problems, write_problems
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from tests.posttrain.tiny import child, parent
from tests.releases import audited, valid_bills
from tests.tiny import tiny

GRPO: dict[str, Any] = {"completions": 4, "max_tokens": 4, "evaluate_problems": 12}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return parent(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def run(base: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = child(base, grpo=GRPO, problems={"kind": "addition"}, train={"steps": 4, "checkpoint_every": 4})
    made = Run(tmp_path_factory.mktemp("run") / "run")
    train_recipe(recipe, made, method=method_of(recipe))
    return made


@pytest.fixture(scope="module")
def out(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "Adder"
    make_release(run, folder, base="somebody/Base", base_licence="MIT")
    return folder


def test_the_card_names_what_it_was_made_from(out: Path, run: Run) -> None:
    card = (out / "README.md").read_text()
    head = card.split("---")[1]
    for line in (
        "license: mit",
        "base_model: somebody/Base",
        "base_model_relation: finetune",
        "- reinforcement-learning",
    ):
        assert f"\n{line}\n" in head
    assert json.loads((run.parent / "parent.json").read_text())["weights_sha256"] in card
    assert "conversational" not in head
    stated = json.loads((out / "evaluation/held_out.json").read_text())["measured"]
    for text in stated.values():
        assert f"{float.fromhex(text):.3f}" in card
    assert sorted(stated) == ["held_out_pass_at_1", "held_out_pass_at_1_high", "held_out_pass_at_1_low"]


def test_the_bills_are_valid_and_name_the_ancestor(out: Path) -> None:
    bill = json.loads((out / "bom.cdx.json").read_text())
    assert [each["name"] for each in bill["metadata"]["component"]["pedigree"]["ancestors"]] == ["somebody/Base"]
    graph = json.loads((out / "bom.spdx.json").read_text())["@graph"]
    (relation,) = (each for each in graph if each.get("relationshipType") == "descendantOf")
    (base,) = (each for each in graph if each.get("spdxId") in relation["to"])
    assert base["name"] == "somebody/Base"
    objects = valid_bills(out)
    assert list(objects.foreach_type("ai_AIPackage"))


def test_mlcroissant_reads_the_problems(out: Path) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = croissant.Dataset(jsonld=out / "data/croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert len(list(dataset.records("documents"))) == 4 * 2 + 12


def test_an_audit_says_unknown_where_the_parent_alone_could_tell(out: Path) -> None:
    found = audited(out, "Adder")
    assert (found["data.training"].answer, found["data.training"].grade) == ("yes", Grade.PRESENT)
    assert found["licence.upstream"].answer == "unknown"
    assert found["licence.weights"].answer == "yes" and "MIT" in found["licence.weights"].reason
    assert found["licence.code"].grade == Grade.CHECKED
    assert [row.id for row in found if row.answer == "no" and row.grade == Grade.CLAIMED] == []


def test_problems_are_a_folder_that_is_made_again_the_same(run: Run, out: Path, tmp_path: Path) -> None:
    recipe, tokenizer = run.read_recipe(), Tokenizer.load(run.parent / "tokenizer.json")
    assert makes_problems(recipe) and not makes_problems(tiny())
    again, theirs = write_problems(recipe, tokenizer, tmp_path / "again"), read_manifest(out / "data")
    assert again == theirs
    entries = list(read_documents(tmp_path / "again"))
    assert [entry.id for entry in entries[:2]] == ["addition:0", "addition:1"]
    assert entries[-1].id == "addition:held-out:11"
    texts = {entry.sha256 for entry in entries if entry.split == "train"}
    assert not texts & {entry.sha256 for entry in entries if entry.split == "heldout"}


def test_a_parent_from_a_seed_is_ours(run: Run, tmp_path: Path) -> None:
    header = {"parent": {"name": "tiny"}}
    seeded = Run(tmp_path / "seeded")
    seeded.root.mkdir()
    seeded.write_recipe(tiny())
    seeded.transcript.write_text("{}\n")
    recipe = child(parent(tmp_path / "base"), sft={"demonstrations": 5}, problems={"kind": "sums"})
    given = recipe.model_copy(update={"parent": recipe.parent.model_copy(update={"path": str(seeded.root)})})  # type: ignore[union-attr]
    found = lineage_of(given, header)
    assert (found.licence, found.base, found.method) == ("Apache-2.0", "tiny", "supervised fine-tuning")
    assert lineage_of(recipe, header).licence == "", "weights that somebody imported say nothing of their licence"
    gone = recipe.model_copy(update={"parent": recipe.parent.model_copy(update={"path": str(tmp_path / "gone")})})  # type: ignore[union-attr]
    assert lineage_of(gone, header).licence == ""


@pytest.mark.parametrize(
    ("card", "licence"), [("license: mit", "MIT"), ("license: llama3", "LicenseRef-Llama-3"), ("x: y", "")]
)
def test_a_published_parent_s_card_says_its_licence(tmp_path: Path, card: str, licence: str) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "README.md").write_text(f"---\n{card}\n---\n# Model\n")
    (folder / "LICENSE").write_text("its text")
    recipe = child(parent(tmp_path / "base"), sft={"demonstrations": 5}, problems={"kind": "sums"})
    given = recipe.model_copy(update={"parent": recipe.parent.model_copy(update={"path": str(folder)})})  # type: ignore[union-attr]
    found = lineage_of(given, {"parent": {"name": "published"}})
    assert found.text == b"its text"
    assert found.licence == licence or found.licence.lower().startswith(licence.lower()[:16])


def test_all_generations_and_the_teacher_are_named(base: Run, run: Run, tmp_path: Path) -> None:
    recipe = child(
        run, parent={"path": str(run.root)}, problems={"kind": "addition"}, train={"steps": 2},
        distil={"teacher": str(base.root), "form": "text", "texts": 4, "max_tokens": 4},
    )  # fmt: skip
    made = Run(tmp_path / "run")
    train_recipe(recipe, made, method=method_of(recipe))
    make_release(made, tmp_path / "Student")
    card = (tmp_path / "Student/README.md").read_text()
    stated = [json.loads((each.parent / "parent.json").read_text()) for each in (made, run)]
    assert [each["name"] for each in stated] == ["child", "tiny"]
    assert all(each["weights_sha256"] in card for each in stated)
    teacher = json.loads((made.teacher / "teacher.json").read_text())
    assert f"a teacher, {teacher['name']}: weights with the SHA-256 `{teacher['weights_sha256']}`" in card
    assert "a teacher model answered" in (tmp_path / "Student/data/training-content-summary.md").read_text()
    released = recipe.model_copy(
        update={"parent": recipe.parent.model_copy(update={"path": str(tmp_path / "Student")})}
    )  # type: ignore[union-attr]
    assert [name for name, _ in lineage_of(released, {}).earlier] == ["child", "tiny"]


def test_a_base_of_a_model_from_a_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base"):
        lineage_of(tiny(), {}, base="somebody/Base")


def test_data_of_problems_are_not_given(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["release", str(run.root), str(tmp_path / "Out"), "--data", str(tmp_path)]) == 2
    assert "leave the option out" in capsys.readouterr().err
