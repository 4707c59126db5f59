"""What was asked for against what was found: one line a figure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple


class Bar(NamedTuple):
    """A figure with what it should reach."""

    name: str
    figure: float | None
    """None where it was not measured."""
    bar: float
    unit: str

    @property
    def met(self) -> bool | None:
        """Whether it does; None where it was not measured."""
        return None if self.figure is None else self.figure >= self.bar


def bars(report: dict[str, Any]) -> list[Bar]:
    """Every figure: the worst one where sizes and splits differ, of the backend that `auto` takes."""
    products, quantising = (
        report.get("kernels", {}).get("products", []),
        report.get("kernels", {}).get("quantising", []),
    )
    backend = next((p["backend"] for p in products if p["backend"] != "bf16"), None)
    mine = [p for p in products if p["backend"] == backend]
    found = []
    for operation, bar in (("forward", 800.0), ("input gradient", 800.0), ("weight gradient", 600.0)):
        slowest = _tera(p for p in mine if p["operation"] == operation)
        found.append(Bar(f"grouped {operation}, {backend or 'FP8'}, slowest", slowest, bar, "TFLOP/s"))
    swiglu = [q for q in quantising if q["kernel"].startswith("SwiGLU")]
    plain = [q for q in quantising if not q["kernel"].startswith("SwiGLU")]
    for name, entries in (("quantising", plain), ("SwiGLU with quantising", swiglu)):
        shares = [q["percent_of_copy"] for q in entries if q["percent_of_copy"] is not None]
        found.append(Bar(f"{name}, slowest kernel", min(shares, default=None), 80.0, "% of copy"))
    layers = {entry["layer"]: entry["times_bf16"] for entry in report.get("layer", {}).get("times", [])}
    found.append(Bar("FP8 expert layer, forward and backward", layers.get(backend or "triton"), 1.3, "x BF16"))
    return found + _training(report.get("training", {}))


def _tera(entries: Iterable[dict[str, Any]]) -> float | None:
    slowest = min((entry["flops_per_second"] for entry in entries), default=None)
    return None if slowest is None else slowest / 1e12


def _training(training: dict[str, Any]) -> list[Bar]:
    found = []
    for run in training.get("runs", []):
        if run["precision"] == "fp8":
            found.append(
                Bar(f"{_label(run)}, FP8, learned routing", run["percent_of_bf16_peak"], 40.0, "% of BF16 peak")
            )
    for ratio in training.get("ratios", []):
        found.append(Bar(f"{_label(ratio)}, end to end", ratio["fp8_over_bf16"], 1.15, "x BF16"))
    return found or [Bar("training, FP8", None, 40.0, "% of BF16 peak"), Bar("training, FP8", None, 1.15, "x BF16")]


def _label(entry: dict[str, Any]) -> str:
    return f"training {entry['model']}{', compiled' if entry['compiled'] else ''}"


def failed_checks(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Checks of kernels and layers that did not pass."""
    entries = report.get("checks", {}).get("checks", []) + report.get("layer", {}).get("checks", [])
    return [entry for entry in entries if not entry["passed"]]


def conclude(report: dict[str, Any]) -> None:
    """Add the bars to the record and print them, with what failed and what was left out."""
    entries = bars(report)
    report["bars"] = [bar._asdict() | {"met": bar.met} for bar in entries]
    wrong = failed_checks(report)
    done = len(report.get("checks", {}).get("checks", [])) + len(report.get("layer", {}).get("checks", []))
    report["checks_passed"] = bool(done) and not wrong
    if report.get("smoke"):
        print("\nfigures of a smoke run say nothing about speed")
    print("\nfigure                                                        found       bar")
    for bar in entries:
        figure = "not measured" if bar.figure is None else f"{bar.figure:12.2f}"
        verdict = {True: "met", False: "NOT MET", None: ""}[bar.met]
        print(f"{bar.name:55} {figure:>12} {bar.bar:9.2f} {bar.unit:15} {verdict}")
    print(f"\n{done - len(wrong)} of {done} checks passed; {len(report.get('errors', []))} errors; "
          f"{len(report.get('skipped', []))} pieces left out")  # fmt: skip
