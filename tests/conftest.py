"""What must be decided before anything is imported."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton decides at its import whether kernels are interpreted, and other packages import it too.
    os.environ.setdefault("TRITON_INTERPRET", "1")
