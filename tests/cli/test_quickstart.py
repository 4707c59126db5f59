from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sysconfig
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from clearseek.cli import build_parser, main, quickstart
from clearseek.cli.quickstart import PROMPTS, choose_recipe
from clearseek.errors import UserError
from clearseek.hub.read import import_hf
from clearseek.machine import Precision
from clearseek.model.transformer import DeepSeekModel
from clearseek.recipe import load_recipe
from clearseek.train.pretrain import PreTraining
from clearseek.train.run import Run
from clearseek.train.task import Batch
from clearseek.train.transcript import check_transcript

SETTINGS: dict[str, Any] = {
    "model.vocab_size": 512,
    "model.hidden_size": 64,
    "model.num_hidden_layers": 2,
    "model.num_attention_heads": 2,
    "model.q_lora_rank": 32,
    "model.kv_lora_rank": 32,
    "model.qk_nope_head_dim": 16,
    "model.qk_rope_head_dim": 16,
    "model.v_head_dim": 16,
    "model.intermediate_size": 96,
    "model.moe_intermediate_size": 32,
    "model.n_routed_experts": 8,
    "model.num_experts_per_tok": 2,
    "model.max_position_embeddings": 128,
    "data.sequence_length": 64,
    "train.steps": 4,
    "train.batch_size": 2,
    "train.micro_batch_size": 1,
    "train.threads": 1,
    "train.precision": "fp32",
    "data.held_out_fraction": 0.2,
}
TINY = [f"{key}={value}" for key, value in SETTINGS.items()]


def run_quickstart(runs: Path, settings: list[str]) -> dict[str, Any]:
    """The summary of a quickstart that went through."""
    options = [part for setting in settings for part in ("--set", setting)]
    with redirect_stdout(io.StringIO()) as out:
        assert quickstart.run(build_parser().parse_args(["quickstart", "--json", "--runs", str(runs), *options])) == 0
    summary: dict[str, Any] = json.loads(out.getvalue())
    return summary


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small standard library: a few modules of the real one."""
    folder = tmp_path_factory.mktemp("library")
    real = Path(sysconfig.get_path("stdlib"))
    for name in (
        "abc",
        "bisect",
        "copy",
        "csv",
        "cmd",
        "glob",
        "heapq",
        "hmac",
        "keyword",
        "linecache",
        "queue",
        "stat",
    ):
        shutil.copy(real / f"{name}.py", folder)
    return folder


def install(library: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the interpreter find its standard library there."""
    real: Callable[..., str] = sysconfig.get_path

    def get_path(name: str, *rest: Any, **options: Any) -> str:
        return str(library) if name == "stdlib" else real(name, *rest, **options)

    patch.setattr(sysconfig, "get_path", get_path)


@pytest.fixture(autouse=True)
def small_library(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(library, monkeypatch)


@pytest.fixture(scope="module")
def finished(library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of runs of a quickstart that went through, and its summary. Nothing in it is changed."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        install(library, patch)
        summary = run_quickstart(runs, TINY)
    return runs, summary


def stopped(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C arrives during this step of the next training."""
    original = PreTraining.batch

    def batch(self: PreTraining, step: int, model: DeepSeekModel) -> Batch:
        if step == after:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, step, model)

    monkeypatch.setattr(PreTraining, "batch", batch)


def test_everything_promised_is_there(finished: tuple[Path, dict[str, Any]]) -> None:
    runs, summary = finished
    run = runs / "quickstart"
    assert Path(summary["run"]) == run and Path(summary["export"]) == run / "export"
    for picture in ("loss.png", "experts.png"):
        assert (run / "pictures" / picture).read_bytes().startswith(b"\x89PNG\r\n")
    steps = check_transcript(run / "transcript.jsonl").steps
    assert len(steps) == 4 and steps[-1].weights_sha256 == summary["weights_sha256"]
    assert summary["finished"] and steps[-1].scalars["held_out_bpb"] == summary["held_out_bpb"]
    assert 0 < summary["compressors_bits_per_byte"]["xz -9 -e"] < 8 and 0 < summary["held_out_bpb"] < 9
    text = (run / "samples.txt").read_bytes().decode()
    assert len(summary["samples"]) == len(PROMPTS) and text == "\n\n".join(summary["samples"]) + "\n"
    assert all(sample.startswith(prompt) for sample, prompt in zip(summary["samples"], PROMPTS, strict=True))
    assert summary["same_weights_as"] == [] and summary["peak_memory_bytes"] > 0
    assert not list(run.rglob(".*"))


@pytest.mark.slow
def test_transformers_loads_the_export_and_computes_the_same(finished: tuple[Path, dict[str, Any]]) -> None:
    transformers = pytest.importorskip("transformers")
    run = Run(finished[0] / "quickstart")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(run.export, dtype=torch.float32)
    ours = run.load_model(dtype=torch.bfloat16)[0].set_dtype(torch.float32)
    tokens = torch.randint(0, 512, (2, 37), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (theirs(tokens).logits - ours.logits(tokens)).abs().max()
    assert difference <= 1e-4
    tokenizer = transformers.AutoTokenizer.from_pretrained(run.export)
    assert tokenizer.decode(tokenizer.encode("class A:", add_special_tokens=False)) == "class A:"


def test_the_export_is_the_model_in_bf16(finished: tuple[Path, dict[str, Any]]) -> None:
    run = Run(finished[0] / "quickstart")
    config, tensors = import_hf(run.export)
    trained = run.load_model()[0].state_dict()
    assert config == run.read_recipe().model and tensors.keys() == trained.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, trained[name] if name.endswith("bias") else trained[name].bfloat16())


def test_again_makes_another_run_of_the_same_bits(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished[0], tmp_path / "runs")
    (tmp_path / "runs/note.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "runs/damaged").mkdir()
    (tmp_path / "runs/damaged/transcript.jsonl").write_text("nonsense\n", encoding="utf-8")
    options = [part for setting in TINY for part in ("--set", setting)]
    assert main(["quickstart", "--runs", str(tmp_path / "runs"), *options]) == 0
    out = capfd.readouterr().out
    assert f"the same bits as {tmp_path / 'runs/quickstart'}\n" in out
    assert f"sha256 {finished[1]['weights_sha256']}\n" in out and "bits per byte   gzip -9 " in out
    first, second = (tmp_path / f"runs/{name}" for name in ("quickstart", "quickstart-2"))
    for name in ("transcript.jsonl", "samples.txt", "export/model.safetensors", "tokenizer.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_interrupted_it_goes_on_when_run_again(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stopped(2, patch)
        options = [part for setting in TINY for part in ("--set", setting)]
        assert main(["quickstart", "--runs", str(tmp_path), *options]) == 130
    assert "stopped after step 2, saved; run the same command to go on" in capfd.readouterr().out
    with pytest.raises(UserError, match=r"quickstart: an unfinished run with other settings: finish it with: "):
        run_quickstart(tmp_path, [*TINY, "train.steps=5"])
    summary = run_quickstart(tmp_path, TINY)
    assert summary["weights_sha256"] == finished[1]["weights_sha256"]
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["clearseek.cli.quickstart._samples", "clearseek.hub.write.export_hf"])
def test_interrupted_after_training_it_does_only_the_rest(
    stage: str, finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_quickstart(tmp_path, TINY)
    monkeypatch.setattr(PreTraining, "batch", lambda *arguments: pytest.fail("trained again"))
    summary = run_quickstart(tmp_path, TINY)
    assert summary["weights_sha256"] == finished[1]["weights_sha256"]
    assert summary["samples"] == finished[1]["samples"]
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


def test_other_settings_beside_a_finished_run_make_a_new_one(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "runs")
    summary = run_quickstart(tmp_path / "runs", [*TINY, "train.steps=1"])
    assert Path(summary["run"]).name == "quickstart-2" and summary["same_weights_as"] == []


def test_killed_while_preparing_it_starts_again(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    left = tmp_path / "quickstart/.data.0123456789abcdef.new"
    left.mkdir(parents=True)
    (tmp_path / "quickstart/transcript.jsonl").write_bytes(b"")
    summary = run_quickstart(tmp_path, TINY)
    assert summary["weights_sha256"] == finished[1]["weights_sha256"] and not left.exists()


@pytest.mark.parametrize("name", ["data/mine.txt", "mine.txt", "data"])
def test_a_folder_of_somebodys_own_is_left_alone(name: str, tmp_path: Path) -> None:
    file = tmp_path / "quickstart" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="quickstart"):
        run_quickstart(tmp_path, TINY)
    assert file.read_text(encoding="utf-8") == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_nothing_held_out_is_nothing_measured(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [
        part for setting in [*TINY, "data.held_out_fraction=0.0", "train.steps=1"] for part in ("--set", setting)
    ]
    assert main(["quickstart", "--runs", str(tmp_path), *options]) == 0
    assert "held-out text     none\n" in capfd.readouterr().out


@pytest.mark.slow
def test_in_json_the_summary_is_all_of_standard_output(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = [part for setting in [*TINY, "train.steps=1"] for part in ("--set", setting)]
    assert main(["quickstart", "--json", "--runs", str(tmp_path), *options]) == 0
    summary = json.loads(capfd.readouterr().out)
    assert summary["steps"] == 1 and summary["run"] == str(tmp_path / "quickstart")


def test_a_context_too_short_for_the_samples_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_position_embeddings = 2: the samples at the end need at least 12"):
        run_quickstart(tmp_path, [*TINY, "model.max_position_embeddings=2", "data.sequence_length=2"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("dtype", "rate", "name"),
    [
        (torch.bfloat16, 800e9, "quickstart"),  # two cores of an EPYC with AVX-512 BF16
        (torch.float32, 116e9, "quickstart-small"),  # two AVX2 cores
        (torch.float32, 2000e9, "quickstart"),
    ],
)
def test_the_recipe_suits_the_machine(
    dtype: torch.dtype, rate: float, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    kind = "bf16" if dtype == torch.bfloat16 else "fp32"
    monkeypatch.setattr("clearseek.machine.pick_precision", lambda *_: Precision(dtype, {kind: rate}))
    chosen, why = choose_recipe(tmp_path, [])
    assert chosen == name and f"{rate / 1e9:,.0f} GFLOP/s in {kind.upper()}" in why


def test_a_begun_run_keeps_its_recipe_whatever_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "quickstart")
    run.root.mkdir()
    run.write_recipe(load_recipe("quickstart-small"))
    run.transcript.write_text("{}\n")
    monkeypatch.setattr("clearseek.machine.pick_precision", lambda *_: pytest.fail("measured"))
    assert choose_recipe(tmp_path, []) == ("quickstart-small", f"as in {run.root}")
