from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearseek.fp8 import formats
from tests.fp8 import oracle

floats = st.floats(min_value=2.0**-120, max_value=2.0**120, width=32)


@given(floats)
def test_next_power_of_two(x: float) -> None:
    found = formats.next_power_of_two(torch.tensor([x])).item()
    mantissa, _ = math.frexp(found)
    assert mantissa == 0.5 and x <= found < 2 * x


@given(st.floats(min_value=0, max_value=2.0**100, width=32))
def test_scales_let_the_largest_fit(amax: float) -> None:
    for power_of_two in (False, True):
        scale = formats.scale_of(torch.tensor([amax]), power_of_two).item()
        assert scale > 0 and amax / scale <= 448 * (1 + 2**-22)
        assert amax < 1e-4 or amax / scale > (223.9 if power_of_two else 447.9)  # and no more room than needed


def test_every_e4m3_value_is_the_table_of_its_definition() -> None:
    codes = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert np.array_equal(codes.double().numpy(), oracle.E4M3)


@given(st.lists(st.floats(min_value=-600, max_value=600, width=32), min_size=1, max_size=50))
def test_to_e4m3_rounds_to_nearest_even_and_saturates(numbers: list[float]) -> None:
    x = torch.tensor(numbers)
    assert np.array_equal(formats.to_e4m3(x).double().numpy(), oracle.nearest(x.double().numpy(), oracle.E4M3))


def test_every_e5m6_number_survives_packing() -> None:
    signed = np.concatenate([oracle.E5M6, -oracle.E5M6])
    x = torch.from_numpy(signed).float()
    packed = formats.to_e5m6(x)
    assert packed.shape == (len(x) // 2 * 3,) and packed.dtype == torch.uint8
    assert torch.equal(formats.from_e5m6(packed).view(torch.int16), x.half().view(torch.int16))  # the sign of zero too


@given(st.lists(st.floats(min_value=-65024, max_value=65024, width=32), min_size=2, max_size=60))
def test_e5m6_rounds_to_nearest_even(numbers: list[float]) -> None:
    x = torch.tensor(numbers[: len(numbers) // 2 * 2], dtype=torch.float32)
    found = formats.from_e5m6(formats.to_e5m6(x)).double().numpy()
    assert np.array_equal(found, oracle.nearest(x.double().numpy(), oracle.E5M6))
