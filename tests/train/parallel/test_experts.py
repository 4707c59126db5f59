"""Experts on four processes against one process, bit for bit: outputs, all gradients, and their sums."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from clearseek.data.shards import prepare_data
from clearseek.kernels import launch
from clearseek.ops.compiled import use_kernels
from clearseek.parts import Part
from clearseek.plan.layout import ParallelLayout
from clearseek.train.accumulate import TreeSum
from clearseek.train.parallel.experts import is_spread, part_of_experts
from clearseek.train.run import Run
from clearseek.train.transcript import last_line
from tests.tiny import tiny, trainer_of
from tests.train.parallel.expert_worker import KINDS, MODEL, SIZE, TOKENS, lane_sums, layer_alone, logits, model_of
from tests.train.parallel.runs import train_together
from tests.train.test_golden import corpus

LAYERS = [f"{kind}/{tokens}/exact" for kind in KINDS for tokens in TOKENS]
MODELS = ["fp32/2/exact", "bf16/4/exact"]
SLOW = ["fp32/4/exact", "bf16/2/exact", "fp8/2/exact", "fp8/4/exact"]
MERGED = ["fp32/uneven/merged", "bf16/uneven/merged", "fp8/uneven/merged", "fp32/4/merged"]
NUMBA = launch.unavailable() is None


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes: products of few rows have other bits with two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Found = dict[str, list[dict[str, Tensor]]]
"""Case -> process -> tensors."""


def run(folder: Path, cases: list[str]) -> Found:
    """Some cases on four processes."""
    command = [sys.executable, "-m", "tests.train.parallel.expert_worker", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen([*command, str(rank), str(SIZE), *cases], env=environment) for rank in range(SIZE)]
    try:
        assert [each.wait(300) for each in started] == [0] * SIZE
    finally:
        for each in started:
            each.kill()
    files = {case: [f"{case.replace('/', '-')} {rank}.safetensors" for rank in range(SIZE)] for case in cases}
    return {case: [load_file(folder / file) for file in each] for case, each in files.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    cases = [case for case in LAYERS + MODELS + MERGED if NUMBA or not case.startswith("numba")]
    return run(tmp_path_factory.mktemp("processes"), cases)


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors have one type and the same bits, but for the sign of zero."""
    return ours.dtype == theirs.dtype and torch.equal(ours, theirs)


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_has_the_bits_of_one_process(found: Found, case: str) -> None:
    kind, tokens, _ = case.split("/")
    if kind == "numba" and not NUMBA:
        pytest.skip("needs numba")
    one = layer_alone(kind, tokens)
    for rank, ours in enumerate(found[case]):
        for name in ("y", "x", "weight") if TOKENS[tokens][rank] else ():
            assert same(ours[name], one[rank][name]), (rank, name)
        assert len(ours["y"]) == TOKENS[tokens][rank]
        for source, theirs in enumerate(one):
            for name in ("gate_up", "down"):
                own = theirs[name].chunk(SIZE)[rank]
                assert same(ours[f"{source} {name}"], own), (rank, source, name)


@pytest.mark.parametrize("case", MODELS)
def test_a_model_has_the_gradients_of_one_process(found: Found, case: str) -> None:
    _check_model(case, found[case])


@pytest.mark.slow
def test_models_have_the_gradients_of_one_process(tmp_path: Path) -> None:
    for case, ours in run(tmp_path, SLOW).items():
        _check_model(case, ours)


def _check_model(case: str, found: list[dict[str, Tensor]]) -> None:
    kind, ep, _ = case.split("/")
    model = model_of(kind)
    layout = ParallelLayout(dp=SIZE, ep=int(ep))
    for name, parameter in model.named_parameters():
        for rank, ours in enumerate(found):
            held = part_of_experts(Part.of(name, parameter.shape), layout, rank)
            assert same(ours[f"initial {name}"].flatten(), parameter.detach().flatten()[held.start : held.stop])
    theirs = lane_sums(kind, model, range(SIZE))
    for name, expected in theirs.items():
        if name == "load":
            assert sum(ours[name] for ours in found).equal(expected)  # type: ignore[union-attr]
        else:
            assert same(_reduced(name, [ours[name] for ours in found], layout), expected), name
    for rank, ours in enumerate(found):
        assert same(ours["logits"], logits(model, rank)), rank


def _reduced(name: str, sums: list[Tensor], layout: ParallelLayout) -> Tensor:
    """The whole gradient, from the sums that the processes hold."""
    if not is_spread(name, layout):
        return _tree(sums)
    copies = [layout.expert_copies(part) for part in range(layout.ep)]
    return torch.cat([_tree([sums[rank] for rank in ranks]) for ranks in copies])


def _tree(sums: list[Tensor]) -> Tensor:
    tree = TreeSum()
    for each in sums:
        tree.push([each.clone()])
    return tree.result()[0]


def test_swapped_sources_have_other_bits(found: Found) -> None:
    """The order of sources is what the sums of the test before depend on: no other tree gives the same."""
    use_kernels("torch")
    orders = {"".join(map(str, order)): order for order in permutations(range(SIZE))}
    alike = {"0123", "1032", "0132", "1023", "2301", "3210", "2310", "3201"}  # a + b = b + a at every joint of the tree
    for rank, ours in enumerate(found["fp32/even/exact"]):
        sums = [ours[f"{source} gate_up"] for source in range(SIZE)]
        right = _tree(sums)
        for name, order in orders.items():
            assert torch.equal(_tree([sums[source] for source in order]), right) == (name in alike), (rank, name)


@pytest.mark.parametrize("case", MERGED[:3])
def test_merged_gradients_are_close(found: Found, case: str) -> None:
    kind, tokens, _ = case.split("/")
    one = layer_alone(kind, tokens)
    for rank, ours in enumerate(found[case]):
        for name in ("y", "x", "weight") if TOKENS[tokens][rank] else ():
            _close(ours[name], one[rank][name], kind)
        for name in ("gate_up", "down"):
            expected = torch.stack([theirs[name].float() for theirs in one]).sum(0)
            _close(ours[f"0 {name}"], expected.chunk(SIZE)[rank], kind)


def _close(ours: Tensor, theirs: Tensor, kind: str) -> None:
    bound = {"fp32": 1e-5, "bf16": 1e-2, "fp8": 6e-2}[kind]  # of the norm
    error = (ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-30)
    assert error < bound, error


def test_a_merged_model_has_gradients_close_to_those_of_one_process(
    found: Found,
) -> None:
    layout = ParallelLayout(dp=SIZE, ep=4)
    for name, expected in lane_sums("fp32", model_of("fp32"), range(SIZE)).items():
        if name != "load":
            _close(_reduced(name, [ours[name] for ours in found["fp32/4/merged"]], layout), expected, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fp8 muon"])
def test_a_whole_run_has_the_bits_of_one_process(kind: str, tmp_path: Path) -> None:
    """Also where it goes on with its experts in other processes, and at last with all in one; evaluations included."""
    precision, optimizer = kind.split()
    recipe = tiny(
        model=MODEL,
        data={"paths": ["*.txt"]},
        optimizer={"name": optimizer},
        train={
            "steps": 4, "batch_size": 16, "micro_batch_size": 2, "lanes": 4, "precision": precision, "hash_every": 1,
            "eval_every": 2, "checkpoint_every": 2,
        },
    )  # fmt: skip
    corpus(tmp_path)
    prepare_data(recipe.data, recipe.model.vocab_size, tmp_path / "data", base=tmp_path)
    assert trainer_of(recipe, tmp_path / "one", tmp_path / "data").train().finished
    train_together(recipe, tmp_path / "four", tmp_path / "data", "dp=4,ep=4", stop_after=2)
    assert last_line(Run(tmp_path / "four").transcript).step == 2
    train_together(recipe, tmp_path / "four", tmp_path / "data", "dp=4,ep=2", resume=True, stop_after=3)
    assert trainer_of(recipe, tmp_path / "four", tmp_path / "data", resume=True).train().finished
    assert Run(tmp_path / "four").transcript.read_bytes() == Run(tmp_path / "one").transcript.read_bytes()
