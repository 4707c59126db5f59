"""Signals that ask a program to end: long work finishes its current unit, and stops."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a terminal that closes call `stop`; a second Ctrl-C interrupts at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    wanted = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        wanted.append(signal.SIGHUP)
    try:
        previous = {number: signal.signal(number, ask) for number in wanted}
    except ValueError:  # not the main thread, the only one that may set handlers
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
