from __future__ import annotations

import json
from pathlib import Path

import pytest

from clearseek.cli import main
from tests.releases import make_release


def test_formats_and_out(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(release), "--name", "Tiny"]) == 0
    assert "parameters.total" in capsys.readouterr().out
    assert main(["audit", str(release), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {row["id"] for row in content["rows"]} >= {"weights.final", "data.training"}
    assert {view["id"] for view in content["views"]} == {"plain", "mof", "osaid", "osai", "ai-act"}
    for kind in ("html", "markdown", "cyclonedx", "json"):
        out = tmp_path / kind
        assert main(["audit", str(release), "--format", kind, "--out", str(out)]) == 0
        assert out.stat().st_size > 500


def test_compare(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = make_release(tmp_path / "Other")
    assert main(["audit", str(release), str(other), "--compare"]) == 0
    out = capsys.readouterr().out
    assert "Tiny" in out
    assert "Other" in out


def test_required_rows_decide_the_exit_code(release: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(release), "--require", "weights.tensors=E4"]) == 0
    assert main(["audit", str(release), "--require", "data.training"]) == 1
    assert "data.training is “no”, E0" in capsys.readouterr().err
    (release / "config.json").unlink()  # without one, it is not asked how large the checkpoint is
    assert main(["audit", str(release), "--require", "parameters.stored"]) == 1
    assert "parameters.stored does not concern it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["nowhere"], "no such folder"),
        (["{}", "{}"], "add --compare"),
        (["{}", "--format", "text", "--out", "x"], "choose its --format"),
        (["{}", "--require", "no.such"], "no row no.such"),
        (["{}", "--require", "data.trainig=E3"], 'no row data.trainig (did you mean "data.training"?)'),
        (["{}", "--require", "data.training=E9"], "must be E1 to E5"),
        (["{}", "{}", "--compare", "--format", "mot"], "shows one release"),
    ],
)
def test_wrong_use(release: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *(each.format(release) for each in arguments)]) == 2
    assert what in capsys.readouterr().err


def test_a_mistyped_folder_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(name: str) -> None:
        raise AssertionError(name)

    monkeypatch.setattr("clearseek.audit.hub.Hub", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert main(["audit", "models/tpyo"]) == 2
    assert "models/tpyo: no such folder, while models is one" in capsys.readouterr().err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["audit", "somebody/model"]) == 2
    assert "HF_HUB_OFFLINE" in capsys.readouterr().err
