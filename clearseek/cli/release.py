"""What ``release`` and ``verify`` do on the command line. Both train or evaluate, so both need PyTorch."""

from __future__ import annotations

import argparse
import getpass
import json
import os
import platform
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from clearseek.audit.questions import VERIFY_STEPS
from clearseek.audit.render.text import MARKS, mark
from clearseek.cli.report import print_rows
from clearseek.cores import sharing_cores
from clearseek.errors import UserError
from clearseek.files import write_atomic
from clearseek.machine import describe
from clearseek.program import command
from clearseek.release.make import make_release
from clearseek.release.push import check_push, push
from clearseek.signing import manifest as listing
from clearseek.signing.dsse import sign_statement
from clearseek.signing.keys import PrivateKey, generate_key, is_encrypted, load_private_key
from clearseek.signing.tree import visible
from clearseek.train.run import RunFolder
from clearseek.verify.run import LEVELS
from clearseek.verify.run import verify as verify_release
from clearseek.verify.statement import as_statement, coverage, summary, verdict

FAILED = 1
"""Exit code of a verification that found a difference."""


@sharing_cores()
def release(arguments: argparse.Namespace) -> int:
    """``clearseek release``."""
    if arguments.private and arguments.push is None:
        raise UserError("--private goes with --push owner/name")
    if arguments.make_key and arguments.key is None:
        raise UserError("--make-key goes with --key FILE: where the new key is to be")
    if arguments.push is not None:
        check_push(arguments.push)
    with _key(arguments.key, arguments.make_key) as private:
        made = make_release(
            RunFolder(arguments.run), arguments.out, arguments.data, private, arguments.dtype, arguments.name or "",
            arguments.provider, arguments.languages, _say,
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
        ("try next", command("audit", pushed or made.out)),
        ("", command("verify", made.out, *(("--key", Path(f"{arguments.key}.pub")) if arguments.key else ()))),
    ]
    print_rows(Console(highlight=False), rows)
    return 0


@sharing_cores()
def verify(arguments: argparse.Namespace) -> int:
    """``clearseek verify``."""
    levels = _levels(arguments.levels)
    if arguments.segments < 1:
        raise UserError(f"--segments {arguments.segments}: use a number from 1 up")
    if arguments.make_key and arguments.sign is None:
        raise UserError("--make-key goes with --sign FILE: where the new key is to be")
    nonce = arguments.nonce or secrets.token_hex(16)
    console = Console(highlight=False, stderr=arguments.json)
    with _key(arguments.sign, arguments.make_key) as private:
        found = verify_release(
            arguments.release, levels, nonce, arguments.segments, arguments.key, arguments.read_sources, _say
        )
    rows = found.rows
    for row in rows:
        sign = Text(f"  {mark(console, row.answer)} ", style=MARKS[row.answer][1])
        console.print(sign + Text(f"{row.title}: {visible(row.reason)}"), soft_wrap=True)
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
    idle = any(row.answer == "unknown" and VERIFY_STEPS.covers(row.id) for row in rows)  # asked for, and not done
    return FAILED if idle or verdict(rows) == "FAILED" else 0


def _say(text: str) -> None:
    """What is being done, on standard error."""
    Console(stderr=True, highlight=False).print(text, style="dim", markup=False)


@contextmanager
def _key(path: Path | None, make: bool) -> Iterator[PrivateKey | None]:
    """The key to sign with, made first if asked for, and taken back if nothing comes of it."""
    if path is None:
        yield None
        return
    if make:
        generate_key(path)
    elif not os.path.lexists(path):
        raise UserError(f"{path}: no such key: --make-key makes it, or give the file of one that you have")
    try:
        yield _load(path)
    except BaseException:
        if make:
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".pub").unlink(missing_ok=True)
        raise


def _load(path: Path) -> PrivateKey:
    """A private key; if it is encrypted, with the password from CLEARSEEK_KEY_PASSWORD or from the terminal."""
    if not is_encrypted(path):
        return load_private_key(path)
    password = os.environ.get("CLEARSEEK_KEY_PASSWORD")
    if password is None and sys.stdin.isatty():
        password = getpass.getpass(f"password of {path}: ")
    if password is None:
        raise UserError(f"{path}: is encrypted: set CLEARSEEK_KEY_PASSWORD, or run it in a terminal")
    return load_private_key(path, password.encode())


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
