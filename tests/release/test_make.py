"""A run becomes a release that passes its own audit and verification; each way to tamper with it is found and named."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearseek.audit.evidence import Answer, Grade, Row
from clearseek.cli import main
from clearseek.errors import UserError
from clearseek.release.make import make_release
from clearseek.release.source_archive import source_archive
from clearseek.signing.manifest import MANIFEST, build, read
from clearseek.train.extend import longer_recipe
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.training_code import CODE, code_list, trainers_code
from clearseek.verify.code import archived_sources
from clearseek.verify.replay import Segment, choose_segments, open_release
from clearseek.verify.run import verify_release
from tests.releases import audited, compared, edit_json, valid_bills
from tests.tiny import tiny

pytest.importorskip("cryptography", reason="signing needs the extra `release`")


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "Tiny"))


def rows(release: Path, **options: Any) -> dict[str, Row]:
    return {row.id: row for row in verify_release(release, **options)}


def test_every_row_of_the_definition_is_cross_checked(made: Path) -> None:
    found = compared(made)
    assert {row.id: (row.answer, int(row.grade)) for row in found.of("definition")} == {
        row.id: ("yes", 4) for row in found.of("definition")
    }
    assert [row.id for row in found.of("technical") if row.answer in ("no", "partly")] == []
    assert rows(made, levels=(0,))["verify.files"].answer == "yes"


def test_what_only_such_a_release_has_is_no_row_of_an_audit(made: Path) -> None:
    audit, verified = audited(made), rows(made, levels=(1,))
    assert max(row.grade for row in audit.of("definition") if row.id.startswith("data.")) == Grade.PRESENT
    for id in ("data.order", "weights.order"):
        assert audit.get(id) is None
        assert (verified[id].answer, verified[id].grade) == ("yes", Grade.CHECKED)
    assert (verified["weights.trajectory"].grade, audit["weights.trajectory"].grade) == (Grade.CHECKED, Grade.PRESENT)


@pytest.mark.slow
def test_everything_is_made_again_to_the_bit(made: Path) -> None:
    found = rows(made, levels=(0, 1, 2, 3, 4, 6), public_key=made.parent / "key.pub", read_sources=True)
    assert {row.id: row.answer for row in found.values() if row.id.startswith("verify.")} == {
        "verify.files": "yes",
        "verify.signature": "yes",
        "verify.static": "yes",
        "verify.complete": "yes",
        "verify.final": "yes",
        "verify.logits": "yes",
        "verify.evaluation": "yes",
        "verify.data": "yes",
        "verify.documents": "yes",
        "verify.data_rebuilt": "yes",
        "verify.code": "yes",
        "verify.steps.1-3": "yes",
        "verify.steps.4-6": "yes",
        "verify.steps.7-8": "yes",
    }
    read = {"verify.files", "verify.signature", "verify.static", "verify.complete", "verify.data", "verify.code"}
    assert {row.id for row in found.values() if row.grade < Grade.REEXECUTED} == read | {
        id for id in found if not id.startswith("verify.")
    }
    summary = {row.id: row.answer for row in found.values() if row.answer != "yes"}
    assert summary == {"documents.data_summary": "partly"}, "nobody said who publishes it, and in which language it is"


def test_its_bills_list_every_file_and_package(made: Path) -> None:
    bill = json.loads((made / "bom.cdx.json").read_text())
    listed = {entry.path: entry.sha256 for entry in read(made).files}
    hashes = {each["name"]: each["hashes"][0]["content"] for each in bill["components"] if "hashes" in each}
    assert hashes == {name: digest for name, digest in listed.items() if not name.startswith("bom.")}
    pinned = [line.split("==") for line in (made / "training/requirements.lock").read_text().splitlines()]
    libraries = [[each["name"], each["version"]] for each in bill["components"] if each["type"] == "library"]
    assert libraries == pinned
    assert "properties" not in bill["metadata"]["component"]
    graph = json.loads((made / "bom.spdx.json").read_text())["@graph"]
    assert {each["name"] for each in graph if each["type"] == "software_File"} == set(hashes)
    assert [
        [each["name"], each["software_packageVersion"]] for each in graph if each["type"] == "software_Package"
    ] == pinned
    assert not [each for each in graph if each["type"] == "Annotation"]
    assert str(made.parent) not in json.dumps([bill, graph])


def test_the_bills_are_valid(made: Path) -> None:
    objects = valid_bills(made)
    (model,) = objects.foreach_type("ai_AIPackage")
    assert model.name == "Tiny"


def test_mlcroissant_reads_the_documents(made: Path) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = croissant.Dataset(jsonld=made / "data/croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    records = list(dataset.records("documents"))
    assert len(records) == len((made / "data/documents.jsonl").read_text().splitlines())


def test_segments_follow_from_root_and_nonce(made: Path) -> None:
    release = open_release(made)
    every = choose_segments(release, "root", "nonce", 9)
    assert every == (Segment(0, 3), Segment(3, 6), Segment(6, 8))
    chosen = {choose_segments(release, "root", str(nonce), 1) for nonce in range(40)}
    assert chosen == {(segment,) for segment in every}
    assert choose_segments(release, "root", "7", 1) == choose_segments(release, "root", "7", 1)


def test_the_source_archive_is_the_same_every_time() -> None:
    name, content = source_archive()
    assert (name, content) == source_archive()
    assert content.startswith(b"\x1f\x8b")


def test_a_statement_is_signed_and_breaks_nothing(
    release: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = made.parent / "key"
    arguments = ["verify", str(release), "--levels", "0,1", "--key", f"{key}.pub", "--sign", str(key), "--nonce", "n"]
    assert main([*arguments, "--json"]) == 0
    statement = json.loads(capsys.readouterr().out)["statement"]
    assert statement["predicate"]["result"] == "PASSED"
    assert sorted(path.suffix for path in (release / "attestations").iterdir()) == [".json", ".pub"]
    assert main(arguments) == 0


Spoil = Callable[[Path], object]


def flip(path: str, place: int = -1) -> Spoil:
    """Flip the lowest bit of a byte."""

    def spoil(release: Path) -> None:
        raw = bytearray((release / path).read_bytes())
        raw[place] ^= 1
        (release / path).write_bytes(raw)

    return spoil


def swap_checkpoints(release: Path) -> None:
    one, other, aside = (release / "checkpoints" / name for name in ("step-00000003", "step-00000006", "aside"))
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def forged_line(release: Path) -> None:
    file = release / "training/transcript.jsonl"
    lines = file.read_bytes().split(b"\n")
    entry = json.loads(lines[4])
    entry["scalars"]["loss"] = (1.0).hex()
    lines[4] = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
    file.write_bytes(b"\n".join(lines))


def dropped_document(release: Path) -> None:
    file = release / "data/documents.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[1:]))


def better_score(release: Path) -> None:
    edit_json(release / "evaluation/held_out.json", lambda content: content.update(bits_per_byte=0.5))


def better_card(release: Path) -> None:
    file = release / "README.md"
    held_out = json.loads((release / "evaluation/held_out.json").read_text())["bits_per_byte"]
    file.write_text(file.read_text(encoding="utf-8").replace(f"{held_out:.3f}", "0.500"), encoding="utf-8")


def more_parameters(release: Path) -> None:
    file = release / "README.md"
    text = file.read_text(encoding="utf-8")
    more = re.sub(r"[\d.]+(?=M total parameters)", lambda found: f"{2 * float(found[0]):.2f}", text)
    assert more != text
    file.write_text(more, encoding="utf-8")


def other_licence(release: Path) -> None:
    file = release / "LICENSE"
    file.write_text(file.read_text(encoding="utf-8").replace("royalty-free", "royalty-bearing", 1), encoding="utf-8")


def learning_rate(release: Path) -> None:
    edit_json(release / "training/recipe.json", lambda content: content["optimizer"].update(learning_rate=0.1))


def other_torch(release: Path) -> None:
    file = release / "training/requirements.lock"
    file.write_text("".join("torch==1.0\n" if line.startswith("torch==") else line for line in file.open()))


def other_code(release: Path) -> None:
    (archive,) = (release / "code").iterdir()
    archive.write_bytes(b"\x1f\x8b\x08\x00 not code")


def lying_report(release: Path) -> None:
    file = release / "REPORT.md"
    text = file.read_text(encoding="utf-8").splitlines()
    number = next(n for n, line in enumerate(text) if line.startswith("| 1 |"))
    text[number] = "| 1 | 1.0000 | 1.000 |"
    file.write_text("\n".join(text), encoding="utf-8")


def same_checkpoint(release: Path) -> None:
    shutil.rmtree(release / "checkpoints/step-00000003")
    shutil.copytree(release / "checkpoints/step-00000006", release / "checkpoints/step-00000003")


def add_pickle(release: Path) -> None:
    (release / "data/extra.pkl").write_bytes(b"\x80\x04K\x01.")


def other_croissant(release: Path) -> None:
    edit_json(release / "data/croissant.json", lambda content: content["distribution"][0].update(sha256="0" * 64))


def other_tokenizer(release: Path) -> None:
    edit_json(release / "tokenizer.json", lambda content: content.update(version="1.1"))


def duplicate_key(release: Path) -> None:
    file = release / "config.json"
    file.write_text(file.read_text().replace("{", '{"vocab_size": 300,', 1))


TAMPERED: dict[str, tuple[Spoil, str]] = {
    "a bit of a weight": (flip("checkpoints/step-00000006/weights.safetensors"), "weights.intermediate"),
    "a bit of the optimiser": (flip("checkpoints/step-00000006/optimizer.safetensors"), "weights.optimizer"),
    "a byte of a shard": (flip("data/train-00000.bin", 100), "data.training"),
    "a byte of the held-out shard": (flip("data/heldout-00000.bin", 10), "data.evaluation"),
    "two checkpoints swapped": (swap_checkpoints, "weights.intermediate"),
    "one checkpoint twice": (same_checkpoint, "weights.trajectory"),
    "a learning rate": (learning_rate, "code.configuration"),
    "a dropped document": (dropped_document, "data.training"),
    "a forged line": (forged_line, "data.training"),
    "a better score": (better_score, "documents.evaluation"),
    "a better card": (better_card, "documents.evaluation"),
    "more parameters": (more_parameters, "parameters.total"),
    "a licence's word": (other_licence, "licence.weights"),
    "another PyTorch": (other_torch, "code.environment"),
    "other code": (other_code, "code.training"),
    "a report that lies": (lying_report, "documents.report"),
    "a pickle": (add_pickle, "files.execution"),
    "another Croissant hash": (other_croissant, "documents.data_card"),
    "another tokenizer": (other_tokenizer, "data.tokenizer"),
    "a key twice": (duplicate_key, "weights.final"),
    "a missing licence text": (lambda r: (r / "data/LICENSE.CC0-1.0").unlink(), "licence.data"),
    "a bit of the final weights": (flip("model.safetensors"), "verify.files"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", TAMPERED)
def test_tampering_shows_in_its_row_and_in_the_manifest(release: Path, made: Path, kind: str) -> None:
    spoil, row = TAMPERED[kind]
    before = {row.id: row for row in compared(made)} | rows(made, levels=(0,))
    assert before[row].answer == "yes"
    spoil(release)
    checked = rows(release, levels=(0, 1), public_key=made.parent / "key.pub")
    found = {row.id: row for row in compared(release)} | checked
    assert found[row].answer in ("no", "partly"), found[row].reason
    assert checked["verify.files"].answer == "no"
    assert checked["verify.signature"].answer == "no"
    if found[row].grade == Grade.CLAIMED or row.startswith("files."):
        assert checked["verify.static"].answer == "no"


def test_other_final_weights_give_other_logits(release: Path) -> None:
    file = release / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] *= 1.5
    save_file(weights, file, {"format": "pt"})
    found = rows(release, levels=(2,))
    assert found["verify.final"].answer == "no"
    assert found["verify.logits"].answer == "no"
    assert "largest difference" in found["verify.logits"].reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "answer", "what"),
    [
        (lambda e: e.update(bits_per_byte=1.0), "no", "bits_per_byte is 2.3"),
        (lambda e: e["compressors"].update({"gzip -9": 9.0}), "no", "gzip -9 is "),
        (lambda e: e["windows"].pop(), "no", "windows, and the file"),
        (lambda e: e["windows"][1].update(bits=scaled(e, 1 + 1e-7)), "unknown", "another machine's rounding"),
        (lambda e: e["windows"][1].update(bits=scaled(e, 1 + 1e-4)), "no", "window 1: "),
        (lambda e: e["windows"][1].update(bits="nan"), "no", "window 1: "),
        (lambda e: e["windows"][1].update(bits=7), "no", "not of the form"),
        (lambda e: e["windows"][1].update(bits="0x1p9999"), "no", "not of the form"),
        (lambda e: e.update(windows=None), "no", "not of the form"),
    ],
)
def test_other_figures_of_the_evaluation_are_refuted(release: Path, change: Any, answer: Answer, what: str) -> None:
    edit_json(release / "evaluation/held_out.json", change)
    row = rows(release, levels=(3,))["verify.evaluation"]
    assert row.answer == answer
    assert what in row.reason


@pytest.mark.parametrize("change", [{"prompts": None}, {"prompts": [{}]}, {"prompts": [{"logits": ["0x1p9999"]}]}])
def test_logits_that_are_none_are_refuted(release: Path, change: dict[str, Any]) -> None:
    edit_json(release / "evaluation/logits.json", lambda content: content.update(change))
    assert rows(release, levels=(2,))["verify.logits"].answer == "no"


def test_a_logit_that_is_no_number_is_refuted(release: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["prompts"][1]["logits"][3] = "nan"

    edit_json(release / "evaluation/logits.json", change)
    assert rows(release, levels=(2,))["verify.logits"].answer == "no"


def scaled(evaluation: dict[str, Any], factor: float) -> str:
    return (float.fromhex(evaluation["windows"][1]["bits"]) * factor).hex()


def test_a_recipe_reads_nothing_here_unless_it_may(made: Path) -> None:
    assert rows(made, levels=(4,))["verify.data_rebuilt"].answer == "unknown"


@pytest.mark.slow
def test_a_run_that_was_cut_short_is_not_complete(release: Path) -> None:
    shutil.rmtree(release / "checkpoints/step-00000008")
    assert rows(release, levels=(2,))["verify.complete"].answer == "no"


def test_what_could_not_be_decided_is_no_pass(
    release: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["verify", str(release), "--levels", "4"]) == 0  # its source is elsewhere
    assert "WARNED: 4 of 5; 1 undecided; no step of the training was done again" in capsys.readouterr().out

    def refuse(*arguments: object) -> None:
        raise UserError("this machine has no memory at all")

    monkeypatch.setattr("clearseek.verify.replay.preflight", refuse)
    assert main(["verify", str(release), "--levels", "6", "--json"]) == 1  # asked for training, and trained nothing
    statement = json.loads(capsys.readouterr().out)["statement"]
    assert statement["predicate"]["result"] == "WARNED"
    assert statement["predicate"]["warnedTests"] == ["verify.steps.1-3", "verify.steps.4-6", "verify.steps.7-8"]


def test_a_forged_line_is_named(release: Path) -> None:
    forged_line(release)
    assert "line 6" in rows(release, levels=(5,))["verify.transcript"].reason


def test_a_manifest_signed_anew_by_another_is_found_by_the_key(release: Path, made: Path, tmp_path: Path) -> None:
    flip("model.safetensors")(release)
    (release / "model.sig").unlink()
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    from clearseek.signing.folder import sign_folder
    from clearseek.signing.keys import generate_key, load_private_key

    generate_key(tmp_path / "other")
    sign_folder(release, load_private_key(tmp_path / "other"))
    checked = rows(release, levels=(0,), public_key=made.parent / "key.pub")
    assert checked["verify.files"].answer == "yes"
    assert checked["verify.signature"].answer == "no"


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_nothing_is_done_with_files_that_lead_elsewhere(release: Path, tmp_path: Path, kind: str) -> None:
    place = release / "checkpoints/step-00000003/weights.safetensors"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(place)
    found = rows(release, levels=(0, 1, 2, 3, 4, 5))
    assert {id for id in found if id.startswith("verify.")} == {"verify.files", "verify.static"}
    assert found["verify.files"].answer == "no"
    assert "checkpoints/step-00000003/weights.safetensors" in found["verify.files"].reason


def test_what_is_left_out_on_purpose_is_found(release: Path, made: Path) -> None:
    """A manifest and a signature that say nothing of the checkpoints, so that these can be exchanged."""
    from clearseek.signing.folder import sign_folder
    from clearseek.signing.keys import load_private_key
    from clearseek.signing.manifest import NOT_CONTENT

    left_out = ("checkpoints", *NOT_CONTENT)
    (release / "model.sig").unlink()
    (release / MANIFEST).write_bytes(build(release, (MANIFEST, "model.sig", *left_out)).to_bytes())
    sign_folder(release, load_private_key(made.parent / "key"), ignore=left_out)
    found = rows(release, levels=(0,), public_key=made.parent / "key.pub")
    for row in ("verify.files", "verify.signature"):
        assert found[row].answer == "no"
        assert "checkpoints" in found[row].reason
        assert "left out on purpose" in found[row].reason
    assert rows(release, levels=(0,))["verify.files"].answer == "no"


def encoded(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def rewrite_lines(release: Path, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> list[bytes]:
    """A forger with time: change lines of the transcript and mend every hash that stands in a file."""
    from clearseek.files import sha256_bytes, sha256_file

    path = release / "training/transcript.jsonl"
    lines: list[bytes] = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1]):
        entry = change(number, json.loads(line))
        lines.append(encoded(entry | ({"prev": sha256_bytes(lines[-1])} if lines else {})))
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    for folder in (release / "checkpoints").iterdir():
        record = json.loads((folder / "checkpoint.json").read_text())["checkpoint"]
        for file in folder.glob("*.safetensors"):
            record["files"][file.name] = {"size": file.stat().st_size, "sha256": sha256_file(file)}
        record["state"]["transcript_head"] = sha256_bytes(lines[int(folder.name.removeprefix("step-"))])
        digest = sha256_bytes(encoded(record))
        (folder / "checkpoint.json").write_text(json.dumps({"checkpoint": record, "sha256": digest}))
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    return lines


def rewrite_history(release: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Other weights after step 6, and every hash says so."""
    from clearseek.train.chunks import hash_tensors

    folder = release / "checkpoints/step-00000006"
    weights = load_file(folder / "weights.safetensors")
    change(weights)
    save_file(weights, folder / "weights.safetensors")
    digest = hash_tensors([*weights.items(), *load_file(folder / "buffers.safetensors").items()])
    rewrite_lines(release, lambda number, entry: entry | ({"weights_sha256": digest} if number == 6 else {}))


def other_machine(number: int, entry: dict[str, Any]) -> dict[str, Any]:
    """The run began where PyTorch was another."""
    if number == 0:
        entry["environment"]["torch"] = "1.0"
    return entry


def test_the_same_bits_count_on_another_machine_too(release: Path) -> None:
    rewrite_lines(release, other_machine)
    found = rows(release, levels=(6,))
    for steps in ("1-3", "4-6", "7-8"):
        row = found[f"verify.steps.{steps}"]
        assert (row.answer, row.grade) == ("yes", Grade.REEXECUTED)
        assert "though this machine differs: torch 1.0 -> " in row.reason


@pytest.mark.slow
@pytest.mark.parametrize(("size", "answer"), [(2.0**-20, "yes"), (0.01, "no")])
def test_on_another_machine_a_segment_is_set_against_what_rounding_does(
    release: Path, size: float, answer: Answer
) -> None:
    def move(weights: dict[str, torch.Tensor]) -> None:
        for weight in weights.values():
            weight *= 1 + size

    rewrite_history(release, move)
    rewrite_lines(release, other_machine)
    found = rows(release, levels=(6,))
    assert found["verify.steps.1-3"].answer == "yes"
    row = found["verify.drift.4-6"]
    assert (row.answer, row.grade) == (answer, Grade.CHECKED if answer == "yes" else Grade.CLAIMED)
    assert "weights_sha256" in row.reason
    assert "this machine differs: torch 1.0 -> " in row.reason


def other_archive(release: Path, changed: str = "train/trainer.py") -> None:
    """The release of another ClearSeek: a line more in a file."""
    (file,) = (release / "code").iterdir()
    buffer = io.BytesIO()
    with tarfile.open(file) as old, tarfile.open(fileobj=buffer, mode="w:gz") as new:
        for member in old:
            held = old.extractfile(member)
            assert held is not None
            content = held.read() + b"# more\n" * member.name.endswith(changed)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    file.write_bytes(buffer.getvalue())
    listed = code_list(trainers_code(archived_sources(release)))
    (release / CODE).write_text(json.dumps(listed))
    rewrite_lines(release, lambda number, entry: entry | ({} if number else {"code_sha256": listed["sha256"]}))


@pytest.mark.slow
@pytest.mark.parametrize(("size", "answer"), [(2.0**-20, "yes"), (0.01, "no")])
def test_bits_are_not_expected_of_another_clearseek(release: Path, size: float, answer: Answer) -> None:
    def move(weights: dict[str, torch.Tensor]) -> None:
        for weight in weights.values():
            weight *= 1 + size

    other_archive(release)
    rewrite_history(release, move)
    found = rows(release, levels=(6,))
    assert found["verify.steps.1-3"].grade == Grade.REEXECUTED
    row = found["verify.drift.4-6"]
    assert row.answer == answer
    assert "this ClearSeek is not the release's: 1 file, such as clearseek/train/trainer.py" in row.reason


@pytest.mark.slow
def test_code_that_decides_no_bits_may_be_other(release: Path) -> None:
    """A release of a later or earlier ClearSeek, whose command line is another, has to be reproduced to the bit."""

    def move(weights: dict[str, torch.Tensor]) -> None:
        for weight in weights.values():
            weight *= 1 + 2.0**-20

    other_archive(release, "cli/__init__.py")
    rewrite_history(release, move)
    found = rows(release, levels=(6,))
    assert found["verify.code"].answer == "yes"
    assert found["verify.steps.4-6"].answer == "no"


def test_a_list_of_other_code_than_the_archives_is_refuted(release: Path) -> None:
    other_archive(release)
    (file,) = (release / "code").iterdir()
    file.write_bytes(source_archive()[1])
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "no" and "not the list of what the trainer in code/ imports" in row.reason


def test_a_list_of_other_code_than_the_runs_is_refuted(release: Path) -> None:
    """The publisher trained with one code and published another."""
    rewrite_lines(release, lambda number, entry: entry | ({} if number else {"code_sha256": "0" * 64}))
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "no" and "not the list of the code that the run began with" in row.reason


def test_a_trainer_of_other_modules_is_other_code(release: Path) -> None:
    """A later version may begin from other modules; its list says from which."""
    (file,) = (release / "code").iterdir()
    top = file.name.removesuffix(".tar.gz")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as new:
        added = tarfile.TarInfo(f"{top}/clearseek/train/loop.py")
        new.addfile(added)
    file.write_bytes(buffer.getvalue())
    roots = ("clearseek.train.loop",)
    listed = code_list(trainers_code(archived_sources(release), roots), roots)
    (release / CODE).write_text(json.dumps(listed))
    rewrite_lines(release, lambda number, entry: entry | ({} if number else {"code_sha256": listed["sha256"]}))
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "unknown" and "files, such as clearseek/" in row.reason


@pytest.mark.parametrize("roots", [None, [], "clearseek.train.loop", [1], ["clearseek.train.nothing"] * 1000])
def test_a_list_without_a_trainer_is_refuted(release: Path, roots: object) -> None:
    edit_json(release / CODE, lambda content: content.update(roots=roots))
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "no" and ("modules of the trainer" in row.reason or "no source of" in row.reason)
    assert len(row.reason) < 300


def test_a_retired_setting_spares_a_forger_no_comparison(release: Path) -> None:
    """It cannot be in a recipe of this format: weights, evaluation and documents are compared all the same."""
    edit_json(release / "training/recipe.json", lambda r: (
        r["train"].update(precision="fp8"), r["fp8"].update(accumulate="x"),
        r["model"].update(moe_intermediate_size=128, intermediate_size=128),
    ))  # fmt: skip
    weights = load_file(release / "model.safetensors")
    weights["model.norm.weight"] *= 1.5
    save_file(weights, release / "model.safetensors", {"format": "pt"})
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    found = rows(release, levels=(2, 6))
    assert found["verify.final"].answer == "no"
    assert any(row.answer == "no" for id, row in found.items() if id.startswith("verify.steps"))


def test_a_list_of_a_later_format_names_itself(release: Path) -> None:
    edit_json(release / CODE, lambda content: content.update(format="clearseek-code-9"))
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "unknown" and "clearseek-code-9" in row.reason and "reads clearseek-code-1" in row.reason


@pytest.mark.slow
@pytest.mark.parametrize("named", [{"format": "clearseek-code-99"}, {"format": "x"}, {}])
def test_no_list_spares_a_forger_the_comparison(release: Path, named: dict[str, str]) -> None:
    """A loss a whole nat away is refuted, whatever format the list of the code claims."""
    (release / CODE).write_text(json.dumps(named))

    def change(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        if number == 2:
            entry["scalars"]["loss"] = (float.fromhex(entry["scalars"]["loss"]) + 1).hex()
        return entry

    rewrite_lines(release, change)
    found = rows(release, levels=(6,))
    assert any(row.answer == "no" and row.id.endswith(".1-3") for row in found.values()), found


def test_a_list_that_was_dropped_is_missed(release: Path) -> None:
    (release / CODE).unlink()
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "no" and "missing" in row.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("{top}/clearseek/train/step/__init__.py", 0, "a second source of one module"),
        ("other/clearseek/train/muon2.py", 0, "a second clearseek/"),
        ("{top}/clearseek/train/muon.cpython-312-x86_64-linux-gnu.so", 0, "does not belong"),
        ("{top}/clearseek/train/long.py", 200_001, "longer than 200,000 bytes"),
    ],
)
def test_an_archive_whose_sources_are_not_plain(release: Path, name: str, size: int, said: str) -> None:
    (file,) = (release / "code").iterdir()
    buffer = io.BytesIO()
    with tarfile.open(file) as old, tarfile.open(fileobj=buffer, mode="w:gz") as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        top = member.name.split("/")[0]
        added = tarfile.TarInfo(name.format(top=top))
        added.size = size
        new.addfile(added, io.BytesIO(b"#" * size))
    file.write_bytes(buffer.getvalue())
    (release / MANIFEST).write_bytes(build(release).to_bytes())
    row = rows(release, levels=(5,))["verify.code"]
    assert row.answer == "no" and said in row.reason


def test_a_scalar_named_as_a_field_is_altered(release: Path) -> None:
    def change(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        if number == 2:
            entry["scalars"]["step"] = (1.0).hex()
        return entry

    rewrite_lines(release, change)
    row = rows(release, levels=(6,))["verify.transcript"]
    assert row.answer == "no" and "not the record of a step" in row.reason


@pytest.mark.slow
def test_another_learning_rate_is_outside_the_band(release: Path) -> None:
    """A recipe that says a hundredth less than was trained with, from a machine that is not this one."""
    edit_json(release / "training/recipe.json", lambda r: r["optimizer"].update(learning_rate=2.97e-3))

    def change(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        if number == 0:
            entry["recipe"]["optimizer"]["learning_rate"] = 2.97e-3
        return other_machine(number, entry)

    rewrite_lines(release, change)
    found = rows(release, levels=(6,))
    assert found["verify.drift.1-3"].answer == "no"
    assert found["verify.drift.4-6"].answer == "no"  # in 7-8 the schedule has decayed, and rounding does as much


@pytest.mark.slow
def test_a_consistent_forgery_is_found_by_training_again(release: Path) -> None:
    def nudge(weights: dict[str, torch.Tensor]) -> None:
        weights["model.norm.weight"][0] += 2.0**-20

    rewrite_history(release, nudge)
    assert compared(release)["weights.intermediate"].answer == "yes"  # nothing that can be read contradicts it
    found = rows(release, levels=(6,))
    assert found["verify.steps.1-3"].answer == "yes"
    assert found["verify.steps.4-6"].answer == "no"
    assert "weights_sha256" in found["verify.steps.4-6"].reason
    assert "step 6: weights_sha256 is" in found["verify.steps.4-6"].reason
    assert "after step 6 weights model.norm.weight differs from the checkpoint's" in found["verify.steps.4-6"].reason
    assert found["verify.steps.7-8"].answer == "no"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["release", "nowhere", "out"], "nowhere: no such folder"),
        (["release", "nowhere", "out", "--make-key"], "--make-key goes with"),
        (["verify", "nowhere"], "no such folder"),
        (["verify", "{}", "--levels", "7"], "use numbers out of"),
        (["verify", "{}", "--levels", "x"], "use numbers out of"),
        (["verify", "{}", "--segments", "0"], "use a number from 1 up"),
        (["verify", "{}", "--key", "nowhere"], "nowhere: cannot read"),
        (["verify", "{}", "--sign", "nowhere"], "nowhere: no such key: --make-key makes it"),
        (["release", "nowhere", "out", "--key", "new.key"], "new.key: no such key: --make-key makes it"),
        (["verify", "{}/code"], "to verify the release by"),
        (["audit", "{}", "--require", "weights.tensor"], "did you mean"),
    ],
)
def test_wrong_use(made: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([each.format(made) for each in arguments]) == 2
    assert what in capsys.readouterr().err


def test_what_an_operating_system_left_is_no_tampering(release: Path, made: Path) -> None:
    for folder in (release, release / "data", release / "checkpoints", release / "checkpoints/step-00000008"):
        for name in (".DS_Store", "desktop.ini", "Thumbs.db", "._model.safetensors"):
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
    found = rows(release, levels=(0, 1, 2), public_key=made.parent / "key.pub")
    verified = {name: row.answer for name, row in found.items() if name.startswith("verify.")}
    assert {name: answer for name, answer in verified.items() if answer != "yes"} == {"verify.strays": "unknown"}
    reason = found["verify.strays"].reason
    assert "macOS's Finder" in reason and f"find {release} -name .DS_Store -delete" in reason and "'._*'" in reason
    (release / ".DS_Store").unlink()
    (release / ".DS_Store").symlink_to("README.md")
    assert rows(release, levels=(0,))["verify.files"].answer == "no"


@pytest.mark.slow
def test_a_release_leaves_behind_what_an_operating_system_left(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made.parent / "run", tmp_path / "run"))
    for folder in (run, run / "data", run / "checkpoints/step-00000008"):
        (folder / ".DS_Store").write_bytes(b"\0")
    make_release(Run(run), tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".DS_Store"))


@pytest.mark.slow
def test_a_release_of_an_extended_run_says_what_it_does_not_cover(made: Path, tmp_path: Path) -> None:
    parent, run = Run(made.parent / "run"), Run(tmp_path / "more")
    train_recipe(longer_recipe(parent, 4), run, parent=parent)
    make_release(run, tmp_path / "out")
    found = verify_release(tmp_path / "out", levels=(0, 1, 2, 3, 4, 6), read_sources=True)
    verified = [row for row in found if row.id.startswith("verify.")]
    assert {row.id: row.answer for row in verified if row.answer != "yes"} == {"verify.parent": "unknown"}
    assert (
        "continues another run from step 8: only a release of that run could prove"
        in {row.id: row.reason for row in found}["verify.parent"]
    )
    assert found.steps == (4, 4)
    assert [row.id for row in compared(tmp_path / "out").of("technical") if row.answer in ("no", "partly")] == []
    weights = tmp_path / "out/training/parent/step-00000008/weights.safetensors"
    tensors = load_file(weights)
    next(iter(tensors.values())).mul_(2)
    save_file(tensors, weights)
    assert {row.id: row.answer for row in verify_release(tmp_path / "out", levels=(2,))}["verify.parent"] == "no"


def test_an_import_has_no_training_to_release(made: Path, tmp_path: Path) -> None:
    assert main(["import", str(made), str(tmp_path / "run")]) == 0
    with pytest.raises(UserError, match=r"an imported model has no training to release: .*clearseek export"):
        make_release(Run(tmp_path / "run"), tmp_path / "out")


def test_a_run_of_other_code_is_refused(tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source in the release would not be what trained it."""
    recipe = tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 1})
    train_recipe(recipe, Run(tmp_path / "run"))
    monkeypatch.setattr("clearseek.release.gather.code_list", lambda files, roots: {"sha256": "0" * 64})
    with pytest.raises(UserError, match="trained by other code than this ClearSeek's"):
        make_release(Run(tmp_path / "run"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_unfinished_run_is_refused(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 4})
    run = Run(tmp_path / "run")
    train_recipe(recipe, run)
    lines = run.transcript.read_bytes().split(b"\n")
    run.transcript.write_bytes(b"\n".join(lines[:3]) + b"\n")
    with pytest.raises(UserError, match="stopped after step 2 of 4"):
        make_release(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
