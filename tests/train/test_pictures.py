"""The pictures: right numbers, whole files, the same file from the same numbers."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.train.pictures import _summary, expert_load, loss_curve, relative_load, smooth, spread
from clearseek.train.record import StepRecord


def point(step: int, loss: float, held_out: float | None = None) -> StepRecord:
    return StepRecord(step, {"loss": loss} | ({} if held_out is None else {"held_out_bpb": held_out}), 1.0, 100 * step)


def points(count: int) -> list[StepRecord]:
    return [point(step, 8.0 / step**0.3, 2.0 if step % 10 == 0 else None) for step in range(1, count + 1)]


def png_size(file: Path) -> tuple[int, int]:
    data = file.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize("count", [1, 2, 300])
def test_loss_curve(tmp_path: Path, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss_curve(points(count), tmp_path / "loss.png", bytes_per_token=3.3, title="tiny")
    assert png_size(tmp_path / "loss.png") == (1200, 675)


def test_a_diverged_run_can_be_drawn(tmp_path: Path) -> None:
    records = [*points(20), point(21, float("nan")), point(22, float("inf"))]
    loss_curve(records, tmp_path / "loss.png", bytes_per_token=3.3)
    png_size(tmp_path / "loss.png")


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1, 2), (50, 6, 16), (900, 58, 64)])
def test_expert_load(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    loads = np.random.default_rng(0).integers(0, 100, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expert_load(loads, tmp_path / "load.png", layers=range(1, shape[1] + 1))
    width, height = png_size(tmp_path / "load.png")
    assert width == 1350
    assert height < 1700


def test_same_numbers_same_file(tmp_path: Path) -> None:
    loads = np.random.default_rng(0).integers(0, 100, (20, 2, 4))
    for name in "ab":
        loss_curve(points(30), tmp_path / f"{name}1.png", bytes_per_token=3.3)
        expert_load(loads, tmp_path / f"{name}2.png")
    for kind in "12":
        assert (tmp_path / f"a{kind}.png").read_bytes() == (tmp_path / f"b{kind}.png").read_bytes()


def test_a_users_style_does_not_matter(tmp_path: Path) -> None:
    import matplotlib

    loss_curve(points(30), tmp_path / "a.png", bytes_per_token=3.3)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}):
        loss_curve(points(30), tmp_path / "b.png", bytes_per_token=3.3)
        assert matplotlib.rcParams["axes.facecolor"] == "red"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        loss_curve(points(3), tmp_path / "file" / "loss.png", bytes_per_token=3.3)


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=400))
def test_smoothing_stays_within_bounds(values: list[float]) -> None:
    array = np.array(values)
    result = smooth(array)
    assert result.shape == array.shape
    assert result.min() >= array.min() - 1e-9 and result.max() <= array.max() + 1e-9
    assert result[0] == pytest.approx(array[0])


def test_smoothing_keeps_a_line_and_lowers_noise() -> None:
    line = np.linspace(5, 3, 400)
    np.testing.assert_allclose(smooth(line), line)
    noise = np.random.default_rng(0).normal(size=400)
    assert smooth(noise)[20:-20].std() < 0.5 * noise.std()


def test_relative_load() -> None:
    np.testing.assert_allclose(relative_load(np.array([[2, 2, 0, 4], [0, 0, 0, 0]])), [[1, 1, 0, 2], [1, 1, 1, 1]])


@pytest.mark.parametrize("steps", [1, 3, 399, 400, 401, 1234])
def test_loads_read_one_by_one_are_summed_up_as_all_together(steps: int) -> None:
    loads = np.random.default_rng(0).integers(0, 100, (steps, 2, 4))
    columns, final = _summary(loads, steps)
    together = [part.mean(0) for part in np.array_split(relative_load(loads), min(steps, 400))]
    np.testing.assert_array_equal(columns, together)
    np.testing.assert_array_equal(final, relative_load(loads[-max(1, steps // 20) :].sum(0)))


def test_spread_has_both_ends() -> None:
    assert spread(3, 8) == [0, 1, 2]
    assert spread(1, 8) == [0]
    chosen = spread(58, 8)
    assert len(chosen) == 8 and chosen[0] == 0 and chosen[-1] == 57
