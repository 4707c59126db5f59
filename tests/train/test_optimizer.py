from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from torch import nn

from clearseek.config import OptimizerConfig
from clearseek.errors import UserError
from clearseek.train.chunks import gradient_norm
from clearseek.train.muon import Muon, orthogonalise
from clearseek.train.optimizer import AdamW, MasterOptimizer, Trained


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_muon_equals_pytorchs_on_matrices_and_stacks(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start = torch.randn(3, *shape)
    stacked = nn.Parameter(start.clone())
    single = [nn.Parameter(matrix.clone()) for matrix in start]
    ours = Muon([stacked], lr=0.01, dtype=torch.bfloat16, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon(single, lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        gradient = torch.randn(3, *shape)
        stacked.grad = gradient.clone()
        for parameter, part in zip(single, gradient, strict=True):
            parameter.grad = part.clone()
        ours.step()
        theirs.step()
    # both orthogonalise in BF16, one by bmm and one by mm: a few BF16 roundings of an update of size lr * 0.2
    expected = torch.stack([parameter.detach() for parameter in single])
    assert (stacked.detach() - expected).abs().max() < 0.01 * 0.2 * max(shape) ** 0.5 * 4 * 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_orthogonalised_updates_have_singular_values_near_one(dtype: torch.dtype) -> None:
    update = orthogonalise(torch.randn(4, 64, 32), dtype)
    assert update.dtype == dtype
    values = torch.linalg.svdvals(update.float())
    assert values.min() > 0.5 and values.max() < 1.3


def parameters(dtype: torch.dtype) -> list[Trained]:
    torch.manual_seed(1)
    shapes = {
        "model.embed_tokens.weight": (10, 8),
        "model.layers.0.mlp.experts.gate_up_proj": (3, 12, 8),
        "model.layers.0.mlp.gate.weight": (3, 8),
        "model.norm.weight": (8,),
    }
    return [Trained(name, nn.Parameter(torch.randn(shape).to(dtype))) for name, shape in shapes.items()]


def steps(optimizer: MasterOptimizer, first: int, last: int) -> None:
    for step in range(first, last):
        torch.manual_seed(step)
        gradients = [torch.randn(master.shape) for master in optimizer.masters]
        optimizer.step(gradients, gradient_norm(gradients), 0.5)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_state_restores_to_the_bit(name: str, dtype: torch.dtype) -> None:
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]
    whole = MasterOptimizer(parameters(dtype), config)
    steps(whole, 0, 6)
    first = MasterOptimizer(parameters(dtype), config)
    steps(first, 0, 3)
    weights = {k: v.clone() for k, v in first.weights().items()}
    state = {k: v.clone() for k, v in first.state().items()}
    second = MasterOptimizer(parameters(dtype), config)
    second.load(weights, state)
    steps(second, 3, 6)
    for a, b in zip(whole.trained, second.trained, strict=True):
        assert torch.equal(a.parameter, b.parameter) and a.parameter.dtype == dtype
    for one, other in zip(whole.masters, second.masters, strict=True):
        assert torch.equal(one, other) and one.dtype == torch.float32


def test_state_of_another_optimiser_is_refused() -> None:
    first = MasterOptimizer(parameters(torch.bfloat16), OptimizerConfig(name="adamw"))
    steps(first, 0, 1)
    second = MasterOptimizer(parameters(torch.bfloat16), OptimizerConfig(name="muon"))
    with pytest.raises(UserError, match=r"gate_up_proj\.momentum_buffer"):
        second.load(first.weights(), first.state())


def test_masters_keep_what_bf16_rounds_away() -> None:
    named = [Trained("w", nn.Parameter(torch.ones(1, 4, dtype=torch.bfloat16)))]
    optimizer = MasterOptimizer(named, OptimizerConfig(learning_rate=1e-4, weight_decay=0.0))
    for _ in range(100):
        gradient = [torch.ones(1, 4)]
        optimizer.step(gradient, gradient_norm(gradient), 1.0)
    assert optimizer.masters[0].max().item() == pytest.approx(0.99, abs=1e-4)
    assert named[0].parameter.max().item() == pytest.approx(0.99, abs=4e-3)


def test_gradients_are_clipped_to_the_norm() -> None:
    named = [Trained("w", nn.Parameter(torch.zeros(1, 4)))]
    optimizer = MasterOptimizer(named, OptimizerConfig(grad_clip=1.0))
    gradient = [torch.full((1, 4), 10.0)]
    norm = gradient_norm(gradient)
    optimizer.step(gradient, norm, 1.0)
    assert norm == pytest.approx(20.0)
    assert gradient_norm(gradient) == pytest.approx(1.0, rel=1e-5)


def test_bf16_moments_that_could_not_fall_are_refused() -> None:
    """The second moment's step with beta 0.999 is below half a unit in the last place of BF16."""
    with pytest.raises(ValueError, match=r"betas up to 0\.996"):
        OptimizerConfig(moments="bf16", betas=(0.9, 0.999))
    OptimizerConfig(moments="bf16", betas=(0.9, 0.996))


def test_bf16_moments_are_pytorchs_step_on_rounded_moments() -> None:
    """Steps of torch's AdamW, whose moments a test rounds to BF16 between them, give the same bits."""
    ours = MasterOptimizer(parameters(torch.float32), OptimizerConfig(moments="bf16"))
    theirs = MasterOptimizer(parameters(torch.float32), OptimizerConfig())
    for step in range(5):
        steps(ours, step, step + 1)
        steps(theirs, step, step + 1)
        for state in theirs._adamw.state.values():
            for slot in ("exp_avg", "exp_avg_sq"):
                state[slot].copy_(state[slot].bfloat16())
    for name, weight in ours.weights().items():
        assert torch.equal(weight, theirs.weights()[name])
    kept = {name: tensor for name, tensor in ours.state().items() if not name.endswith("step")}
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    again = MasterOptimizer(parameters(torch.float32), OptimizerConfig(moments="bf16"))
    again.load(ours.weights(), {name: tensor.clone() for name, tensor in ours.state().items()})
    steps(ours, 5, 7)
    steps(again, 5, 7)
    assert all(torch.equal(a, b) for a, b in zip(ours.weights().values(), again.weights().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_multiplies_in_the_type_of_the_model(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without BF16 instructions takes thirty times as long for such a product as for FP32's."""
    seen: set[torch.dtype] = set()
    product = torch.bmm

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.update((a.dtype, b.dtype))
        return product(a, b)

    monkeypatch.setattr(torch, "bmm", watched)
    for products in (None, torch.float32):
        seen.clear()
        optimizer = MasterOptimizer(parameters(dtype), OptimizerConfig(name="muon"), products)
        gradients = [torch.randn(master.shape) for master in optimizer.masters]
        optimizer.step(gradients, gradient_norm(gradients), 1.0)
        assert seen == {products or dtype}


def test_adamw_is_pytorchs_to_the_bit() -> None:
    groups = [[torch.randn(5, 7), torch.randn(3)], [torch.randn(4, 4)]]
    ours, theirs = ([[tensor.clone() for tensor in group] for group in groups] for _ in range(2))
    settings = {"lr": 0.01, "betas": (0.9, 0.95), "eps": 1e-8}
    mine = AdamW([{"params": g, "weight_decay": d} for g, d in zip(ours, (0.1, 0.0), strict=True)],
                 torch.float32, **settings)  # fmt: skip
    peer = torch.optim.AdamW([{"params": g, "weight_decay": d} for g, d in zip(theirs, (0.1, 0.0), strict=True)],
                             fused=True, **settings)  # type: ignore[arg-type]  # fmt: skip
    for _ in range(4):
        for one, other in zip(chain(*ours), chain(*theirs), strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        mine.step()
        peer.step()
    for one, other in zip(chain(*ours), chain(*theirs), strict=True):
        assert torch.equal(one, other)
        assert all(torch.equal(mine.state[one][slot], value) for slot, value in peer.state[other].items())


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("moments", ["fp32", "bf16"])
def test_matrices_decay_and_vectors_do_not(name: str, moments: str) -> None:
    """Without a gradient only decay is left: ``w * (1 - rate * decay)`` each step."""
    config = OptimizerConfig(
        name=name, moments=moments, learning_rate=0.01, muon_learning_rate=0.02, weight_decay=0.5,
    )  # type: ignore[arg-type]  # fmt: skip
    optimizer = MasterOptimizer(parameters(torch.float32), config)
    before = {key: value.clone() for key, value in optimizer.weights().items()}
    for _ in range(2):
        gradients = [torch.zeros(master.shape) for master in optimizer.masters]
        optimizer.step(gradients, gradient_norm(gradients), 0.5)
    for key, weight in optimizer.weights().items():
        rate = 0.02 if name == "muon" and "experts" in key else 0.01
        kept = 1.0 if weight.ndim == 1 else (1 - 0.5 * rate * 0.5) ** 2
        torch.testing.assert_close(weight, before[key] * kept, rtol=1e-6, atol=0, msg=key)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muons_step_does_not_depend_on_what_is_orthogonalised_beside_it(dtype: torch.dtype, threads: int) -> None:
    """Several processes own other stacks than one does, and all must end with the same bits."""
    torch.manual_seed(0)
    shapes = [(96, 128), (8, 96, 128), (2, 96, 128), (1, 96, 128), (160, 160), (3, 160, 160), (37, 53), (5, 37, 53)]
    before, gradients = [torch.randn(shape) for shape in shapes], [torch.randn(shape) for shape in shapes]

    def stepped(some: list[int]) -> list[torch.Tensor]:
        parameters = [nn.Parameter(before[index].clone()) for index in some]
        for parameter, index in zip(parameters, some, strict=True):
            parameter.grad = gradients[index].clone()
        Muon(parameters, 0.1, dtype).step()
        return [parameter.detach() for parameter in parameters]

    used = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together, alone = stepped(list(range(len(shapes)))), [stepped([index])[0] for index in range(len(shapes))]
    finally:
        torch.set_num_threads(used)
    for one, other, begun in zip(together, alone, before, strict=True):
        assert torch.equal(one, other) and not torch.equal(one, begun)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_an_embedding_with_its_own_rate_takes_adamws_step_at_it_and_does_not_decay(name: str) -> None:
    """Its first step moves every number by the rate; everything else moves as it would without the setting."""
    shapes = {"model.embed_tokens.weight": (5, 8), "lm_head.weight": (5, 8), "model.norm.weight": (8,)}
    torch.manual_seed(0)
    begun = {key: torch.randn(shape) for key, shape in shapes.items()}
    gradients = {key: torch.randn(shape) for key, shape in shapes.items()}

    def after(**changes: Any) -> dict[str, torch.Tensor]:
        config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.5, grad_clip=1e9, **changes)  # type: ignore[arg-type]
        optimizer = MasterOptimizer([Trained(key, nn.Parameter(begun[key].clone())) for key in shapes], config)
        given = [gradients[key].clone() for key in shapes]
        optimizer.step(given, gradient_norm(given), 0.5)
        return optimizer.weights()

    apart, usual = after(embedding_learning_rate=0.3), after()
    moved = begun["model.embed_tokens.weight"] - 0.15 * gradients["model.embed_tokens.weight"].sign()
    torch.testing.assert_close(apart["model.embed_tokens.weight"], moved, rtol=0, atol=1e-5)
    for key in ("lm_head.weight", "model.norm.weight"):
        assert torch.equal(apart[key], usual[key])


def test_muon_owns_the_matrices_inside_the_layers_alone() -> None:
    names = {
        "model.embed_tokens.weight": False, "model.layers.0.self_attn.o_proj.weight": True,
        "model.layers.0.mlp.gate_proj.weight": True, "model.layers.1.mlp.gate.weight": False,
        "model.layers.1.mlp.experts.gate_up_proj": True, "model.layers.1.mlp.experts.down_proj": True,
        "model.layers.1.mlp.shared_experts.up_proj.weight": True, "model.layers.2.eh_proj.weight": True,
        "model.layers.1.input_layernorm.weight": False, "model.norm.weight": False, "lm_head.weight": False,
    }  # fmt: skip
    shapes = {key: (8,) if "norm" in key else (2, 4, 8) if ".experts." in key else (4, 8) for key in names}
    named = [Trained(key, nn.Parameter(torch.randn(shapes[key]))) for key in names]
    optimizer = MasterOptimizer(named, OptimizerConfig(name="muon"))
    steps(optimizer, 0, 1)
    assert {key: f"{key}.momentum_buffer" in optimizer.state() for key in names} == names


@pytest.mark.parametrize(("size", "kept"), [(0.01, 0.01), (0.4, 0.4), (50.0, 0.5)])
def test_only_gradients_above_the_limit_are_scaled(size: float, kept: float) -> None:
    named = [Trained("w", nn.Parameter(torch.zeros(1, 4))), Trained("v", nn.Parameter(torch.zeros(4)))]
    optimizer = MasterOptimizer(named, OptimizerConfig(grad_clip=0.5))
    gradients = [torch.full((1, 4), size * 8**-0.5), torch.full((4,), -size * 8**-0.5)]
    norm = gradient_norm(gradients)
    assert norm == pytest.approx(size, rel=1e-6)
    optimizer.step(gradients, norm, 1.0)
    assert gradient_norm(gradients) == pytest.approx(kept, rel=1e-5)


def test_muon_takes_the_recipes_momentum_and_rate() -> None:
    """The rate by the length of a step: an orthogonal update has singular values near one, times 0.2 sqrt(12)."""
    config = OptimizerConfig(name="muon", muon_learning_rate=0.03, momentum=0.75, weight_decay=0.0, grad_clip=1e9)
    optimizer = MasterOptimizer(parameters(torch.float32), config)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    before = optimizer.weights()[name].clone()
    torch.manual_seed(0)
    gradients = [torch.randn(master.shape) for master in optimizer.masters]
    given = gradients[1].clone()
    optimizer.step(gradients, gradient_norm(gradients), 0.5)
    torch.testing.assert_close(optimizer.state()[f"{name}.momentum_buffer"], 0.25 * given)
    values = torch.linalg.svdvals((optimizer.weights()[name] - before).view(6, 6, 8))
    assert 0.5 < values.mean() / (0.03 * 0.5 * 0.2 * 8**0.5) < 1.2


def test_gate_and_up_of_an_expert_are_two_matrices_to_muon() -> None:
    """The step is that of PyTorch's Muon on each of the six; one on gate and up together would be another."""
    config = OptimizerConfig(name="muon", muon_learning_rate=0.03, momentum=0.75, weight_decay=0.1, grad_clip=1e9)
    optimizer = MasterOptimizer(parameters(torch.float32), config)
    stacked = optimizer.weights()["model.layers.0.mlp.experts.gate_up_proj"]
    before = stacked.clone()
    single = [nn.Parameter(half.clone()) for expert in before for half in expert.chunk(2)]
    theirs = torch.optim.Muon(single, lr=0.03, momentum=0.75, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    torch.manual_seed(0)
    gradients = [torch.randn(master.shape) for master in optimizer.masters]
    halves = [half.clone() for expert in gradients[1] for half in expert.chunk(2)]
    for parameter, gradient in zip(single, halves, strict=True):
        parameter.grad = gradient
    optimizer.step(gradients, gradient_norm(gradients), 1.0)
    theirs.step()
    expected = torch.stack([parameter.detach() for parameter in single]).view(before.shape)
    # PyTorch's orthogonalises in BF16, ours in whatever type: a few percent of a step
    assert (stacked - expected).norm() < 0.05 * (expected - before).norm()


CHOSEN = (0, 2)


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_that_are_not_chosen_keep_every_byte(name: str, dtype: torch.dtype) -> None:
    """With weight decay, momentum and large gradients; and the chosen rows take the steps that they take alone."""
    config = OptimizerConfig(name=name, weight_decay=0.5, learning_rate=0.1, muon_learning_rate=0.1)  # type: ignore[arg-type]
    stacked = [each.parameter for each in parameters(dtype) if each.parameter.ndim == 3]
    begun = [parameter.detach().clone() for parameter in stacked]
    key = "model.layers.0.mlp.experts.gate_up_proj"
    some = MasterOptimizer([Trained(key, parameter, CHOSEN) for parameter in stacked], config)
    alone = MasterOptimizer([Trained(key, nn.Parameter(b[list(CHOSEN)].clone())) for b in begun], config)
    for step in range(3):
        torch.manual_seed(step)
        for each, peer in zip(some.trained, alone.trained, strict=True):
            each.parameter.grad = torch.randn(each.parameter.shape).to(dtype)
            peer.parameter.grad = each.parameter.grad[list(CHOSEN)].clone()
        for optimizer in (some, alone):
            gradients = optimizer.take_gradients()
            optimizer.step(gradients, gradient_norm(gradients), 1.0)
    for each, peer, before in zip(some.trained, alone.trained, begun, strict=True):
        assert torch.equal(each.parameter[1], before[1])
        assert torch.equal(each.parameter[list(CHOSEN)], peer.parameter)
        assert not torch.equal(peer.parameter, before[list(CHOSEN)])
    assert {tensor.shape for tensor in some.state().values() if tensor.ndim} == {(2, 12, 8)}
    whole = some.weights()[key]
    assert whole.dtype == torch.float32 and torch.equal(whole[1], begun[0][1].float())
    assert torch.equal(whole[list(CHOSEN)], some.masters[0])


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_chosen_rows_restore_to_the_bit(name: str, dtype: torch.dtype) -> None:
    config = OptimizerConfig(name=name)  # type: ignore[arg-type]

    def fresh() -> MasterOptimizer:
        chosen = [replace(each, rows=CHOSEN) if each.parameter.ndim == 3 else each for each in parameters(dtype)]
        return MasterOptimizer(chosen, config)

    whole, first = fresh(), fresh()
    steps(whole, 0, 5)
    steps(first, 0, 2)
    weights = {k: v.clone() for k, v in first.weights().items()}
    state = {k: v.clone() for k, v in first.state().items()}
    second = fresh()
    with torch.no_grad():
        for each in second.trained:
            each.parameter.mul_(3)  # what is not chosen is restored, too
    second.load(weights, state)
    steps(second, 2, 5)
    for one, other in zip(whole.trained, second.trained, strict=True):
        assert torch.equal(one.parameter, other.parameter)
    assert all(torch.equal(a, b) for a, b in zip(whole.masters, second.masters, strict=True))
    mine, theirs = whole.state(), second.state()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine.keys() | theirs.keys())


def test_a_parameter_without_gradient_has_a_zero_one() -> None:
    trained = [replace(each, rows=(1,)) if each.parameter.ndim == 3 else each for each in parameters(torch.bfloat16)]
    gradients = MasterOptimizer(trained, OptimizerConfig()).take_gradients()
    assert [g.shape for g in gradients] == [(10, 8), (1, 12, 8), (3, 8), (8,)]
    assert not any(g.any() for g in gradients) and {g.dtype for g in gradients} == {torch.float32}


@pytest.mark.parametrize("rows", [(), (1, 1), (2, 1), (-1,), (3,)])
def test_rows_that_cannot_be_are_refused(rows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be ascending numbers below 3"):
        Trained("w", nn.Parameter(torch.zeros(3, 2)), rows)
