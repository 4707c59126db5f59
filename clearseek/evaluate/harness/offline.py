"""No network: libraries that would fetch data are told so, and sockets refuse to connect."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn
from unittest.mock import patch

_SWITCHES = (
    ("datasets.config", "HF_HUB_OFFLINE"),
    ("datasets.config", "HF_DATASETS_OFFLINE"),
    ("huggingface_hub.constants", "HF_HUB_OFFLINE"),
)
"""Where libraries keep what they read from the environment when they were imported."""


class NoNetworkError(OSError):
    """A connection was refused, because downloads are not allowed."""


def _refuse(*_: Any, **__: Any) -> NoReturn:
    raise NoNetworkError("the network is not to be used")


@contextmanager
def offline() -> Iterator[None]:
    """Keep this process from the network, all its threads, until the block ends."""
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
    with ExitStack() as changes:
        changes.enter_context(patch.dict(os.environ, environment))
        for module, name in _SWITCHES:
            changes.enter_context(patch.object(importlib.import_module(module), name, True))
        for owner, name in (
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (socket.socket, "sendto"),
            (socket, "getaddrinfo"),
        ):
            changes.enter_context(patch.object(owner, name, _refuse))
        yield
