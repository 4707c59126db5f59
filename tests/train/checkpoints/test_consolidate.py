"""A checkpoint of many processes becomes one of a single process, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clearseek.errors import UserError
from clearseek.parts import Part
from clearseek.train.checkpoints import checkpoint, consolidate
from clearseek.train.checkpoints.files import write_pieces
from clearseek.train.checkpoints.record import File, Record

STATE = {"tokens": 7, "transcript_head": "ab"}


def tensors() -> dict[str, dict[str, torch.Tensor]]:
    """Of several types, a scalar among them."""
    torch.manual_seed(0)
    return {
        "weights": {"z": torch.randn(5, 7), "a.b": torch.randn(40).bfloat16(), "ä": torch.randn(3, 2, 2)},
        "buffers": {"bias": torch.randn(4)},
        "optimizer": {"z.step": torch.tensor(3.0), "z.moment": torch.arange(35, dtype=torch.int64), "q":
                      torch.randint(0, 2, (9,), dtype=torch.uint8), "f": torch.randn(16).to(torch.float8_e4m3fn),
                      "g": torch.randn(16).half(), "e": torch.randn(16).to(torch.float8_e5m2)},
    }  # fmt: skip


def of_many(folder: Path, step: int, ranks: int = 3) -> Path:
    """The tensors cut among processes, where they fall."""
    path = folder / f"step-{step:08d}"
    path.mkdir(parents=True)
    files: dict[str, File] = {}
    for rank in range(ranks):
        for group, named in tensors().items():
            held = []
            for name, tensor in named.items():
                count = tensor.numel()
                start, stop = rank * count // ranks, (rank + 1) * count // ranks
                if stop > start:
                    held.append((Part(name, tuple(tensor.shape), start, stop), tensor.reshape(-1)[start:stop]))
            files |= write_pieces(path, group, rank, ranks, held)
    Record(step, files, STATE).write(path)
    return path


@pytest.mark.parametrize("block", [1 << 24, 4])
def test_the_bytes_are_those_of_one_process(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consolidate, "_BLOCK", block)
    source, out = of_many(tmp_path / "many", 4), tmp_path / "out/step-00000004"
    consolidate.consolidate(source, out)
    alone = checkpoint.save(tmp_path / "one", 4, tensors(), STATE, keep=1)
    assert {each.name: each.read_bytes() for each in alone.iterdir()} == {
        each.name: each.read_bytes() for each in out.iterdir()
    }
    assert checkpoint.find_problems(out) == []


def test_a_damaged_piece_is_not_copied(tmp_path: Path) -> None:
    source = of_many(tmp_path / "many", 4)
    file = source / "optimizer-00001.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    with pytest.raises(UserError, match="optimizer-00001"):
        consolidate.consolidate(source, tmp_path / "out/step-00000004")
