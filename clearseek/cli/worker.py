"""One process of ``clearseek train --processes N``: the command line, with an end for its launcher."""

from __future__ import annotations

import sys

from clearseek.cli import main
from clearseek.cli.exits import FAILED, LOST
from clearseek.train.parallel import worker


def work() -> int:
    """Run the command; the code to exit with."""
    if worker.ended() is not None:
        return 0
    try:
        code = main()
    except BaseException:
        worker.record_end(FAILED)
        raise
    if code not in (0, LOST):
        worker.record_end(code)
    return worker.exit_code(code)


if __name__ == "__main__":
    sys.exit(work())
