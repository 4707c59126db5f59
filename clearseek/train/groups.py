"""Parameter groups and a state for every parameter: what an optimiser is made of.

PyTorch's own class loads PyTorch's compiler when it is first made, which takes as long again as PyTorch itself and
serves nothing here. Its update rules are plain functions, and these are used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch import Tensor


class Groups:
    """Groups of parameters that share their settings.

    Args:
        groups: Each with ``params``, and settings that override the common ones.
        common: Settings of all groups.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **common: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [common | group for group in groups]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
