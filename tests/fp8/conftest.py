"""Where Triton's kernels run: on a GPU if there is one, in Triton's interpreter if not (../conftest.py)."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(
    params=[
        pytest.param("cpu", id="interpreter"),
        pytest.param("cuda", id="gpu", marks=pytest.mark.gpu),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """The interpreter's device or the GPU: kernels are defined for one of them in a process."""
    if (request.param == "cuda") != torch.cuda.is_available():
        pytest.skip("no CUDA device" if request.param == "cuda" else "kernels run on the GPU here")
    return torch.device(request.param)
