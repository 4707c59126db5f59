"""``clearseek verify``: parts of a release made again, and compared bit for bit."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from clearseek.cli.exits import FAILED
from clearseek.cli.terminal import say
from clearseek.cores import sharing_cores
from clearseek.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek verify my-release --segments 2 --key release.key.pub\n"
        "  clearseek verify my-release --levels 6                    (the whole run)\n"
        "  clearseek verify my-release --sign my.key --make-key      (and say so to others)\n"
        "  clearseek verify my-release --levels 0,1 --trust alice.pub  (E5 where Alice did it again)"
    )
    parser.add_argument("release", type=Path, help="folder of a release")
    parser.add_argument("--levels", default="0,1,2,3,4,5",
                        help="0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments of the training, 6 all "
                        "of it (default: 0,1,2,3,4,5)")  # fmt: skip
    parser.add_argument("--segments", type=int, default=1, help="segments to train again at level 5 (default: 1)")
    parser.add_argument("--nonce", help="text that chooses the segments (default: random)")
    parser.add_argument("--key", type=Path, help="the publisher's public key")
    parser.add_argument("--trust", action="append", default=[], type=Path, metavar="KEY.pub",
                        help="count what this key signed in attestations/ as re-execution; repeatable")  # fmt: skip
    parser.add_argument("--read-sources", action="store_true",
                        help="read files of this machine that the recipe names: its sources, its teacher")  # fmt: skip
    parser.add_argument("--parent", type=Path, metavar="FOLDER",
                        help="the model it was made from, where the release only names its weights")  # fmt: skip
    parser.add_argument("--sign", type=Path, metavar="KEY", help="add a statement of the result, signed with this key")
    parser.add_argument("--make-key", action="store_true", help="make the key of --sign first")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from clearseek.audit.questions import VERIFY_STEPS
    from clearseek.audit.render.text import MARKS, mark
    from clearseek.cli.keys import signing_key
    from clearseek.cli.report import print_json
    from clearseek.files import write_atomic
    from clearseek.machine import describe
    from clearseek.signing.dsse import sign_statement
    from clearseek.signing.keys import load_public_key
    from clearseek.signing.manifest import ATTESTATIONS
    from clearseek.signing.tree import visible
    from clearseek.verify.run import verify_release
    from clearseek.verify.statement import as_statement, coverage, summary, verdict

    levels = _levels(arguments.levels)
    if arguments.segments < 1:
        raise UserError(f"--segments {arguments.segments}: use a number from 1 up")
    if arguments.make_key and arguments.sign is None:
        raise UserError("--make-key goes with --sign FILE, the file of the new key")
    nonce = arguments.nonce or os.urandom(16).hex()
    trusted = tuple(load_public_key(path) for path in arguments.trust)
    console = Console(highlight=False, stderr=arguments.json)
    with signing_key(arguments.sign, arguments.make_key) as private:
        found = verify_release(
            arguments.release,
            levels,
            nonce,
            arguments.segments,
            arguments.key,
            arguments.read_sources,
            say,
            trusted,
            arguments.parent,
        )
    for row in found.rows:
        own = row.id.startswith("verify.")
        sign = Text(f"{'  ' if own else '    '}{mark(console, row.answer)} ", style=MARKS[row.answer][1])
        said = f"{row.title}: {row.reason}" if own else f"E{int(row.grade)}  {row.id}: {row.reason}"
        console.print(sign + Text(visible(said)), soft_wrap=True)
    statement = as_statement(found, {**describe(), "platform": platform.platform()})
    if private is not None:
        signer = private.public.fingerprint[:12]
        part = "".join(letter for letter in nonce if letter.isalnum())[:12] or "x"  # part of the file's name
        path = arguments.release / ATTESTATIONS / f"verify-{signer}-{part}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, sign_statement(statement, private))
        write_atomic(path.parent / f"{signer}.pub", private.public.pem)
        console.print(Text(f"  signed statement: {path}"), soft_wrap=True)
    if arguments.json:
        print_json({"statement": statement, "rows": [row.as_json() for row in found.rows]})
    else:
        console.print(Text(f"{summary(found)}; {coverage(found)}; nonce {nonce}", style="bold"), soft_wrap=True)
    undone = any(row.answer == "unknown" and VERIFY_STEPS.covers(row.id) for row in found.rows)
    return FAILED if undone or verdict(found.rows) == "FAILED" else 0


def _levels(text: str) -> tuple[int, ...]:
    """Parse ``0,1,5``. Raises UserError for an unknown level."""
    from clearseek.verify.run import LEVELS

    try:
        levels = tuple(sorted({int(each) for each in text.split(",")}))
    except ValueError:
        levels = (-1,)
    if not set(levels) <= set(LEVELS):
        raise UserError(f"--levels {text}: use numbers out of {', '.join(map(str, LEVELS))}, with commas between")
    return levels
