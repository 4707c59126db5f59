"""Teachers: which are taken, and that their soft labels are those of their logits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clearseek.cli import main
from clearseek.config import DistilConfig
from clearseek.data.loader import Stream
from clearseek.data.tokenizer import Tokenizer
from clearseek.errors import UserError
from clearseek.posttrain import soft_labels
from clearseek.posttrain.soft_labels import SoftLabels, likeliest, write_soft_labels
from clearseek.posttrain.teacher import open_teacher
from clearseek.train.run import Run
from clearseek.train.session import train_recipe
from clearseek.train.transcript import last_line
from tests.posttrain.test_distil import losses, models, recipe
from tests.tiny import tiny

__all__ = ["models"]


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 20), st.floats(0.2, 5.0))
def test_soft_labels_are_the_largest_log_probabilities(seed: int, top_k: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden_TD, head_VD = torch.randn(7, 5, generator=generator), torch.randn(20, 5, generator=generator)
    ids_TK, logp_TK, rest_T = likeliest(hidden_TD, head_VD, top_k, temperature)
    whole_TV = torch.log_softmax((hidden_TD.double() @ head_VD.double().T) / temperature, dim=1)
    expected_TK = whole_TV.sort(dim=1, descending=True).values[:, :top_k]
    torch.testing.assert_close(logp_TK.double(), expected_TK, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole_TV.gather(1, ids_TK), expected_TK, rtol=1e-5, atol=1e-5)
    assert torch.allclose(rest_T.double().exp(), 1 - expected_TK.exp().sum(1), atol=1e-5)


@pytest.mark.parametrize("vocab_size", [300, 70_000])
def test_kept_soft_labels_are_those_of_their_windows(
    vocab_size: int, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However windows fall into files."""
    generator = torch.Generator().manual_seed(3)
    table_VD = torch.randn(300, 4, generator=generator)

    class Table:
        head_weight = torch.randn(vocab_size, 4, generator=generator)

        def __call__(self, tokens_BS: torch.Tensor) -> torch.Tensor:
            return table_VD[tokens_BS]

    length, top_k, windows, stream = 16, 5, 11, Stream(data, "train")
    monkeypatch.setattr(soft_labels, "SHARD_BYTES", 4 * soft_labels.window_bytes(length, top_k, vocab_size))
    monkeypatch.setattr(soft_labels, "_TOKENS", 3 * length)
    seen: list[tuple[int, int]] = []
    names = write_soft_labels(
        tmp_path, Table(), stream, windows, length, top_k, 2.0, lambda *done: seen.append(done)
    )  # fmt: skip
    assert names == [f"teacher-0000{number}.safetensors" for number in range(3)] and seen[-1] == (windows, windows)
    sizes = [(tmp_path / name).stat().st_size for name in names]
    assert sum(sizes) < windows * soft_labels.window_bytes(length, top_k, vocab_size) + 3 * 300
    labels = SoftLabels(tmp_path, names)
    assert len(labels) == windows
    chosen = np.array([10, 0, 4, 3, 3])
    found = labels.rows(chosen, torch.device("cpu"))
    tokens_T = torch.from_numpy(np.concatenate([stream[n * length : (n + 1) * length] for n in chosen.tolist()]))
    expected = likeliest(table_VD[tokens_T], Table.head_weight, top_k, 2.0)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_a_run_and_its_export_are_one_teacher(tmp_path: Path, models: Path) -> None:
    run, exported = models / "big", tmp_path / "exported"
    assert main(["export", str(run), str(exported), "--dtype", "fp32"]) == 0
    sha256 = Tokenizer.load(run / "tokenizer.json").sha256
    found = [open_teacher(DistilConfig(teacher=str(each)), sha256, 300) for each in (run, exported)]
    end = last_line(run / "transcript.jsonl").record
    assert end is not None and {each.weights_sha256 for each in found} == {end.weights_sha256}
    tokens_BS = torch.arange(40).view(2, 20)
    one, other = (each.network(tokens_BS) for each in found)
    assert torch.equal(one, other)


def llama(folder: Path, tokenizer: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64,
    )  # fmt: skip
    torch.manual_seed(1)
    return saved(transformers.LlamaForCausalLM(config), folder, tokenizer)


def gemma(folder: Path, tokenizer: Path) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.Gemma2Config(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=64, final_logit_softcapping=0.1,
        initializer_range=2.0,
    )  # fmt: skip
    return saved(transformers.Gemma2ForCausalLM(config), folder, tokenizer)


def saved(model: Any, folder: Path, tokenizer: Path) -> Path:
    model.save_pretrained(folder)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    return folder


def test_a_teacher_of_another_architecture(tmp_path: Path, models: Path, corpus: Path) -> None:
    folder = llama(tmp_path / "llama", models / "small" / "tokenizer.json")
    file = recipe(tmp_path, models, corpus, {"teacher": str(folder)})
    assert main(["train", str(file), "--run", str(tmp_path / "run")]) == 0
    found = losses(tmp_path / "run")
    assert found[-1] < found[0]
    record = json.loads((tmp_path / "run" / "teacher" / "teacher.json").read_text())
    assert record["name"] == "llama"
    teacher = open_teacher(DistilConfig(teacher=str(folder)), record["tokenizer_sha256"], 300)
    assert teacher.weights_sha256 == record["weights_sha256"]
    from transformers import AutoModelForCausalLM

    tokens_BS = torch.arange(40).view(2, 20)
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(tokens_BS).logits
    ours = teacher.network(tokens_BS) @ teacher.network.head_weight.T
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


def damaged(folder: Path, tokenizer: Path) -> Path:
    llama(folder, tokenizer)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    return folder


def pickled(folder: Path, tokenizer: Path) -> Path:
    llama(folder, tokenizer)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return folder


def with_code(folder: Path, tokenizer: Path) -> Path:
    llama(folder, tokenizer)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own", "AutoConfig": "own.OwnConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    return folder


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (gemma, "scales or caps them"),
        (damaged, "does not read it"),
        (pickled, "does not read it"),
        (with_code, "does not read it"),
    ],
)
def test_teachers_of_other_architectures_that_are_refused(
    made: Callable[[Path, Path], Path], told: str, tmp_path: Path, models: Path
) -> None:
    tokenizer = models / "small" / "tokenizer.json"
    folder = made(tmp_path / "teacher", tokenizer)
    with pytest.raises(UserError, match=told):
        open_teacher(DistilConfig(teacher=str(folder)), Tokenizer.load(tokenizer).sha256, 300)
    assert not (folder / "ran").exists()


def test_a_teacher_computes_in_the_students_type(tmp_path: Path, data: Path) -> None:
    train_recipe(tiny(train={"steps": 1}), tmp_path / "run", data)
    sha256 = Tokenizer.load(Run(tmp_path / "run").tokenizer).sha256
    teacher = open_teacher(DistilConfig(teacher=str(tmp_path / "run")), sha256, 300)
    network = teacher.on(torch.device("cpu"), torch.bfloat16)
    assert network.head_weight.dtype == network(torch.arange(8).view(1, 8)).dtype == torch.bfloat16
    biases = [buffer.dtype for buffer in network.buffers()]  # type: ignore[attr-defined]
    assert biases and set(biases) == {torch.float32}
