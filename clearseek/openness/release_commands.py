"""What ``release`` and ``verify`` do on the command line. Both train or evaluate, so both need PyTorch."""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sys
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from clearseek.errors import UserError
from clearseek.files import write_atomic
from clearseek.machine import describe
from clearseek.openness import manifest as listing
from clearseek.openness.dsse import sign_statement
from clearseek.openness.hub_push import check_push, push
from clearseek.openness.keys import generate_key, load_private_key
from clearseek.openness.release import make_release
from clearseek.openness.render.text import MARKS
from clearseek.openness.statement import as_statement, coverage, summary, verdict
from clearseek.openness.tree import visible
from clearseek.openness.verify import LEVELS
from clearseek.openness.verify import verify as verify_release
from clearseek.report import print_rows, program
from clearseek.train.run import RunFolder

FAILED = 1
"""Exit code of a verification that found a difference."""


def release(arguments: argparse.Namespace) -> int:
    """``clearseek release``."""
    if arguments.private and arguments.push is None:
        raise UserError("--private goes with --push owner/name")
    if arguments.make_key and arguments.key is None:
        raise UserError("--make-key goes with --key FILE: where the new key is to be")
    if arguments.push is not None:
        check_push(arguments.push)
    if arguments.make_key:
        generate_key(arguments.key)
    made = make_release(
        RunFolder(arguments.run), arguments.out, arguments.data, arguments.key, arguments.dtype, arguments.name or "",
        arguments.provider, arguments.languages,
    )  # fmt: skip
    pushed = "" if arguments.push is None else f"{arguments.push}@{push(made.out, arguments.push, arguments.private)}"
    if arguments.json:
        print(json.dumps({**asdict(made), "out": str(made.out), "pushed": pushed or None}, indent=1))
        return 0
    rows = [
        ("release", str(made.out)),
        ("files", f"{made.files:,}, {made.bytes:,} bytes"),
        ("Merkle root", made.root),
        ("signed by", made.fingerprint or "nobody: --key FILE --make-key makes a key and signs with it"),
        *([("pushed to", pushed)] if pushed else []),
        ("try next", f"{program()} audit {pushed or made.out}"),
        ("", f"{program()} verify {made.out}"),
    ]
    print_rows(Console(highlight=False), rows)
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """``clearseek verify``."""
    levels = _levels(arguments.levels)
    if arguments.segments < 1:
        raise UserError(f"--segments {arguments.segments}: use a number from 1 up")
    private = None if arguments.sign is None else load_private_key(arguments.sign)
    nonce = arguments.nonce or secrets.token_hex(16)
    console = Console(highlight=False, stderr=arguments.json)
    progress = Console(stderr=True, highlight=False)

    def say(text: str) -> None:
        progress.print(text, style="dim", markup=False)

    found = verify_release(
        arguments.release, levels, nonce, arguments.segments, arguments.key, arguments.read_sources, say
    )
    rows = found.rows
    for row in rows:
        sign, colour = MARKS[row.answer]
        console.print(Text(f"  {sign} ", style=colour) + Text(f"{row.title}: {visible(row.reason)}"), soft_wrap=True)
    statement = as_statement(found, {**describe(), "platform": platform.platform()})
    if private is not None:
        name = f"verify-{private.public.fingerprint[:12]}-{hash_name(nonce)}.json"
        path = arguments.release / listing.ATTESTATIONS / name
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, sign_statement(statement, private))
        write_atomic(path.parent / f"{private.public.fingerprint[:12]}.pub", private.public.pem)
        console.print(Text(f"  signed statement: {path}"), soft_wrap=True)
    if arguments.json:
        print(json.dumps({"statement": statement, "rows": [row.as_json() for row in rows]}, indent=1))
    else:
        console.print(Text(f"{summary(found)}; {coverage(found)}; nonce {nonce}", style="bold"), soft_wrap=True)
    sys.stdout.flush()
    idle = any(row.answer == "unknown" and row.id.startswith("verify.steps") for row in rows)  # asked for, and not done
    return FAILED if idle or verdict(rows) == "FAILED" else 0


def hash_name(nonce: str) -> str:
    """A nonce as part of a file's name."""
    return "".join(letter for letter in nonce if letter.isalnum())[:12] or "x"


def _levels(text: str) -> tuple[int, ...]:
    """``0,1,5`` as numbers. Raises UserError for a level there is not."""
    try:
        levels = tuple(sorted({int(each) for each in text.split(",")}))
    except ValueError:
        levels = (-1,)
    if not set(levels) <= set(LEVELS):
        raise UserError(f"--levels {text}: use numbers out of {', '.join(map(str, LEVELS))}, with commas between")
    return levels
