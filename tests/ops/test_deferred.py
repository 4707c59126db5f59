from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.deferred import Pieces, WeightGradients, collecting, collector, weight_gradient
from clearseek.recipe import parse_recipe
from clearseek.train.preflight import preflight
from tests.tiny import TINY

EIGHT_BIT = {"intermediate_size": 128, "moe_intermediate_size": 128}


def model_of(precision: str) -> DeepSeekModel:
    recipe = parse_recipe(
        TINY | {"model": TINY["model"] | EIGHT_BIT, "train": TINY["train"] | {"precision": precision}}, "tiny.toml"
    )
    setup = preflight(recipe)
    model = DeepSeekModel(recipe.model)
    model.initialise(0)
    return model.set_dtype(setup.precision.dtype).use_fp8(setup.fp8)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_products_run_once_and_later_with_the_same_bits(precision: str) -> None:
    tokens = torch.randint(0, 300, (2, 34), generator=torch.Generator().manual_seed(0))
    found = []
    model = model_of(precision)
    model.loss(tokens, 0.01, 0.3).total.backward()  # what is quantised once a step is quantised
    for later in (None, WeightGradients()):
        model.zero_grad(set_to_none=True)
        with FlopCounterMode(display=False) as counter:
            with collecting(later):
                loss = model.loss(tokens, 0.01, 0.3).total
            loss.backward()
            waiting = {name for name, p in model.named_parameters() if p.grad is None}
            count = 0 if later is None else later.run()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        found.append((gradients, counter.get_total_flops(), waiting, count))
    (plain, flops, none, _), (split, split_flops, waiting, count) = found
    assert split_flops == flops > 0
    in_layers = {name for name in plain if "layers." in name and "norm" not in name}
    assert none == set() and waiting == in_layers and count == len(in_layers)
    for name, gradient in plain.items():
        other = split[name]
        assert gradient is not None and other is not None
        assert other.dtype == gradient.dtype and torch.equal(other, gradient), name


def test_a_second_gradient_is_added_in_the_weights_type() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    later = WeightGradients()
    for value in (1.0, 2.0**-9):
        assert weight_gradient(later, weight, lambda value=value: torch.full((2,), value)) is None  # type: ignore[misc]
    assert weight_gradient(later, weight, None) is None
    assert weight.grad is None and later.run() == 2
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16 and weight.grad.tolist() == [1.0, 1.0]
    assert later.run() == 0


def test_collecting_ends_with_its_block() -> None:
    later = WeightGradients()
    with collecting(later):
        assert collector() is later
        with collecting(None):
            assert collector() is None
        assert collector() is later
    assert collector() is None


def test_pieces_come_at_once_or_when_they_are_asked_for() -> None:
    for later in (False, True):
        seen: list[int] = []
        pieces = Pieces(later)

        def add(number: int, made: torch.Tensor | None, seen: list[int] = seen) -> torch.Tensor:
            seen.append(number)
            return torch.tensor(number) if made is None else made + number

        for number in (1, 2):
            pieces.add(lambda made, number=number, add=add: add(number, made))  # type: ignore[misc]
        assert seen == ([] if later else [1, 2])
        assert pieces() is pieces() and pieces().item() == 3 and seen == [1, 2]
