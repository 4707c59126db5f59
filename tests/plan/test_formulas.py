from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearseek.errors import UserError
from clearseek.plan.formulas import (
    compute_class,
    cost,
    emissions_tonnes,
    energy_kwh,
    gpu_hours,
    is_plausible,
    price,
    six_nd,
    utilisation,
)
from clearseek.plan.hardware import DEVICES, Hardware, find_hardware

H800 = DEVICES["h800"]
positive = st.floats(min_value=1e-3, max_value=1e30)
share = st.floats(min_value=0.01, max_value=1.0)


def test_deepseek_v3_by_hand() -> None:
    flops = six_nd(37e9, 14.8e12)
    assert flops == pytest.approx(3.2856e24, rel=1e-9)
    used = utilisation(flops, 2.664e6, H800.bf16)
    assert used == pytest.approx(0.346, abs=5e-4) and is_plausible(used)
    assert utilisation(flops, 2.664e6, H800.peak("fp8")) == pytest.approx(0.173, abs=5e-4)
    assert price(2.788e6, 2.0) == 5.576e6
    assert compute_class(flops) == "1e23 or more"


def test_energy_is_what_meta_and_bigscience_print() -> None:
    """LLaMA-65B: 449 MWh and 173 t (table 15). BLOOM: 433 MWh, of its devices alone."""
    llama = energy_kwh(1_022_362, 400)
    assert llama == pytest.approx(449_000, rel=0.003)
    assert emissions_tonnes(llama, 0.385) == pytest.approx(173, abs=0.5)
    assert energy_kwh(1_082_990, 400, pue=1) == pytest.approx(433_000, rel=0.001)


def test_one_device_for_one_hour() -> None:
    assert gpu_hours(3600e12, 1e12, 1.0) == 1
    one = cost(24.0, 1000, devices=2, dollars_per_hour=3, kg_per_kwh=0.5, pue=1)
    assert (one.hours, one.days, one.dollars, one.kwh, one.tonnes_co2e) == (24, 0.5, 72, 24, 0.012)
    assert cost(24.0, 1000).days is None and cost(24.0, 1000).tonnes_co2e is None


@given(positive, positive, share)
def test_utilisation_undoes_hours(flops: float, peak: float, used: float) -> None:
    assert utilisation(flops, gpu_hours(flops, peak, used), peak) == pytest.approx(used)


@given(positive, share, share)
def test_a_busier_device_takes_less_time(flops: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert gpu_hours(flops, 1e15, high) <= gpu_hours(flops, 1e15, low)


@pytest.mark.parametrize(("flops", "said"), [(9e22, "below 1e23"), (1e23, "1e23 or more"), (1e25, "1e25 or more")])
def test_thresholds(flops: float, said: str) -> None:
    assert compute_class(flops) == said


@pytest.mark.parametrize("name", ["h100", "H100", "RTX 4090", "rtx_4090", "4090", "a100"])
def test_a_device_is_found_however_it_is_written(name: str) -> None:
    assert find_hardware(name).name in DEVICES


def test_no_such_device() -> None:
    with pytest.raises(UserError, match=r'no device "h10" \(did you mean "h100"\?\); known: h100, '):
        find_hardware("h10")
    with pytest.raises(UserError, match="a100-80gb has no FP8 units"):
        find_hardware("a100").peak("fp8")


@pytest.mark.parametrize("device", DEVICES.values(), ids=list(DEVICES))
def test_devices_are_in_base_units(device: Hardware) -> None:
    assert device.source
    assert 1e14 < device.bf16 < 1e16 and (device.fp8 is None or device.fp8 == pytest.approx(2 * device.bf16, rel=1e-3))
    assert 20e9 < device.memory < 300e9 and 1e12 <= device.bandwidth <= 1e13 and 100 < device.watts < 2000
