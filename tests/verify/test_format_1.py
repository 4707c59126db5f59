"""A release that ClearSeek 0.1 made, with a transcript of format 1, is still audited and verified."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from clearseek.errors import UserError
from clearseek.train.extend import longer_recipe
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.transcript import check_transcript
from clearseek.train.writer import TranscriptWriter
from clearseek.verify.replay import Release, Replay, Segment, every_segment, open_release
from clearseek.verify.run import verify_release
from tests.releases import compared

pytest.importorskip("cryptography", reason="signing needs the extra `release`")
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release, with its key and the texts that its data were made from beside it."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(FIXTURES / "format-1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "Tiny"


@pytest.fixture
def old_extended(old: Path, tmp_path: Path) -> Release:
    """What verification needs of a run that ClearSeek 0.1 went on with, from the old release's end to step 8."""
    folder = tmp_path / "extended"
    with tarfile.open(FIXTURES / "format-1-extended.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    (folder / "data").symlink_to(old / "data")
    (folder / "training" / "parent" / "step-00000006").symlink_to(old / "checkpoints" / "step-00000006")
    return open_release(folder)


@pytest.fixture
def old_run(old: Path, tmp_path: Path) -> Run:
    """The run that it was made from, as far as the release has it."""
    run = Run(tmp_path / "run")
    run.root.mkdir()
    for name in ("recipe.json", "transcript.jsonl"):
        (run.root / name).write_bytes((old / "training" / name).read_bytes())
    run.checkpoints.symlink_to(old / "checkpoints")
    return run


def test_its_rows_of_the_definition_are_cross_checked(old: Path) -> None:
    found = compared(old)
    assert [(row.id, row.answer, row.reason) for row in found.of("definition") if row.answer != "yes"] == []
    assert [row.id for row in found.of("technical") if row.answer in ("no", "partly")] == []


@pytest.mark.slow
def test_it_is_verified_as_far_as_its_bits_can_be_made_here(old: Path) -> None:
    verified = verify_release(old, (0, 1, 2, 3, 4, 6), public_key=old.parent / "key.pub")
    found = {row.id: row for row in verified.rows}
    told = "\n".join(f"{row.id} {row.answer}: {row.reason}" for row in found.values())
    for name in ("files", "signature", "static", "complete", "final", "data", "documents"):
        assert found[f"verify.{name}"].answer == "yes", told
    for name in ("logits", "evaluation"):  # to the bit on machines of one kind
        assert found[f"verify.{name}"].answer in ("yes", "unknown"), told
    assert found["verify.code"].answer == "unknown" and "before ClearSeek 0.2" in found["verify.code"].reason
    assert found["verify.steps.1-3"].answer == "unknown", told
    assert "ClearSeek 0.1" in found["verify.steps.1-3"].reason
    assert found["verify.drift.4-6"].answer == "yes", told
    assert (verified.segments, verified.steps) == ((1, 2), (3, 6))


def test_its_history_is_read(old_run: Run) -> None:
    record = check_transcript(old_run.transcript)
    assert (record.version, record.begin, len(record.steps), record.torn) == (1, 0, 6, False)
    assert [sorted(step.scalars) for step in record.steps] == [
        ["held_out_bpb", "loss", "mtp_loss"] if step in (2, 4, 6) else ["loss", "mtp_loss"] for step in range(1, 7)
    ]
    assert record.steps[-1].tokens == 6 * 4 * 32


def test_a_changed_byte_is_found(old_run: Run) -> None:
    raw = old_run.transcript.read_bytes()
    old_run.transcript.write_bytes(raw.replace(b'"tokens":256', b'"tokens":257'))
    with pytest.raises(UserError, match="line 4: its hash of line 3 is wrong"):
        check_transcript(old_run.transcript)


def test_it_does_not_go_on_here(old_run: Run) -> None:
    before = old_run.transcript.read_bytes()
    with pytest.raises(UserError, match=r"format 1: ClearSeek 0\.1 began this run, and .* gives other bits"):
        TranscriptWriter.resume(old_run.transcript, {}, 3)
    assert old_run.transcript.read_bytes() == before


@pytest.mark.parametrize("from_step", [None, 3])
def test_training_on_says_which_version_began_it(old: Path, old_run: Run, from_step: int | None) -> None:
    with pytest.raises(UserError, match=r"format 1: ClearSeek 0\.1 began this run"):
        train_recipe(old_run.read_recipe(), old_run, old / "data", resume=True, from_step=from_step)


def test_a_new_run_may_begin_where_it_ended(old: Path, old_run: Run, tmp_path: Path) -> None:
    """Weights, optimiser and step are taken over; what is new is the way the new run's bits are made."""
    run = Run(tmp_path / "more")
    outcome = train_recipe(longer_recipe(old_run, 2), run, old / "data", parent=old_run)
    assert outcome.finished and outcome.steps == 8
    made = check_transcript(run.transcript)
    assert (made.version, made.begin, [step.tokens for step in made.steps]) == (2, 6, [7 * 4 * 32, 8 * 4 * 32])
    assert made.header["parent"]["transcript_head"] == check_transcript(old_run.transcript).head


def test_tokens_of_a_run_that_went_on_are_counted_from_its_beginning(old_extended: Release) -> None:
    """Format 1 does not record the parent's tokens: they follow from its steps."""
    assert (old_extended.begin, every_segment(old_extended)) == (6, (Segment(6, 8),))
    records, _ = Replay(old_extended).train(Segment(6, 8))
    assert [record.tokens for record in records] == [7 * 4 * 32, 8 * 4 * 32]
    for ours, theirs in zip(records, old_extended.transcript.steps, strict=True):
        assert ours.tokens == theirs.tokens
        assert ours.scalars["loss"] == pytest.approx(theirs.scalars["loss"], rel=1e-5)
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def test_a_run_that_went_on_may_be_gone_on_with_again(old: Path, old_extended: Release, tmp_path: Path) -> None:
    parent = Run(tmp_path / "parent")
    parent.root.mkdir()
    for path in old_extended.run.root.iterdir():
        (parent.root / path.name).symlink_to(path)
    parent.checkpoints.symlink_to(old_extended.checkpoints)
    with pytest.raises(UserError, match=r"format 1: ClearSeek 0\.1 began this run"):
        train_recipe(parent.read_recipe(), parent, old / "data", resume=True)
    run = Run(tmp_path / "more")
    train_recipe(longer_recipe(parent, 1), run, old / "data", parent=parent)
    assert [step.tokens for step in check_transcript(run.transcript).steps] == [9 * 4 * 32]
