"""Every kernel of every backend that runs here, against the reference, on fresh random inputs.

Sizes have tails, experts have no rows, one row or all rows. Each call is made twice and must give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from gpu_common import Bench, multiples_of
from gpu_exact import (
    BOUNDS,
    UNIT,
    decoded,
    exact_swiglu,
    nearly_quantised_error,
    product_error,
    quantised_error,
    same_bytes,
    trimmed,
)
from torch import Tensor

from clearseek.fp8.backend import Backend
from clearseek.fp8.backends.reference import reference
from clearseek.fp8.formats import TILE, Quantised
from clearseek.fp8.quantise import dequantise, quantise_columns, quantise_tiles

Found = Any
"""A tensor, or a tuple of tensors and of such tuples."""


class Checks:
    """Results of one backend's checks."""

    def __init__(self, bench: Bench, backend: str) -> None:
        self.bench, self.backend = bench, backend

    def twice(self, operation: str, case: str, call: Callable[[], Found]) -> Found:
        """The call's result; that a second one gives the same bits is a check of its own."""
        found, again = call(), call()
        same = all(same_bytes(a, b) for a, b in zip(_tensors(found), _tensors(again), strict=True))
        self.add(operation, f"{case}, twice", {"passed": same})
        return found

    def add(self, operation: str, case: str, result: dict[str, Any]) -> None:
        """Record a check; print it if it failed."""
        entry = {"backend": self.backend, "operation": operation, "case": case, **result}
        if not result["passed"]:
            print(f"  WRONG: {self.backend}, {operation}, {case}: {result}")
        self.bench.record("checks", entry, save=False)

    def run(self, operation: str, case: str, seconds: float, check: Callable[[str, str], None]) -> None:
        """One case, if the time holds it; an error is a failed check."""
        if not self.bench.has(seconds, f"checking {self.backend}, {operation}, {case}"):
            return
        before = len(self.bench.report.get("errors", []))
        with self.bench.attempt(f"{self.backend}, {operation}, {case}"):
            check(operation, case)
        if len(self.bench.report.get("errors", [])) > before:
            self.add(operation, case, {"passed": False, "raised": True})
        self.bench.save()


def checks(bench: Bench) -> None:
    """Check all backends, the products of DeepSeek's sizes first."""
    bench.report["checks"] = {"bounds": BOUNDS, "checks": []}
    if not bench.backends:
        bench.leave_out("checks", "no backend runs here")
    for name, backend in bench.backends.items():
        own = Checks(bench, name)
        _grouped(bench, own, backend)
        _dense(bench, own, backend)
        if name == "triton":  # the others quantise with Triton's kernels, or with the reference
            _quantising(bench, own, backend)
            _swiglu(bench, own, backend)
            _launches(bench, own)
    _reference_here(bench, Checks(bench, "reference on this device"))
    _print_summary(bench.report["checks"]["checks"])


def _print_summary(entries: list[dict[str, Any]]) -> None:
    groups: dict[tuple[str, str], list[bool]] = {}
    for entry in entries:
        groups.setdefault((entry["backend"], entry["operation"]), []).append(entry["passed"])
    for (backend, operation), passed in groups.items():
        print(f"  {backend:26} {operation:32} {sum(passed):3} of {len(passed):3} passed")


def _tensors(found: Found) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else [tensor for each in found for tensor in _tensors(each)]


def _matrix(bench: Bench, rows: int, columns: int, case: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """On the CPU: magnitudes over many binades, and rows of zeros."""
    generator = bench.generator(case, rows, columns)
    x = torch.randn(rows, columns, generator=generator) * torch.randn(rows, columns, generator=generator).exp()
    x *= 10.0 ** torch.randint(-9, 6, (rows, 1), generator=generator)
    x[torch.rand(rows, generator=generator) < 0.1] = 0
    return x.to(dtype)


def _random_size(bench: Bench, name: str, most: int, unit: int = 1) -> int:
    return unit * int(torch.randint(1, most // unit + 1, (), generator=bench.generator(name)))


def _grouped(bench: Bench, own: Checks, backend: Backend) -> None:
    """Grouped products and weight gradients: [(ends, rows)], the last of the lists at DeepSeek's sizes."""
    shares = torch.rand(5, generator=bench.generator("shares"))
    drawn = torch.tensor(multiples_of(1280, shares, TILE)).cumsum(0).tolist()
    common: list[tuple[str, list[int], int]] = [
        ("an expert without rows, spare rows", [128, 128, 384], 512),
        ("one expert takes all", [0, 512, 512], 512),
        (f"ends {drawn}", drawn, 1280),
    ]
    forward = [*common, ("an end inside a tile", [128, 256, 300], 512), ("one token", [1, 1, 1], 128)]
    gradient = [*common, ("an end inside a tile", [128, 256, 400], 400), ("one token", [1, 1, 1], 1)]
    sizes = (400, 592) if not bench.smoke else (136, 208)
    rows = bench.pick(4096, 256)
    shares = torch.randn(8, generator=bench.generator("large shares")).exp()
    ends = torch.tensor(multiples_of(rows, shares, TILE)).cumsum(0).tolist()
    large = ("DeepSeek's sizes", ends, rows)
    for (outputs, inner), cases in ((bench.pick((4096, 7168), (256, 256)), [large]), (sizes, forward)):
        for case, bounds, count in cases[: bench.pick(9, 2)]:
            size = f"{case}, {outputs} x {inner}"
            own.run("grouped products", size, 8, _grouped_product(bench, own, backend, bounds, count, outputs, inner))
    for (outputs, inner), cases in ((bench.pick((7168, 2048), (256, 256)), [large]), (sizes, gradient)):
        for case, bounds, count in cases[: bench.pick(9, 2)]:
            size = f"{case}, {outputs} x {inner}"
            own.run("grouped weight gradient", size, 6,
                    _grouped_gradient(bench, own, backend, bounds, count, outputs, inner))  # fmt: skip


def _grouped_product(
    bench: Bench, own: Checks, backend: Backend, ends: list[int], rows: int, outputs: int, inner: int
) -> Callable[[str, str], None]:
    """Forward and input gradient; rows after the last end must be zero."""

    def check(operation: str, case: str) -> None:
        ends_E = torch.tensor(ends, dtype=torch.int32, device=bench.device)
        w = backend.products.weight(bench.normal(len(ends), outputs, inner, name=case), True)
        for way, side, (n, k) in (
            ("forward", w.forward, (outputs, inner)), ("input gradient", w.backward, (inner, outputs)),
        ):  # fmt: skip
            a = backend.quantiser.tiles(bench.normal(rows, k, name=case + way), True)
            b = trimmed(side, n, k)
            found = own.twice(
                operation, f"{case}, {way}", lambda a=a, side=side: backend.products.grouped_mm(a, side, ends_E)
            )
            results = []
            for e, (start, end) in enumerate(pairwise([0, *ends])):
                if end > start:
                    left = decoded(Quantised(a.data[start:end], a.scale[start:end]))
                    right = decoded(Quantised(b.data[e], b.scale[e]))
                    results.append(product_error(found[start:end], left, right))
            results.append({"passed": not found[ends[-1] :].any(), "norm_of_error": 0.0, "worst_share_of_bound": 0.0})
            own.add(operation, f"{case}, {way}", _worst(results))

    return check


def _grouped_gradient(
    bench: Bench, own: Checks, backend: Backend, ends: list[int], rows: int, outputs: int, inner: int
) -> Callable[[str, str], None]:
    """An expert without rows must have zeros."""

    def check(operation: str, case: str) -> None:
        ends_E = torch.tensor(ends, dtype=torch.int32, device=bench.device)
        a = backend.quantiser.columns(bench.normal(rows, outputs, name=case), True)
        b = backend.quantiser.columns(bench.normal(rows, inner, name=f"{case}, right"), True)
        found = own.twice(operation, case, lambda: backend.products.grouped_mm_weight(a, b, ends_E))
        results = []
        for e, (start, end) in enumerate(pairwise([0, *ends])):
            tiles = slice(start // TILE, -(-end // TILE))
            left, right = (
                decoded(Quantised(q.data[:, start:end], q.scale[:, tiles])) if end > start else None for q in (a, b)
            )
            if left is None or right is None:
                results.append({"passed": not found[e].any(), "norm_of_error": 0.0, "worst_share_of_bound": 0.0})
            else:
                results.append(product_error(found[e], left, right))
        own.add(operation, case, _worst(results))

    return check


def _worst(results: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("norm_of_error", "worst_share_of_bound")
    return {"passed": all(r["passed"] for r in results), **{key: max(r[key] for r in results) for key in keys}}


def _dense(bench: Bench, own: Checks, backend: Backend) -> None:
    """Products of one matrix: [(rows, inner, outputs)]."""
    drawn = tuple(_random_size(bench, name, 1024, 16) for name in ("rows", "inner", "outputs"))
    for rows, inner, outputs in bench.pick(
        [(1, 208, 136), (300, 128, 576), (1000, 2048, 1408), drawn], [(1, 208, 136)]
    ):
        case = f"{rows} x {inner} by {outputs}"
        own.run("product", case, 6, _dense_product(bench, own, backend, rows, inner, outputs))
    for rows, inner, outputs in bench.pick([(1, 72, 136), (400, 520, 16), (4176, 512, 1024), drawn], [(1, 72, 136)]):
        case = f"{rows} rows, {outputs} x {inner}"
        own.run("weight gradient", case, 5, _dense_gradient(bench, own, backend, rows, inner, outputs))


def _dense_product(
    bench: Bench, own: Checks, backend: Backend, rows: int, inner: int, outputs: int
) -> Callable[[str, str], None]:
    def check(operation: str, case: str) -> None:
        w = backend.products.weight(bench.normal(outputs, inner, name=case), False)
        a = backend.quantiser.tiles(bench.normal(rows, inner, name=case), False)
        found = own.twice(operation, case, lambda: backend.products.mm(a, w.forward))
        own.add(operation, case, product_error(found, decoded(a), decoded(trimmed(w.forward, outputs, inner))))
        g = backend.quantiser.tiles(bench.normal(rows, outputs, name=case), False)
        found = own.twice(operation, f"{case}, input gradient", lambda: backend.products.mm(g, w.backward))
        result = product_error(found, decoded(g), decoded(trimmed(w.backward, inner, outputs)))
        own.add(operation, f"{case}, input gradient", result)

    return check


def _dense_gradient(
    bench: Bench, own: Checks, backend: Backend, rows: int, inner: int, outputs: int
) -> Callable[[str, str], None]:
    def check(operation: str, case: str) -> None:
        a = backend.quantiser.columns(bench.normal(rows, outputs, name=case), False)
        b = backend.quantiser.columns(bench.normal(rows, inner, name=case), False)
        found = own.twice(operation, case, lambda: backend.products.mm_weight(a, b))
        own.add(operation, case, product_error(found, decoded(a), decoded(b)))

    return check


def _quantising(bench: Bench, own: Checks, backend: Backend) -> None:
    """Bits of tiles, columns, both, blocks, and of what is decoded or tiled anew."""
    drawn = tuple(_random_size(bench, name, 600) for name in ("a height", "a width"))
    shapes = bench.pick([(300, 576), (1, 7168), drawn, (2048, 2048), (1000, 200)], [(140, 200)])
    for rows, columns in shapes:
        for power_of_two in (True, False):
            case = f"{rows} x {columns}, {'powers of two' if power_of_two else 'free scales'}"
            own.run("quantising", case, 4, _quantised(bench, own, backend, (rows, columns), power_of_two))


def _quantised(
    bench: Bench, own: Checks, backend: Backend, shape: tuple[int, int], power_of_two: bool
) -> Callable[[str, str], None]:
    def check(_: str, case: str) -> None:
        plain, x = reference(), _matrix(bench, *shape, case)
        y = x.to(bench.device)
        calls = {
            "tiles": lambda on, z: on.quantiser.tiles(z, power_of_two),
            "columns": lambda on, z: on.quantiser.columns(z, power_of_two),
            "tiles and columns": lambda on, z: on.quantiser.gradient(z, power_of_two),
            "tiles to columns": lambda on, z: on.quantiser.retile(
                on.quantiser.tiles(z, power_of_two), not power_of_two
            ),
        }
        for operation, call in calls.items():
            found = own.twice(operation, case, lambda call=call: call(backend, y))
            expected = call(plain, x)
            pairs = zip(found, expected, strict=True) if operation == "tiles and columns" else [(found, expected)]
            for one, other in pairs:
                own.add(operation, case, quantised_error(one, other))
        tiles = backend.quantiser.tiles(y, power_of_two)
        values = own.twice("decoding", case, lambda: backend.quantiser.decode(tiles))
        expected = plain.quantiser.decode(Quantised(tiles.data.cpu(), tiles.scale.cpu()))
        own.add("decoding", case, {"passed": same_bytes(values, expected)})
        stack = torch.stack([x, x.flip(0)])
        found = own.twice("weight", case, lambda: backend.products.weight(stack.to(bench.device), power_of_two))
        expected = plain.products.weight(stack, power_of_two)
        own.add("weight", case, quantised_error(found.forward, expected.forward))
        own.add("weight", f"{case}, transposed", quantised_error(found.backward, expected.backward))

    return check


def _swiglu(bench: Bench, own: Checks, backend: Backend) -> None:
    rows = _random_size(bench, "SwiGLU's rows", 700)
    cases = bench.pick([(150, 256), (1, 128), (rows, 384)], [(140, 128)])
    for height, width in cases:
        for power_of_two in (True, False):
            case = f"{height} x {width}, {'powers of two' if power_of_two else 'free scales'}"
            own.run("SwiGLU", case, 4, _both_swiglus(bench, own, backend, height, width, power_of_two))


def _both_swiglus(
    bench: Bench, own: Checks, backend: Backend, rows: int, width: int, power_of_two: bool
) -> Callable[[str, str], None]:
    def check(operation: str, case: str) -> None:
        gate_up, d_act = bench.normal(rows, 2 * width, name=case) * 3, bench.normal(rows, width, name=case)
        weight = torch.rand(rows, 1, generator=bench.generator(case)).to(bench.device, torch.bfloat16)
        weight[::5] = 0  # padding
        kept, act = own.twice(operation, case, lambda: backend.quantiser.swiglu(gate_up, weight, power_of_two))
        own.add(operation, f"{case}, gate and up", quantised_error(kept, quantise_tiles(gate_up.cpu(), power_of_two)))
        exact = exact_swiglu(gate_up, weight, d_act)[0].bfloat16().cpu()
        own.add(operation, case, nearly_quantised_error(act, quantise_tiles(exact, power_of_two)))
        operation += ", backward"
        tiles, columns, again, d_weight = own.twice(
            operation, case, lambda: backend.quantiser.swiglu_backward(d_act, kept, weight, power_of_two)
        )
        values = dequantise(kept, torch.bfloat16)
        exact_act, d_gate_up, d_exact, size = exact_swiglu(values, weight, d_act)
        d, act = d_gate_up.bfloat16().cpu(), exact_act.bfloat16().cpu()
        own.add(operation, case, nearly_quantised_error(tiles, quantise_tiles(d, power_of_two)))
        own.add(operation, f"{case}, columns", nearly_quantised_error(columns, quantise_columns(d, power_of_two)))
        own.add(operation, f"{case}, activation", nearly_quantised_error(again, quantise_columns(act, power_of_two)))
        fine = bool(((d_weight.double() - d_exact).abs() <= (width + 10) * UNIT * size).all())
        own.add(operation, f"{case}, router weight", {"passed": fine})

    return check


def _launches(bench: Bench, own: Checks) -> None:
    """Neither the width of tiles nor how operands are fetched changes bits."""

    def check(operation: str, case: str) -> None:
        from clearseek.fp8.backends.triton import products, quantise, weight_gradient
        from clearseek.fp8.backends.triton.loading import Launch

        options = [Launch(2, 8, 4, True), Launch(1, 8, 4, True), Launch(1, 8, 3, False)]
        ends_E = torch.tensor([128, 384], dtype=torch.int32, device=bench.device)
        x, w = bench.normal(384, 256, name="x"), bench.normal(2, 384, 256, name="w")
        a, b = quantise.tiles(x, True), quantise.blocks(w, True).forward
        columns = quantise.columns(x, True)
        for name, call in (
            ("grouped product", lambda launch: products.grouped_scaled_mm(a, b, ends_E, launch)),
            ("grouped weight gradient", lambda launch: weight_gradient.grouped_weight_gradient(
                columns, columns, ends_E, launch)),
        ):  # fmt: skip
            first, *others = [call(launch) for launch in options]
            own.add(operation, f"{case}, {name}", {"passed": all(same_bytes(first, each) for each in others)})

    own.run("launch options", "the same bits", 15, check)


def _reference_here(bench: Bench, own: Checks) -> None:
    """Whether PyTorch quantises on this device as on the CPU, from which the other checks take what is right."""
    x = _matrix(bench, *bench.pick((2048, 2048), (130, 200)), "reference", torch.float32)
    for power_of_two in (True, False):

        def check(operation: str, case: str, power_of_two: bool = power_of_two) -> None:
            found = quantise_tiles(x.to(bench.device), power_of_two)
            own.add(operation, case, quantised_error(found, quantise_tiles(x, power_of_two)))

        own.run("tiles", "powers of two" if power_of_two else "free scales", 1, check)
