"""A publisher who lies, mends every hash and signs anew: what re-execution finds, and what is nobody's lie."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from clearseek.audit.evidence import Grade
from clearseek.cli import main
from clearseek.data.manifest import read_manifest
from clearseek.files import sha256_file
from clearseek.signing.manifest import MANIFEST, build
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.step import Training
from clearseek.verify.replay import choose_segments, open_release
from clearseek.verify.run import verify_release
from clearseek.verify.statement import result_of
from tests.release.test_make import (
    TAMPERED,
    other_archive,
    other_machine,
    rewrite_history,
    rewrite_lines,
    rows,
)  # fmt: skip
from tests.releases import compared, edit_json
from tests.tiny import tiny

pytest.importorskip("cryptography", reason="signing needs the extra `release`")
# Of these the row that finds it is the manifest's or says what is missing, and no statement is refuted.
NOT_FALSE = {"a bit of the final weights", "a pickle", "a missing licence text"}

FOUND_BY = {
    "a licence's word": "licence.agreement",
    "other code": "code.environment",
    "a key twice": "code.environment",
}
"""The row that says so where another one than the audit's."""


@pytest.fixture
def release(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made, tmp_path / "Tiny"))


def reseal(release: Path) -> None:
    """List the files as they are now."""
    (release / MANIFEST).write_bytes(build(release).to_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in TAMPERED if kind not in NOT_FALSE])
def test_what_the_audit_refutes_fails_the_verification(release: Path, kind: str) -> None:
    spoil, row = TAMPERED[kind]
    spoil(release)
    reseal(release)
    found = rows(release, levels=(1,))
    assert found["verify.files"].answer == "yes"
    assert found["verify.static"].answer == "no"
    assert FOUND_BY.get(kind, row) in found["verify.static"].reason


def test_segments_of_no_steps_are_none(release: Path) -> None:
    """Folders that look like checkpoints of steps which others are of: they would make segments that train nothing."""
    for digits in (9, 10, 11):
        folder = release / f"checkpoints/step-{2:0{digits}d}"
        folder.mkdir()
        (folder / "x").write_text("x")
    (release / "checkpoints/step-00000005").write_text("no folder")
    reseal(release)
    assert open_release(release).steps == (0, 3, 6, 8)
    row = rows(release, levels=(5,))["verify.complete"]
    assert row.answer == "no"
    assert "step-000000002" in row.reason


def test_long_segments_are_drawn_more_often(made: Path) -> None:
    opened = open_release(made)
    drawn = [choose_segments(opened, "root", str(nonce), 1)[0].end for nonce in range(800)]
    assert 1.1 < drawn.count(3) / drawn.count(8) < 2.1  # three steps against two


def mend_data(release: Path, change: Callable[[list[dict[str, Any]], dict[str, Any]], None]) -> None:
    """Change the list of documents and the manifest of the data, and mend every hash that stands in a file."""
    documents, place = release / "data/documents.jsonl", release / "data/manifest.json"
    entries = [json.loads(line) for line in documents.read_text().splitlines()]
    manifest = json.loads(place.read_text())
    change(entries, manifest)
    documents.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for entry in manifest["files"]:
        file = release / "data" / entry["name"]
        if file.is_file():
            entry.update(bytes=file.stat().st_size, sha256=sha256_file(file))
    place.write_text(json.dumps(manifest))
    reseal(release)


def more_bytes(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    manifest["heldout"]["bytes"] *= 10


def other_licence(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    manifest["licences"] = {"MIT": len(entries)}


def other_licences_everywhere(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    for entry in entries:
        entry["licence"] = "MIT"
    manifest["licences"] = {"MIT": len(entries)}


def other_source(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    manifest["source"] = "an encyclopaedia"


def fewer_documents(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    for entry in [entry for entry in entries if entry["split"] == "train"][:2]:
        entries.remove(entry)
        for key in ("bytes", "tokens"):
            manifest["train"][key] -= entry[key]
        manifest["train"]["documents"] -= 1
        manifest["licences"][entry["licence"]] -= 1


def other_hash(entries: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    entries[0]["sha256"] = f"{entries[0]['sha256'][:16]}{'0' * 48}"


@pytest.mark.parametrize(
    ("change", "row"),
    [
        (more_bytes, "verify.documents"), (other_licence, "verify.documents"), (fewer_documents, "verify.documents"),
        (other_hash, "verify.documents"), (other_licences_everywhere, "verify.data_rebuilt"),
        (other_source, "verify.data_rebuilt"),
    ],
)  # fmt: skip
def test_figures_of_the_data_are_not_the_publishers_to_choose(
    release: Path,
    change: Any,
    row: str,
) -> None:
    mend_data(release, change)
    found = rows(release, levels=(0, 4), read_sources=True)
    assert found["verify.files"].answer == "yes"
    assert found[row].answer == "no", found[row]
    if row == "verify.documents":
        assert compared(release)["data.training"].answer in ("no", "partly")


def test_a_manifest_reads_nothing_outside(release: Path) -> None:
    edit_json(release / "data/manifest.json", lambda m: m["train"].update(shards=["../../../../../../etc/passwd"]))
    reseal(release)
    found = rows(release, levels=(3, 4, 6))
    for row in ("verify.evaluation", "verify.data", "verify.steps.1-3"):
        assert found[row].answer == "no"
        assert "is not a file of this folder" in found[row].reason


def spoil_checkpoint(release: Path, step: int, group: str, change: Any) -> None:
    """Change tensors of a checkpoint, and every hash says so."""
    from clearseek.train.chunks import hash_tensors

    file = release / f"checkpoints/step-{step:08d}/{group}.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    key, parts = (
        ("optimizer_sha256", ("optimizer",)) if group == "optimizer" else ("weights_sha256", ("weights", "buffers"))
    )
    every = [pair for part in parts for pair in load_file(file.with_name(f"{part}.safetensors")).items()]
    digest = hash_tensors(every)
    rewrite_lines(release, lambda number, entry: entry | ({key: digest} if number == step else {}))


def scale_all(factor: float) -> Any:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for value in tensors.values():
            if value.is_floating_point():
                value *= factor

    return change


def test_a_forged_optimiser_is_outside_the_band(release: Path) -> None:
    spoil_checkpoint(release, 6, "optimizer", scale_all(100.0))
    rewrite_lines(release, other_machine)
    found = rows(release, levels=(6,))
    assert found["verify.drift.4-6"].answer == "no"
    assert "the weights are ours, and the rest of the state is not" in found["verify.drift.4-6"].reason


def test_other_weights_led_to_by_a_forged_optimiser_are_outside_the_band(release: Path) -> None:
    spoil_checkpoint(release, 6, "weights", scale_all(1 + 2.0**-20))
    spoil_checkpoint(release, 6, "optimizer", scale_all(100.0))
    rewrite_lines(release, other_machine)
    assert rows(release, levels=(6,))["verify.drift.4-6"].answer == "no"


def test_a_hash_that_is_not_the_checkpoints_is_refuted_on_any_machine(release: Path) -> None:
    rewrite_lines(release, lambda number, e: e | ({"optimizer_sha256": "0" * 64} if number == 8 else {}))
    rewrite_lines(release, other_machine)
    row = rows(release, levels=(6,))["verify.steps.7-8"]
    assert row.answer == "no"
    assert "optimizer after step 8 are not those whose hash" in row.reason


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"), [("grad_norm", (1.0).hex()), ("tokens", 7), ("loss", "nan"), ("held_out_bpb", (0.5).hex())]
)
def test_every_number_of_a_line_is_in_the_band(release: Path, field: str, value: Any) -> None:
    spoil_checkpoint(release, 8, "weights", scale_all(1 + 2.0**-20))

    def change(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        entry = other_machine(number, entry)
        if number == 8:
            (entry["scalars"] if field in entry["scalars"] else entry)[field] = value
        return entry

    rewrite_lines(release, change)
    assert rows(release, levels=(6,))["verify.drift.7-8"].answer == "no"


def test_within_the_band_is_no_full_pass(release: Path) -> None:
    rewrite_history(release, scale_all(1 + 2.0**-20))
    rewrite_lines(release, other_machine)
    found = [row for row in verify_release(release, (6,)) if row.id == "verify.drift.4-6"]
    assert found[0].answer == "yes"
    assert result_of(found).verdict == "WARNED"


def test_a_tensor_more_than_training_gives_is_found(release: Path) -> None:
    spoil_checkpoint(release, 6, "optimizer", lambda tensors: tensors.update(evil=torch.ones(3)))
    row = rows(release, levels=(6,))["verify.steps.4-6"]
    assert row.answer == "no"
    assert "optimizer evil" in row.reason


def test_a_file_that_no_checkpoint_has_is_found(release: Path) -> None:
    shutil.copyfile(
        release / "checkpoints/step-00000006/weights.safetensors",
        release / "checkpoints/step-00000006/weights.true.safetensors",
    )
    reseal(release)
    assert rows(release, levels=(5,))["verify.complete"].answer == "no"


@pytest.mark.parametrize("file", ["checkpoint.json", "weights.safetensors"])
def test_a_broken_checkpoint_is_no_way_out(release: Path, file: str) -> None:
    (release / "checkpoints/step-00000006" / file).write_bytes(b"")
    reseal(release)
    found = rows(release, levels=(6,))
    assert (found["verify.steps.4-6"].answer, found["verify.steps.7-8"].answer) == ("no", "no")
    assert found["verify.steps.1-3"].answer == "yes"


def test_a_checkpoint_that_was_taken_away_is_missed(release: Path) -> None:
    shutil.rmtree(release / "checkpoints/step-00000003")
    reseal(release)
    assert rows(release, levels=(2,))["verify.complete"].answer == "no"
    assert compared(release)["weights.intermediate"].answer == "no"


@pytest.mark.slow
@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: (r / "config.json").unlink(),
        lambda r: (r / "config.json").write_text("[]"),
        lambda r: (r / "training/recipe.json").write_text("{"),
        lambda r: edit_json(r / "data/manifest.json", lambda m: m.update(token_bytes=4)),
        lambda r: edit_json(r / "data/manifest.json", lambda m: m["heldout"].update(bytes=0)),
        lambda r: rewrite_lines(r, lambda number, e: e if number else e | {"environment": []}),
        lambda r: rewrite_lines(r, lambda number, e: e if number else {k: v for k, v in e.items() if k != "recipe"}),
    ],
)
def test_broken_records_fail_and_stop_nothing(release: Path, spoil: Any) -> None:
    spoil(release)
    reseal(release)
    found = rows(release, levels=(0, 1, 2, 3, 4, 5))
    assert "no" in {row.answer for row in found.values()}
    assert found["verify.files"].answer == "yes"


def test_code_that_was_not_run_is_said_to_be(release: Path, made: Path) -> None:
    assert rows(made, levels=(5,))["verify.code"].answer == "yes"
    other_archive(release)
    reseal(release)
    found = verify_release(release, (6,))
    row = next(row for row in found if row.id == "verify.code")
    assert row.answer == "unknown"
    assert "train/trainer.py" in row.reason
    assert result_of(found.rows).verdict == "WARNED"
    assert next(row for row in found if row.id == "verify.steps.1-3").grade == Grade.REEXECUTED


@pytest.mark.slow
def test_other_figures_with_other_code_are_said_to_be(release: Path) -> None:
    def other(held_out: dict[str, Any]) -> None:
        held_out["windows"][0]["bits"] = (2 * float.fromhex(held_out["windows"][0]["bits"])).hex()

    edit_json(release / "evaluation/held_out.json", other)
    reseal(release)
    row = rows(release, levels=(3,))["verify.evaluation"]
    assert (row.answer, "this ClearSeek" in row.reason) == ("no", False)
    other_archive(release)
    reseal(release)
    assert "but this ClearSeek is not the release's" in rows(release, levels=(3,))["verify.evaluation"].reason


def test_a_format_of_another_version_is_not_the_publishers_fault(release: Path) -> None:
    edit_json(release / "data/manifest.json", lambda manifest: manifest.update(format=2))
    reseal(release)
    found = rows(release, levels=(3, 4))
    for name in ("verify.evaluation", "verify.data"):
        assert found[name].answer == "unknown", found[name]
        assert "format 2, but this ClearSeek reads 1" in found[name].reason


def test_a_transcript_of_a_later_version_is_left_open(release: Path) -> None:
    def later(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        return entry | ({} if number else {"format": "clearseek-transcript-3"})

    rewrite_lines(release, later)
    reseal(release)
    row = rows(release, levels=(5,))["verify.transcript"]
    assert row.answer == "unknown" and "clearseek-transcript-3" in row.reason


def test_a_format_that_never_was_is_a_forgery(release: Path) -> None:
    edit_json(release / "data/manifest.json", lambda manifest: manifest.update(format="x"))
    reseal(release)
    found = rows(release, levels=(3, 4))
    for name in ("verify.evaluation", "verify.data"):
        assert found[name].answer == "no", found[name]


def test_a_full_disk_here_says_nothing_of_the_release(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*arguments: object, **others: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clearseek.verify.model.export_hf", full)
    row = rows(made, levels=(2,))["verify.final"]
    assert row.answer == "unknown"
    assert "cannot be done here" in row.reason


def test_ctrl_c_signs_nothing(
    release: Path,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    advance = Training.advance

    def interrupted(training: Training) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return advance(training)

    monkeypatch.setattr(Training, "advance", interrupted)
    arguments = ["verify", str(release), "--levels", "5", "--sign", str(made.parent / "key")]
    assert main(arguments) == 130
    assert not (release / "attestations").exists()


def test_a_statement_says_what_was_asked_and_how_much_was_done(
    release: Path,
    made: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    key = made.parent / "key"
    assert main(["verify", str(release), "--levels", "0,5", "--key", f"{key}.pub", "--nonce", "n", "--json"]) == 0
    statement = json.loads(capsys.readouterr().out)["statement"]
    assert statement["subject"][0]["digest"]["sha256"] == sha256_file(release / MANIFEST)
    asked = statement["predicate"]["configuration"][0]["annotations"]
    assert asked["levels"] == [0, 5]
    assert asked["segments"] == {"trained": 1, "of": 3}
    assert asked["steps"]["of"] == 8 and asked["steps"]["trained"] in (2, 3)
    assert asked["publisherKey"] and asked["nonce"] == "n"


def test_others_can_attest_and_lift_rows_with_their_share(release: Path, tmp_path: Path) -> None:
    key = tmp_path / "mine"
    assert main(["verify", str(release), "--levels", "0,5", "--sign", str(key), "--make-key"]) == 0
    from clearseek.signing.keys import load_public_key

    found = rows(release, levels=(1,), trusted=(load_public_key(tmp_path / "mine.pub"),))
    for row in ("data.training", "code.training"):
        assert found[row].grade == Grade.REEXECUTED
        assert "of 8 steps" in found[row].reason
    assert found["documents.evaluation"].grade == Grade.CHECKED
    assert (found["verification.parties"].answer, found["verification.parties"].grade) == ("yes", Grade.REEXECUTED)
    assert rows(release, levels=(1,))["verification.parties"].answer == "unknown"
    assert main(["verify", str(release), "--levels", "0,1", "--trust", str(tmp_path / "mine.pub")]) == 0


@pytest.mark.slow
def test_a_run_with_one_thread_is_evaluated_with_one(tmp_path: Path, corpus: Path) -> None:
    recipe = tiny(data={"paths": [str(corpus / "*.txt")]}, train={"steps": 2, "threads": 1})
    run = Run(tmp_path / "run")
    before = torch.get_num_threads()
    try:
        train_recipe(recipe, run)
        torch.set_num_threads(2)
        assert main(["release", str(run.root), str(tmp_path / "Tiny")]) == 0
        assert rows(tmp_path / "Tiny", levels=(3,))["verify.evaluation"].answer == "yes"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("place", ["{run}/out", "{run}/data/out", "{release}/out"])
def test_a_release_stands_by_itself(
    made: Path,
    place: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Path(place.format(run=made.parent / "run", release=made))
    key = made.parent / "new"
    assert main(["release", str(made.parent / "run"), str(out), "--key", str(key), "--make-key"]) == 2
    assert "choose a folder elsewhere" in capsys.readouterr().err
    assert not out.exists()
    assert not key.exists() and not key.with_name("new.pub").exists()


def test_what_a_killed_attempt_left_is_cleared(tmp_path: Path, made: Path) -> None:
    left = tmp_path / ".Mine.0123456789abcdef.new"
    other = tmp_path / ".Other.0123456789abcdef.new"
    for folder in (left, other):
        folder.mkdir()
        (folder / "file").write_text("half")
    assert main(["release", str(made.parent / "run"), str(tmp_path / "Mine")]) == 0
    assert not left.exists()
    assert other.exists()
    assert read_manifest(tmp_path / "Mine/data").train.documents
    assert b"* -text" in (tmp_path / "Mine/.gitattributes").read_bytes()


def test_keys_that_others_can_read_and_keys_with_passwords(
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from clearseek.signing.keys import generate_key

    generate_key(tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    assert main(["verify", str(release), "--levels", "0", "--sign", str(tmp_path / "open")]) == 2
    assert "chmod 600" in capsys.readouterr().err
    generate_key(tmp_path / "locked", b"secret")
    arguments = ["verify", str(release), "--levels", "0", "--sign", str(tmp_path / "locked")]
    assert main(arguments) == 2
    assert "set CLEARSEEK_KEY_PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("CLEARSEEK_KEY_PASSWORD", "secret")
    assert main(arguments) == 0
