from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clearseek.kernels import launch
from clearseek.model.transformer import DeepSeekModel
from clearseek.ops.compiled import Kernels, use_kernels
from clearseek.ops.deferred import WeightGradients, collecting
from clearseek.ops.recompute import through
from clearseek.train.preflight import preflight
from tests.tiny import tiny

EIGHT_BIT = {"intermediate_size": 128, "moe_intermediate_size": 128}


@pytest.fixture(autouse=True)
def passes() -> Iterator[None]:
    yield
    use_kernels("torch")


def model_of(precision: str) -> DeepSeekModel:
    recipe = tiny(model=EIGHT_BIT, train={"precision": precision, "kernels": "torch"})
    setup = preflight(recipe)
    model = DeepSeekModel(recipe.model)
    model.initialise(0)
    return model.set_dtype(setup.precision.dtype).use_fp8(setup.fp8)


def gradients(model: DeepSeekModel, later: WeightGradients | None) -> dict[str, Tensor]:
    """Gradients of a batch, the products of weights at once or later."""
    tokens = torch.randint(0, 300, (2, 34), generator=torch.Generator().manual_seed(0))
    model.zero_grad(set_to_none=True)
    with collecting(later):
        loss = model.loss(tokens, 0.01, 0.3).total
    loss.backward()
    waited = 0 if later is None else later.run()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach(), "waited": torch.tensor(waited)}


@pytest.mark.parametrize("kernels", ["torch", "numba"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_bits_do_not_change(precision: str, kernels: Kernels) -> None:
    if kernels == "numba" and (precision != "fp32" or launch.unavailable()):
        pytest.skip("numba's loops are for FP32")
    model = model_of(precision)
    use_kernels(kernels)
    kept = [gradients(model, later) for later in (None, WeightGradients())]
    assert len(kept[0]) == 2 + len(list(model.parameters())) and kept[0]["waited"] == 0 < kept[1]["waited"]
    model.use_recompute(True)
    for expected, later in zip(kept, (None, WeightGradients()), strict=True):
        found = gradients(model, later)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize(("precision", "share"), [("fp32", 0.75), ("bf16", 0.75), ("fp8", 0.9)])
def test_less_is_kept(precision: str, share: float) -> None:
    def kept(model: DeepSeekModel) -> int:
        """Bytes that are still there after a forward."""
        tokens = torch.randint(0, 300, (8, 34))
        model.states(tokens)  # what is quantised once is quantised
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            states = model.states(tokens)
        assert states.main_BSD.requires_grad
        return sum(event.self_cpu_memory_usage for event in seen.key_averages())

    model = model_of(precision)
    before = kept(model)
    assert kept(model.use_recompute(True)) < share * before
    assert kept(model.use_recompute(False)) == before


def test_views_of_results_are_found_again_and_nothing_else_is_computed_twice() -> None:
    calls = []

    def double(x: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return 2 * x, 3 * x

    x = torch.arange(6.0).requires_grad_()
    y = through(double, lambda a, b: (a.view(2, 3)[:, 1:] * b[2:].view(2, 2)).sum() + a.sigmoid().sum(), (x,), True)
    assert len(calls) == 1
    y.backward()
    assert len(calls) == 2
    found, x.grad = x.grad, None
    a, b = double(x)
    ((a.view(2, 3)[:, 1:] * b[2:].view(2, 2)).sum() + a.sigmoid().sum()).backward()
    assert found is not None and x.grad is not None and torch.equal(found, x.grad)
    with torch.no_grad():
        through(double, lambda a, b: a, (x,), True)
    assert len(calls) == 4
