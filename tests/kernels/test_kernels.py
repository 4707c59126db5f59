"""numba's loops against the same formula in float64, and their bits over calls, threads and shapes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clearseek.errors import UserError
from clearseek.kernels import launch, operations
from clearseek.ops.compiled import choose_kernels, kernels_environment, use_kernels
from clearseek.train.muon import COEFFICIENTS, STEPS, orthogonalise
from tests.ops.test_compiled import gradients

pytestmark = pytest.mark.skipif(launch.unavailable() is not None, reason=str(launch.unavailable()))


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(found: Tensor, exact: Tensor, tolerance: float = 1e-6) -> None:
    """Relative to the largest number: FP32 has 6e-8 a rounding, and sums of these lengths some ten of them."""
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() <= tolerance * exact.abs().max()


def by_autograd(formula: Callable[..., Tensor], g: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients in float64."""
    wide = [x.double().requires_grad_() for x in inputs]
    y = formula(*wide)
    return y.detach(), *torch.autograd.grad(y, wide, g.double())


def test_exp_is_right_to_a_rounding_and_keeps_nan() -> None:
    x = torch.linspace(-87, 88, 1_000_003)
    y = torch.empty_like(x)
    launch.launch("rows.exponential", x.numel(), x, y)
    exact = x.double().exp()
    assert ((y.double() - exact) / exact).abs().max() <= 1e-7
    ends = torch.tensor([-1e30, -torch.inf, torch.nan])
    launch.launch("rows.exponential", 3, ends, y)
    assert (y[:2] < 2e-38).all() and y[2].isnan()


@pytest.mark.parametrize(("tokens", "channels"), [(1, 5), (3, 17), (130, 64), (64, 256)])
def test_norm(tokens: int, channels: int) -> None:
    x, g, w = drawn(tokens, channels + 3)[:, :channels], drawn(tokens, channels, seed=1), drawn(channels, seed=2)
    y, rstd = operations.normalise(x, w, 1e-6)
    dx, dw = operations.normalise_backward(g, x, w, rstd, True)
    exact = by_autograd(lambda x, w: x * w / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt(), g, x, w)
    for found, true in zip((y, dx, dw), exact, strict=True):
        assert_close(found, true, 2e-6)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 19), (130, 128)])
def test_swiglu(rows: int, width: int) -> None:
    both, weight, g = 9 * drawn(rows, 2 * width), drawn(rows, 1, seed=1), drawn(rows, width, seed=2)
    gate, up = both.chunk(2, dim=-1)
    y, d_gate, d_up = by_autograd(lambda gate, up: F.silu(gate) * up, g, gate, up)
    assert_close(operations.swiglu(gate, up), y)
    for found, exact in zip(operations.swiglu_backward(g, gate, up), (d_gate, d_up), strict=True):
        assert_close(found, exact)

    def weighted(both: Tensor, weight: Tensor) -> Tensor:
        gate, up = both.chunk(2, dim=-1)
        return F.silu(gate) * up * weight

    y, d_both, d_weight = by_autograd(weighted, g, both, weight)
    assert_close(operations.weighted_swiglu(both, weight), y)
    act, found_both, found_weight = operations.weighted_swiglu_backward(g, both, weight)
    assert_close(act, y)
    assert_close(found_both, d_both)
    assert_close(found_weight, d_weight.squeeze(1), 2e-6)


def test_swiglu_far_from_zero_and_without_rows() -> None:
    gate = torch.tensor([[-1e30, -100.0, 100.0, 1e30, torch.nan]])
    y = operations.swiglu(gate, torch.ones_like(gate))
    assert y[0, :4].tolist() == [pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-35), 100.0, pytest.approx(1e30)]
    assert y[0, 4].isnan()
    assert operations.weighted_swiglu(torch.empty(0, 6), torch.empty(0, 1)).shape == (0, 3)


SHAPES = [
    (2, 256, 2, 32, 32, 64),
    (1, 1, 1, 4, 2, 3),
    (2, 70, 3, 20, 6, 17),
    (1, 67, 2, 16, 16, 16),
    (1, 130, 2, 8, 4, 40),
]


def attention_inputs(batch: int, length: int, heads: int, nope: int, rotary: int, values: int) -> tuple[Tensor, ...]:
    """Queries, expanded latents, shared rotary keys, rotations, and the output's gradient."""
    return (
        drawn(batch, length, heads, nope + rotary),
        drawn(batch, length, heads, nope + values, seed=1),
        drawn(batch, length, rotary, seed=2),
        torch.polar(torch.ones(length, rotary // 2), drawn(length, rotary // 2, seed=3)),
        drawn(batch, length, heads, values, seed=4),
    )


def documents(batch: int, length: int) -> Tensor:
    """First position of each token's document, [B, S]: documents of 1 to 90 tokens, other ones in each sequence."""
    begins = torch.rand(batch, length, generator=torch.Generator().manual_seed(5)) < 0.04
    return torch.where(begins, torch.arange(length), 0).cummax(1).values


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(shape: tuple[int, ...], packed: bool) -> None:
    q, kv, rope, turn, g = attention_inputs(*shape)
    batch, length, heads, nope, rotary, _ = shape
    start = documents(batch, length) if packed else None
    turns = turn.to(torch.complex128).unsqueeze(1)

    def formula(q: Tensor, kv: Tensor, rope: Tensor) -> Tensor:
        turned = torch.view_as_complex(q[..., nope:].unflatten(-1, (rotary // 2, 2))) * turns
        queries = torch.cat([q[..., :nope], torch.view_as_real(turned).flatten(-2)], dim=-1) * 0.3
        keys = torch.cat([kv[..., :nope], rope.unsqueeze(2).expand(-1, -1, heads, -1)], dim=-1)
        scores = torch.einsum("bqhc,bshc->bhqs", queries, keys)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        if start is not None:
            hidden = (hidden | (torch.arange(length) < start.unsqueeze(-1))).unsqueeze(1)
        return torch.einsum("bhqs,bshv->bqhv", scores.masked_fill(hidden, -torch.inf).softmax(-1), kv[..., nope:])

    exact = by_autograd(formula, g, q, kv, rope)
    out, stats = operations.attention(q, kv, rope, turn, start, nope, 0.3)
    found = out, *operations.attention_backward(g, q, kv, rope, turn, start, stats, nope, 0.3)
    for mine, true in zip(found, exact, strict=True):
        assert_close(mine, true, 2e-6)


def test_scores_far_apart_and_nan() -> None:
    q, kv, rope, turn, g = attention_inputs(1, 20, 1, 16, 4, 16)
    out, stats = operations.attention(1e4 * q, kv, rope, turn, None, 16, 1.0)
    assert out.isfinite().all()
    assert all(
        x.isfinite().all() for x in operations.attention_backward(g, 1e4 * q, kv, rope, turn, None, stats, 16, 1.0)
    )
    kv[0, 7, 0, 3] = torch.nan
    out, _ = operations.attention(q, kv, rope, turn, None, 16, 1.0)
    assert out[0, :7].isfinite().all() and out[0, 7:].isnan().all(-1).all()
    kv[0, 7, 0] = torch.inf  # a value: its group of four at most sees it early
    out, _ = operations.attention(q, kv.nan_to_num(posinf=torch.inf), rope, turn, None, 16, 1.0)
    assert out[0, :4].isfinite().all() and not out[0, 7:].isfinite().any()


def test_loss() -> None:
    logits, target = 9 * drawn(7, 100), torch.arange(7).unsqueeze(1) * 3
    p = logits.double().softmax(-1)
    gradient, hit = operations.softmax_loss(logits.clone(), target)
    assert_close(hit, p.gather(1, target))
    assert_close(gradient, p - F.one_hot(target[:, 0], 100))


@pytest.mark.parametrize("shape", [(3, 20, 45), (40, 17), (2, 64, 64), (300, 24), (1, 1), (5, 130)])
def test_orthogonalise(shape: tuple[int, ...]) -> None:
    updates = [drawn(*shape), 1e-3 * drawn(4, 33, 16, seed=1)]
    found = [update.clone() for update in updates]
    operations.orthogonalise(found, COEFFICIENTS, STEPS)
    for update, result in zip(updates, found, strict=True):
        exact = orthogonalise(update.double(), torch.float64)
        assert_close(result, exact, 1e-4)  # five steps that each multiply what rounding left


@pytest.mark.parametrize(("rows", "count", "k"), [(300, 64, 6), (5, 8, 8), (7, 3, 1)])
def test_best_is_a_stable_sort(rows: int, count: int, k: int) -> None:
    draw = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 20, (rows, count), generator=draw) * 0.1
    for special in (torch.nan, -torch.inf, -0.0):
        scores[torch.rand(rows, count, generator=draw) < 0.1] = special
    exact = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(operations.best(scores, k), exact)


@pytest.mark.parametrize("rank", [1, 4, 9, 17])
def test_adapters_of_experts(rank: int) -> None:
    """Also rows by themselves and on several threads, by bits."""
    rows_of, expert = {0: 13, 2: 8, 3: 1}, torch.tensor([0] * 13 + [2] * 8 + [3])
    a, b, w = drawn(5, rank, 32, seed=1), drawn(5, 48, rank, seed=2), drawn(5, 48, 32, seed=3)
    x, g, y = drawn(22, 32), drawn(22, 48, seed=4), drawn(22, 48, seed=5)
    wide = [each.double().requires_grad_() for each in (x, a, b)]
    low_exact = torch.einsum("rx,rlx->rl", wide[0], wide[1][expert])
    y_exact = torch.einsum("rx,ryx->ry", wide[0], w.double()[expert])
    y_exact = y_exact + 0.7 * torch.einsum("rl,ryl->ry", low_exact, wide[2][expert])
    exact = torch.autograd.grad(y_exact, wide, g.double())

    def all_of(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        out, d_x = y.clone(), torch.full_like(x, torch.nan)
        low = operations.low_rank(out, x, a, b, 0.7, rows_of)
        d_low = operations.low_rank_backward(g, d_x, w, a, b, 0.7, rows_of)
        place = torch.arange(22).flip(0)
        gradients = operations.low_rank_gradients(g, low, d_low, x.flip(0), place, a, b, rows_of)
        return [out, d_x, *gradients, operations.products(g, w, rows_of)]

    found = all_of(1)
    frozen = torch.einsum("rx,ryx->ry", x.double(), w.double()[expert])
    assert_close(found[0], y.double() + y_exact.detach() - frozen, 2e-6)
    for mine, true in zip(found[1:4], exact, strict=True):
        assert_close(mine, true, 2e-6)
    assert_close(found[4], torch.einsum("ry,ryx->rx", g.double(), w.double()[expert]), 2e-6)
    assert all(torch.equal(*pair) for pair in zip(found, all_of(3), strict=True))
    for r in (0, 12, 17, 21):
        alone, one = y[r : r + 1].clone(), {int(expert[r]): 1}
        operations.low_rank(alone, x[r : r + 1], a, b, 0.7, one)
        assert torch.equal(alone, found[0][r : r + 1])
        assert torch.equal(operations.products(g[r : r + 1], w, one), found[4][r : r + 1])


@pytest.mark.parametrize("target", [100, -100, 2_000_000_000])
def test_tokens_outside_the_vocabulary_are_refused(target: int) -> None:
    with pytest.raises(IndexError, match="vocabulary's 100"):
        operations.softmax_loss(drawn(2, 100), torch.tensor([[3], [target]]))


def test_what_a_loop_must_not_touch_is_refused() -> None:
    for tensor in (torch.ones(3, dtype=torch.float64), torch.ones(3, device="meta")):
        with pytest.raises(TypeError, match="a loop takes no"):
            launch.launch("rows.exponential", 3, tensor, torch.empty(3))


SMALLER_TEAM = """
import torch
from clearseek.kernels import operations
from clearseek.train.muon import COEFFICIENTS, STEPS
torch.set_num_threads(3)
x = torch.arange(200 * 70.0).reshape(200, 70)
y, _ = operations.normalise(x, torch.ones(70), 1e-6)
assert (y.square().mean(-1) - 1).abs().max() < 1e-5, y
update = torch.eye(20).repeat(7, 1, 1)
operations.orthogonalise([update], COEFFICIENTS, STEPS)
assert (update.diagonal(dim1=1, dim2=2) > 0.5).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}, {"OMP_MAX_ACTIVE_LEVELS": "0"}])
def test_fewer_threads_than_asked_for_do_all_the_work(limit: dict[str, str]) -> None:
    subprocess.run([sys.executable, "-c", SMALLER_TEAM], env=os.environ | limit, check=True)


def test_compiled_kernels_are_kept_by_what_they_are_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(launch.__file__).parent
    shutil.copytree(here, tmp_path / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(launch, "__file__", str(tmp_path / "kernels/launch.py"))
    first = launch._cache("/somewhere")
    assert Path(first).parent == Path("/somewhere")
    assert Path(launch._cache("")).parent == tmp_path / "kernels/__pycache__"
    (tmp_path / "kernels/lanes.py").write_text("changed")
    assert launch._cache("/somewhere") != first


@pytest.mark.slow
def test_a_model_has_the_gradients_of_the_passes_and_the_same_bits_again() -> None:
    torch.set_num_threads(2)
    passes, loops, again = gradients("torch"), gradients("numba"), gradients("numba")
    assert passes.keys() == loops.keys()
    for name, exact in passes.items():
        assert (loops[name] - exact).norm() <= 1e-5 * exact.norm(), name
        assert torch.equal(loops[name], again[name]), name


def test_bits_depend_neither_on_threads_nor_on_other_rows() -> None:
    x, g, w = drawn(200, 70), drawn(200, 70, seed=1), drawn(70, seed=2)
    inputs = attention_inputs(3, 100, 3, 16, 8, 24)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        y, rstd = operations.normalise(x, w, 1e-6)
        out, stats = operations.attention(*inputs[:4], None, 16, 0.3)
        gradients = operations.attention_backward(inputs[4], *inputs[:4], None, stats, 16, 0.3)
        found.append((y, *operations.normalise_backward(g, x, w, rstd, True), out, *gradients))
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))
    assert torch.equal(operations.normalise(x[150:], w, 1e-6)[0], found[0][0][150:])
    q, kv, rope, turn, _ = inputs
    last = operations.attention(q[2:, :77], kv[2:, :77], rope[2:, :77], turn[:77], None, 16, 0.3)[0]
    assert torch.equal(last, found[0][3][2:, :77])


def test_auto_is_numba_for_fp32_on_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_kernels("auto", torch.float32, "cpu") == "numba"
    assert choose_kernels("auto", torch.bfloat16, "cpu") == "torch"
    assert choose_kernels("auto", torch.float32, "cuda") == "torch"
    with pytest.raises(UserError, match="FP32 on a CPU"):
        choose_kernels("numba", torch.bfloat16, "cpu")
    monkeypatch.setattr(launch, "unavailable", lambda: "numba is not installed")
    assert choose_kernels("auto", torch.float32, "cpu") == "torch"
    with pytest.raises(UserError, match=r'train\.kernels = "numba": numba is not installed: use "torch"'):
        choose_kernels("numba", torch.float32, "cpu")


def test_the_environment_names_numba_only_when_used() -> None:
    assert kernels_environment() == {}
    use_kernels("numba")
    assert kernels_environment()["kernels"].startswith("numba ")
