"""Ways of sharing out tensors among processes, as tables of parts, by which checkpoints are written and read."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from clearseek.parts import Part, deal
from clearseek.train.checkpoints.files import write_pieces, write_whole
from clearseek.train.checkpoints.record import File, Record, folder_name

GROUPS = ("weights", "buffers", "optimizer")
EXPERTS, LAYERS, UNIT = 8, 4, 64
Table = list[dict[str, list[Part]]]
"""Process -> group -> parts."""
Tensors = dict[str, dict[str, Tensor]]
"""Group -> name -> tensor."""


def some_tensors(seed: int = 0) -> Tensors:
    """A model with experts, and an optimiser with moments and scalars."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"embed": (50, 16), "norm": (17,)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.attention": (16, 24), f"layers.{layer}.mlp.experts.up": (EXPERTS, 12, 16)}
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    optimizer = {f"{name}.exp_avg": torch.randn(w.shape, generator=generator).bfloat16() for name, w in weights.items()}
    optimizer |= {f"{name}.step": torch.tensor(float(seed)) for name in weights}
    biases = {f"layers.{i}.bias": torch.randn(EXPERTS, generator=generator) for i in range(LAYERS)}
    return {"weights": weights, "buffers": biases, "optimizer": optimizer}


def _by(owner: Callable[[str], int], tensors: Tensors, size: int) -> Table:
    """Whole tensors to one process each."""
    table: Table = [{group: [] for group in tensors} for _ in range(size)]
    for group, named in tensors.items():
        for name, tensor in named.items():
            table[owner(name)][group].append(Part.of(name, tensor.shape))
    return table


def dealt(size: int, tensors: Tensors) -> Table:
    """Masters and optimiser dealt out in units (ZeRO-1)."""
    cut = {
        group: deal([(Part.of(n, t.shape), UNIT) for n, t in named.items()], size) for group, named in tensors.items()
    }
    return [{group: cut[group][rank] for group in tensors} for rank in range(size)]


def experts(size: int, tensors: Tensors) -> Table:
    """Some experts to each process, and the rest dealt out."""
    rest = {group: {n: t for n, t in named.items() if ".experts." not in n} for group, named in tensors.items()}
    table, each = dealt(size, rest), EXPERTS // size
    for rank, held in enumerate(table):
        for group, named in tensors.items():
            for name, tensor in named.items():
                if ".experts." in name and tensor.ndim:
                    held[group].append(Part.of(name, tensor.shape).rows(rank * each, (rank + 1) * each))
                elif ".experts." in name and rank == 0:
                    held[group].append(Part.of(name, ()))
    return table


def stages(size: int, tensors: Tensors) -> Table:
    """Some layers to each process."""
    return _by(lambda name: int(name.split(".")[1]) * size // LAYERS if "layers" in name else 0, tensors, size)


def anyhow(size: int, tensors: Tensors, seed: int) -> Table:
    """Every tensor cut anywhere, its pieces to anybody: several that are apart to one process too."""
    chance = random.Random(seed)
    table: Table = [{group: [] for group in tensors} for _ in range(size)]
    for group, named in tensors.items():
        for name, tensor in named.items():
            cuts = sorted({0, tensor.numel(), *(chance.randrange(tensor.numel() + 1) for _ in range(size))})
            for start, stop in pairwise(cuts):
                part = Part.of(name, tensor.shape)._replace(start=start, stop=stop)
                table[chance.randrange(size)][group].append(part)
    return table


def layouts(tensors: Tensors) -> Mapping[str, Table]:
    """Tables by the layouts' names."""
    return {
        **{f"dp={n}": dealt(n, tensors) for n in (1, 2, 4, 8)},
        **{f"dp={n},ep={n}": experts(n, tensors) for n in (2, 4)},
        **{f"pp={n}": stages(n, tensors) for n in (2, 4)},
        **{f"fsdp={n}": anyhow(n, tensors, n) for n in (2, 4)},
    }


def held_by(tensors: Tensors, parts: dict[str, list[Part]]) -> dict[str, list[tuple[Part, Tensor]]]:
    """What a process holds of these tensors."""
    return {
        group: [(p, tensors[group][p.name].reshape(-1)[p.start : p.stop].clone()) for p in some]
        for group, some in parts.items()
    }


def write(folder: Path, step: int, tensors: Tensors, table: Table) -> Path:
    """A checkpoint as the processes of a table write it."""
    path = folder / folder_name(step)
    path.mkdir(parents=True)
    files: dict[str, File] = {}
    for rank, parts in enumerate(table):
        for group, held in held_by(tensors, parts).items():
            if len(table) == 1:
                files |= write_whole(path, group, held)
            else:
                files |= write_pieces(path, group, rank, len(table), held)
    Record(step, files, {"step": step}).write(path)
    return path
