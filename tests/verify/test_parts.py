"""A run verified in parts by machines that do not talk: divided, joined, and the verdict of a whole verification."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import clearseek
from clearseek.cli import main
from clearseek.errors import UserError
from clearseek.signing.keys import generate_key, load_public_key
from clearseek.verify.join import Joined, join
from clearseek.verify.parts import MOST, Part, divide, parse_part
from clearseek.verify.replay import Segment
from clearseek.verify.run import verify_release
from clearseek.verify.statement import as_statement, result_of
from tests.release.test_make import other_machine, rewrite_history, rewrite_lines
from tests.releases import compared
from tests.verify.test_forgery import reseal, scale_all

pytest.importorskip("cryptography", reason="signing needs the extra `release`")
Statement = dict[str, Any]


@given(
    lengths=st.lists(st.integers(1, 1000), max_size=60),
    count=st.integers(1, 80),
    begin=st.integers(0, 5),
)
def test_every_segment_is_in_one_part_and_parts_are_a_segment_apart(lengths: list[int], count: int, begin: int) -> None:
    ends = [begin]
    for length in lengths:
        ends.append(ends[-1] + length)
    segments = tuple(Segment(one, other) for one, other in pairwise(ends))
    shares = divide(segments, count)
    assert len(shares) == count
    assert sorted(sum(shares, ()), key=lambda each: each.begin) == list(segments)
    steps = [sum(each.steps for each in share) for share in shares]
    assert max(steps) - min(steps) <= max(lengths, default=0)
    assert steps == sorted(steps, reverse=True), "the last part, which has other work to do, has the fewest steps"
    assert shares == divide(segments, count) == divide(segments[::-1], count)
    assert all(list(share) == sorted(share, key=lambda each: each.begin) for share in shares)


@pytest.mark.parametrize(
    "text", ["0/20", "21/20", "x/y", "3", "3/20/1", "", "-1/3", "1/0", "1.5/3", "٣/٢٠", f"1/{MOST + 1}", "1/9999999"]
)
def test_a_part_that_is_none_is_refused(text: str, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="such as 3/20"):
        parse_part(text)
    assert main(["verify", str(made), f"--part={text}", "--out", "x.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_part_is_its_number_and_how_many() -> None:
    assert parse_part("3/20") == Part(3, 20) and not Part(3, 20).last
    assert parse_part("1/1").last


@pytest.fixture(scope="module")
def parts(made: Path) -> list[Statement]:
    """Statements of three parts of all levels."""
    return spoken(made, 3, levels=(0, 1, 2, 3, 4, 6), read_sources=True)


def spoken(release: Path, count: int, machine: str = "one", **options: Any) -> list[Statement]:
    """Statements of all parts."""
    options = {"levels": (0, 6), "nonce": "n"} | options
    return [
        as_statement(verify_release(release, part=Part(number, count), **options), {"processor": machine})
        for number in range(1, count + 1)
    ]


def written(folder: Path, statements: list[Statement]) -> list[Path]:
    """Their files."""
    files = [folder / f"part-{number}.json" for number in range(1, len(statements) + 1)]
    for file, statement in zip(files, statements, strict=True):
        file.write_text(json.dumps(statement))
    return files


def joined(release: Path, folder: Path, statements: list[Statement]) -> Joined:
    return join(release, written(folder, statements))


def results_of(statement: Statement) -> dict[str, list[str]]:
    return {key: sorted(statement["predicate"][key]) for key in ("passedTests", "failedTests", "warnedTests")}


def test_the_parts_joined_say_what_a_whole_verification_says(
    made: Path, parts: list[Statement], tmp_path: Path
) -> None:
    whole = verify_release(made, (0, 1, 2, 3, 4, 6), "n", read_sources=True)
    found = joined(made, tmp_path, parts[::-1])
    ours, theirs = found.statement(), as_statement(whole, {})
    assert ours["predicate"]["result"] == "PASSED"
    assert results_of(ours) == results_of(theirs)
    assert (found.segments, found.steps) == (whole.segments, whole.steps) == ((3, 3), (8, 8))
    assert [each["predicate"]["configuration"][0]["annotations"]["part"]["segments"] for each in parts] == [
        [[0, 3]], [[3, 6]], [[6, 8]],
    ]  # fmt: skip
    trained = [[each for each in results_of(part)["passedTests"] if ".steps." in each] for part in parts]
    assert trained == [["verify.steps.1-3"], ["verify.steps.4-6"], ["verify.steps.7-8"]]
    assert "verify.evaluation" in results_of(parts[2])["passedTests"]
    assert "verify.evaluation" not in results_of(parts[0])["passedTests"], "the last part does what cannot be divided"
    assert not found.signed


def test_parts_without_a_segment_have_nothing_to_do(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"{number}.json" for number in range(1, 6)]
    for number, file in enumerate(files, 1):
        assert main(["verify", str(made), "--part", f"{number}/5", "--out", str(file)]) == 0
        printed = capsys.readouterr()
        assert ("no segment is left to train, for the run has 3" in printed.err) == (number > 3)
        assert f"part {number} of 5: PASSED" in printed.out
    assert main(["verify", str(made), "--join", *map(str, files), "--out", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert "PASSED: 6 of 6; 3 of 3 segments trained again, 8 of 8 steps (100.0%); 5 parts on 1 kind" in printed
    assert "nobody signed the parts, so who ran them is not proven" in printed
    statement = json.loads((tmp_path / "all.json").read_text())
    said = statement["predicate"]["configuration"][0]["annotations"]
    assert [each["key"] for each in said["joined"]] == [None] * 5


@pytest.mark.parametrize("step", [pytest.param(2, marks=pytest.mark.slow), 5, pytest.param(8, marks=pytest.mark.slow)])
def test_a_forged_line_is_found_by_the_part_that_has_it(made: Path, tmp_path: Path, step: int) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))

    def change(number: int, entry: dict[str, Any]) -> dict[str, Any]:
        return entry | ({"grad_norm": (1.0).hex()} if number == step else {})

    rewrite_lines(release, change)
    found = joined(release, tmp_path, spoken(release, 3))
    own = next(number for number, last in ((1, 3), (2, 6), (3, 8)) if step <= last)
    assert [piece.result.verdict for piece in found.pieces].count("FAILED") == 1
    assert found.pieces[own - 1].result.failed == found.result.failed
    assert list(found.pieces[own - 1].reasons) == list(found.result.failed)
    assert found.result.verdict == result_of(verify_release(release, (0, 6))).verdict == "FAILED"


def test_a_forged_checkpoint_is_found_by_the_parts_that_end_and_begin_with_it(made: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))
    rewrite_history(release, scale_all(1.01))
    found = joined(release, tmp_path, spoken(release, 3))
    assert [piece.result.verdict for piece in found.pieces] == ["PASSED", "FAILED", "FAILED"]
    assert found.result.failed == ("verify.steps.4-6", "verify.steps.7-8")
    assert (found.segments, found.steps) == ((3, 3), (8, 8))  # those that failed were trained again, too


def test_a_release_that_cannot_be_read_fails_in_parts_as_it_does_whole(made: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))
    (release / "training/transcript.jsonl").write_text("{}\n")
    reseal(release)
    found = joined(release, tmp_path, spoken(release, 3))
    assert found.result == result_of(verify_release(release, (0, 6)))
    assert found.result.failed == ("verify.transcript",)


def test_a_machine_that_lost_a_file_fails_and_nothing_is_refused(
    made: Path, parts: list[Statement], tmp_path: Path
) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))
    (release / "training/transcript.jsonl").unlink()
    lost = as_statement(verify_release(release, (0, 1, 2, 3, 4, 6), "n", part=Part(2, 3)), {})
    found = joined(made, tmp_path, [parts[0], lost, parts[2]])
    assert found.result.failed == ("verify.files", "verify.transcript")
    assert found.segments == (2, 3)


def test_what_one_part_left_undecided_is_undecided(made: Path, parts: list[Statement], tmp_path: Path) -> None:
    other = json.loads(json.dumps(parts))
    predicate = other[1]["predicate"]
    predicate["passedTests"].remove("verify.files")
    predicate |= {"warnedTests": ["verify.files"], "result": "WARNED"}
    found = joined(made, tmp_path, other).result
    assert found.undecided == ("verify.files",) and "verify.files" not in found.passed and found.verdict == "WARNED"


@pytest.mark.slow
def test_a_band_in_one_part_is_a_band_in_all(made: Path, tmp_path: Path) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))
    rewrite_history(release, scale_all(1 + 2.0**-20))
    rewrite_lines(release, other_machine)
    found = joined(release, tmp_path, spoken(release, 3))
    assert found.result.verdict == result_of(verify_release(release, (0, 6))).verdict == "WARNED"
    assert "verify.drift.4-6" in found.result.passed and "verify.drift.4-6" in found.pieces[1].reasons


def test_the_joined_statement_says_where_each_part_ran(made: Path, parts: list[Statement], tmp_path: Path) -> None:
    other = json.loads(json.dumps(parts))
    other[1]["predicate"]["environment"]["processor"] = "two"
    found = joined(made, tmp_path, other)
    machines = found.statement()["predicate"]["environment"]["machines"]
    assert [(each["parts"], each["environment"]["processor"]) for each in machines] == [([1, 3], "one"), ([2], "two")]
    assert found.told == "3 parts on 2 kinds of machine"


def test_the_template_of_a_matrix_does_what_it_says(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = yaml.safe_load((Path(clearseek.__file__).parents[1] / "cluster/verify-matrix.yml").read_text())["jobs"]
    assert jobs["part"]["strategy"]["matrix"]["part"] == list(range(1, 21))
    assert not jobs["part"]["strategy"]["fail-fast"] and jobs["join"]["needs"] == "part"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, "release")
    Path("parts").mkdir()

    def run(job: str, folder: str, **values: int) -> int:
        (line,) = [step["run"] for step in jobs[job]["steps"] if step.get("run", "").startswith("clearseek ")]
        for name, value in values.items():
            line = re.sub(rf"\${{{{ \w+\.{name} }}}}", str(value), line)
        line = line.replace("--out part-", f"--out {folder}/part-")
        assert "${{" not in line
        words = [found for word in shlex.split(line)[1:] for found in (sorted(map(str, Path().glob(word))) or [word])]
        return main(words)

    for number in range(1, 5):
        assert run("part", "parts", part=number, **{"job-total": 4}) == 0
    assert run("join", ".") == 0
    assert "3 of 3 segments trained again, 8 of 8 steps (100.0%); 4 parts on 1 kind" in capsys.readouterr().out
    result = json.loads(Path("verified.json").read_text())["predicate"]
    assert result["result"] == "WARNED" and result["warnedTests"] == ["verify.data_rebuilt"], "its source is not here"


# -- signed parts -----------------------------------------------------------------------------------------------------


def test_signed_parts_are_joined_by_their_keys_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    release, key, other = Path(shutil.copytree(made, tmp_path / "Tiny")), tmp_path / "key", tmp_path / "other"
    for each in (key, other):
        generate_key(each)
    for number in (1, 2):
        assert main(["verify", str(release), "--part", f"{number}/2", "--sign", str(key), "--nonce", "n"]) == 0
    files = sorted(map(str, (release / "attestations").glob("*.json")))
    assert [file.rpartition("-part-")[2] for file in files] == ["1-of-2.json", "2-of-2.json"]
    joining = ["verify", str(release), "--join", *files]
    assert main(joining) == 2
    assert "give its public key with --trust" in capsys.readouterr().err
    assert main([*joining, "--trust", f"{other}.pub"]) == 2
    assert "give its public key with --trust" in capsys.readouterr().err
    assert main([*joining, "--trust", f"{key}.pub", "--sign", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "nobody signed" not in printed and printed.count("; signed by ") == 2
    row = compared(release, load_public_key(Path(f"{other}.pub")))["data.training"]
    assert "8 of 8 steps in 2 parts" in row.reason and "nobody signed" not in row.reason
    bundle = json.loads(Path(files[0]).read_text())
    bundle["verificationMaterial"]["publicKey"]["hint"] = load_public_key(Path(f"{other}.pub")).fingerprint
    Path(files[0]).write_text(json.dumps(bundle))
    assert main([*joining, "--trust", f"{key}.pub", "--trust", f"{other}.pub"]) == 2
    assert "the signature does not fit" in capsys.readouterr().err


def test_with_keys_a_part_that_nobody_signed_is_refused(made: Path, parts: list[Statement], tmp_path: Path) -> None:
    key = generate_key(tmp_path / "key")
    with pytest.raises(UserError, match="nobody signed it, and --trust asks for signed parts"):
        join(made, written(tmp_path, parts), (key,))


def test_a_joined_statement_of_unsigned_parts_says_so_to_readers(
    made: Path, parts: list[Statement], tmp_path: Path
) -> None:
    release = Path(shutil.copytree(made, tmp_path / "Tiny"))
    files, key = written(tmp_path, parts), tmp_path / "key"
    generate_key(key)
    assert main(["verify", str(release), "--join", *map(str, files), "--sign", str(key)]) == 0
    row = compared(release, load_public_key(Path(f"{key}.pub")))["data.training"]
    assert "8 of 8 steps in 3 parts, which nobody signed" in row.reason


# -- what is no set of parts ------------------------------------------------------------------------------------------


def annotations(statement: Statement) -> dict[str, Any]:
    found: dict[str, Any] = statement["predicate"]["configuration"][0]["annotations"]
    return found


def _other_version(parts: list[Statement]) -> None:
    annotations(parts[1])["version"] = "0.1.0"


def _other_release(parts: list[Statement]) -> None:
    parts[1]["subject"][0]["digest"]["sha256"] = "0" * 64


def _other_transcript(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["transcript"] = "0" * 64


def _other_code(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["code"] = "0" * 64


def _other_count(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["of"] = 4


def _other_levels(parts: list[Statement]) -> None:
    annotations(parts[1])["levels"] = [0, 6]


def _other_segments(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["segments"] = [[0, 3]]


def _other_steps(parts: list[Statement]) -> None:
    predicate = parts[1]["predicate"]
    predicate["passedTests"] = [name.replace("4-6", "1-3") for name in predicate["passedTests"]]


def _steps_left_out(parts: list[Statement]) -> None:
    parts[1]["predicate"]["passedTests"].remove("verify.steps.4-6")


def _hashes_left_out(parts: list[Statement]) -> None:
    parts[1]["predicate"]["passedTests"].remove("verify.files")


def _code_left_out(parts: list[Statement]) -> None:
    parts[1]["predicate"]["passedTests"].remove("verify.code")


def _nothing_read(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["transcript"] = ""


def _other_transcript_in_all(parts: list[Statement]) -> None:
    for each in parts:
        annotations(each)["part"]["transcript"] = "0" * 64


def _passed_after_all(parts: list[Statement]) -> None:
    parts[1]["predicate"]["failedTests"] = ["verify.steps.4-6"]
    parts[1]["predicate"]["passedTests"].remove("verify.steps.4-6")


def _passed_and_failed(parts: list[Statement]) -> None:
    parts[1]["predicate"] |= {"failedTests": ["verify.steps.4-6"], "result": "FAILED"}


def _whole(parts: list[Statement]) -> None:
    del annotations(parts[1])["part"]


def _twice(parts: list[Statement]) -> None:
    annotations(parts[1])["part"] = annotations(parts[0])["part"]
    parts[1]["predicate"]["passedTests"] = parts[0]["predicate"]["passedTests"]


def _one_less(parts: list[Statement]) -> None:
    del parts[1]


def _beyond(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["number"] = 4


def _number_of_text(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["number"] = "2"


def _one_thing_more(parts: list[Statement]) -> None:
    annotations(parts[1])["part"]["verdict"] = "PASSED"


def _huge(parts: list[Statement]) -> None:
    parts[1]["predicate"]["environment"]["processor"] = "x" * 50_000


def _other_kind(parts: list[Statement]) -> None:
    parts[1]["predicateType"] = "https://slsa.dev/provenance/v1"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_other_version, "made by ClearSeek 0.1.0"), (_other_release, "another release"),
        (_other_transcript, "another transcript"), (_other_code, "another code"),
        (_other_count, "the number of parts is 4, and 3"), (_other_levels, "the levels"),
        (_other_segments, "other segments than part 2 of 3"), (_other_steps, "not of the steps of part 2 of 3"),
        (_steps_left_out, "not of the steps of part 2 of 3"), (_hashes_left_out, "does not say whether"),
        (_code_left_out, "by what code it trained"), (_nothing_read, "another transcript ()"),
        (_other_transcript_in_all, "than this release's"),
        (_passed_after_all, "does not follow from its tests"), (_passed_and_failed, "does not follow from its tests"),
        (_whole, "a whole verification, not of a part"), (_twice, "part 1 is here twice"),
        (_one_less, "1 part of 3 missing: 2"), (_beyond, "part 4 of 3"),
        (_number_of_text, "part.number"), (_one_thing_more, "part.verdict"), (_huge, "too long"),
        (_other_kind, "something else than the result"),
    ],
)  # fmt: skip
def test_what_are_not_all_the_parts_of_one_re_execution_is_refused(
    made: Path,
    parts: list[Statement],
    tmp_path: Path,
    spoil: Callable[[list[Statement]], None],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoilt = json.loads(json.dumps(parts))
    spoil(spoilt)
    files = written(tmp_path, spoilt)
    assert main(["verify", str(made), "--join", *map(str, files)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"[]", b"{", b"null", b"\xff{", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"predicate": NaN}', b"{}",
        b'{"dsseEnvelope": 1}', b'{"_type": "https://in-toto.io/Statement/v1", "subject": []}',
        b'{"a": "' + b"x" * 5_000_000 + b'"}',
    ],
)  # fmt: skip
def test_hostile_json_is_one_error(
    made: Path, parts: list[Statement], tmp_path: Path, raw: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    files = written(tmp_path, parts)
    files[1].write_bytes(raw)
    assert main(["verify", str(made), "--join", *map(str, files)]) == 2
    error = capsys.readouterr().err
    assert "part-2.json" in error and error.count("\n") == 1


@pytest.mark.parametrize("value", ["HUGE", {"a": [{}] * 3}, None, [], "x", -1, 1.5])
@pytest.mark.parametrize(
    "place",
    [("predicate",), ("predicate", "configuration"), ("predicate", "environment"), ("predicate", "passedTests"),
     ("predicate", "configuration", 0, "annotations"), ("predicate", "configuration", 0, "annotations", "part"),
     ("predicate", "configuration", 0, "annotations", "part", "of"),
     ("predicate", "configuration", 0, "annotations", "part", "segments"), ("subject",)],
)  # fmt: skip
def test_a_statement_of_another_form_is_a_users_error(
    made: Path, parts: list[Statement], tmp_path: Path, place: tuple[Any, ...], value: Any
) -> None:
    spoilt: Any = json.loads(json.dumps(parts))
    inner = spoilt[1]
    for key in place[:-1]:
        inner = inner[key]
    if place[-1] == "environment" and isinstance(value, dict):
        return  # a description may hold anything
    inner[place[-1]] = value
    files = written(tmp_path, spoilt)
    files[1].write_text(files[1].read_text().replace('"HUGE"', "1" + "0" * 6000))
    with pytest.raises(UserError):
        join(made, files)


def test_a_part_of_another_release_is_not_joined(made: Path, parts: list[Statement], tmp_path: Path) -> None:
    other = Path(shutil.copytree(made, tmp_path / "Tiny"))
    (other / "README.md").write_text("another card")
    reseal(other)
    with pytest.raises(UserError, match="another release"):
        joined(other, tmp_path, parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--part", "1/3"], "say where its statement goes"),
        (["--part", "1/3", "--out", "/nowhere/at/all.json"], "its folder does not exist"),
        (["--part", "1/3", "--out", "x.json", "--levels", "0,5"], "must have 6, not 5"),
        (["--part", "1/3", "--out", "x.json", "--levels", "0,1"], "must have 6, not 5"),
        (["--part", "1/3", "--out", "x.json", "--segments", "2"], "leave out --segments"),
        (["--join", "x.json", "--part", "1/3"], "leave out --part"),
        (["--join", "x.json", "--levels", "0", "--nonce", "n"], "leave out --levels, --nonce"),
        (["--join", "/nowhere.json"], "/nowhere.json: cannot read"),
        (["--levels", ""], "--levels"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    made: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(made), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_versions_of_statements_are_this_ones(parts: list[Statement]) -> None:
    assert {annotations(part)["version"] for part in parts} == {clearseek.__version__}
