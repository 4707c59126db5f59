"""What is done to checkpoints: a bit is flipped in a file, and who saves them is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

from clearseek.train.checkpoints import checkpoint


def flip_a_bit(file: Path) -> None:
    """Change one bit of a file, three quarters into it."""
    data = bytearray(file.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    file.write_bytes(data)


def steps_left(save: Callable[[str], None], folder: Path, processes: ForkServerContext) -> Iterator[list[int]]:
    """The steps of the checkpoints that each of ten killed savers leaves; at most two are kept, and one was new."""
    chance = random.Random(0)
    for _ in range(10):
        writer = processes.Process(target=save, args=(str(folder),))
        writer.start()
        while len(checkpoint.steps(folder)) < 2 and writer.is_alive():
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.05))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        steps = checkpoint.steps(folder)
        assert len(steps) in (1, 2, 3)  # the third: killed between the rename and the pruning
        yield steps
