"""The processes that train one model together, and how they agree.

What is agreed on is small: JSON values, errors, whether to stop. It goes as bytes of text, never as pickles. A group of
one process is the identity, so the trainer has one path whether it is alone or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch.distributed as dist

T = TypeVar("T")


class Group:
    """A group of one process: nothing to agree on."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """Number of processes."""
    hosts: list[str]
    """Every process's host."""
    agent: int = 0
    """Number of the launcher that starts this process again, one on each machine."""

    def __init__(self) -> None:
        self.hosts = [""]

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder and speaks to the user."""
        return self.rank == 0

    @property
    def first_here(self) -> bool:
        """Whether this is the first process of its machine, which checks the machine's files for all of them."""
        return True

    def place(self, device: str) -> str:
        """This process's device, where the command names a kind of devices."""
        return device

    def share(self, value: Any) -> Any:
        """The main process's value, on all; a JSON value."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, on all, in the order of their numbers; JSON values."""
        return [value]

    def collect(self, value: Any) -> list[Any] | None:
        """As :meth:`gather` on the main process, and None on the others."""
        return [value]

    def process_group(self, ranks: Sequence[int]) -> dist.ProcessGroup:
        """The group of some processes for collectives; its members ask for their groups in one order."""
        raise AssertionError("one process needs no collectives")

    def largest(self, number: int) -> int:
        """The largest of all processes' numbers, on all."""
        return number

    def numbers(self, *mine: float) -> list[tuple[float, ...]]:
        """Every process's numbers, equally many, on all: one small collective, as cheap as `largest`."""
        return [mine]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block on all processes; where it raises an error on some, all raise that error when all are done."""
        yield

    def after_main(self, work: Callable[[], T]) -> T:
        """Do work that may take long on the main process, and then again, with what it left, on the others."""
        return work()

    def close(self, error: BaseException | None = None) -> None:
        """Leave the group, because of an error or at the end."""


ALONE = Group()
