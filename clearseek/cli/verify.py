"""``clearseek verify``: parts of a release made again, and compared bit for bit."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.cli.exits import FAILED
from clearseek.cli.terminal import say
from clearseek.cores import sharing_cores
from clearseek.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from clearseek.audit.evidence import Row
    from clearseek.signing.keys import PrivateKey, PublicKey


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek verify my-release --segments 2 --key release.key.pub\n"
        "  clearseek verify my-release --levels 6                    (the whole run)\n"
        "  clearseek verify my-release --part 3/20 --out part-03.json   (a twentieth of it)\n"
        "  clearseek verify my-release --join part-*.json            (one statement of all parts)\n"
        "  clearseek verify my-release --sign my.key --make-key      (and say so to others)\n"
        "  clearseek verify my-release --levels 0,1 --trust alice.pub  (E5 where Alice did it again)"
    )
    parser.add_argument("release", type=Path, help="folder of a release")
    parser.add_argument("--levels",
                        help="0 hashes, 1 audit, 2 logits, 3 evaluation, 4 data, 5 segments of the training, 6 all "
                        "of it (default: 0,1,2,3,4,5, and with --part 0,6)")  # fmt: skip
    parser.add_argument("--segments", type=int, help="segments to train again at level 5 (default: 1)")
    parser.add_argument("--part", metavar="K/N",
                        help="level 6 on N machines: do part K; the last part also does the other levels")  # fmt: skip
    parser.add_argument("--join", nargs="+", type=Path, metavar="FILE",
                        help="make one statement of those of all parts; with --trust, of signed ones")  # fmt: skip
    parser.add_argument("--records", metavar="N",
                        help="records of each evaluated task to ask for again at level 3, or all "
                        "(default: 64)")  # fmt: skip
    parser.add_argument("--allow-code", action="store_true",
                        help="run programs that the model wrote, in a process with limits, "
                        "to score them again")  # fmt: skip
    parser.add_argument("--nonce", help="text that chooses segments and records (default: random)")
    parser.add_argument("--key", type=Path, help="the publisher's public key")
    parser.add_argument("--trust", action="append", default=[], type=Path, metavar="KEY.pub",
                        help="count what this key signed in attestations/ as re-execution; repeatable")  # fmt: skip
    parser.add_argument("--read-sources", action="store_true",
                        help="read files of this machine that the recipe names: its sources, its teacher")  # fmt: skip
    parser.add_argument("--parent", type=Path, metavar="FOLDER",
                        help="the model it was made from, where the release only names its weights")  # fmt: skip
    parser.add_argument("--sign", type=Path, metavar="KEY", help="add a statement of the result, signed with this key")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="write the statement there, signed or not (not in attestations/ then)")  # fmt: skip
    parser.add_argument("--make-key", action="store_true", help="make the key of --sign first")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from clearseek.cli.keys import signing_key
    from clearseek.cli.report import print_json
    from clearseek.machine import describe
    from clearseek.signing.keys import load_public_key
    from clearseek.verify.evaluations import RECORDS
    from clearseek.verify.parts import parse_part
    from clearseek.verify.run import verify_release
    from clearseek.verify.statement import as_statement, coverage, result_of

    part = None if arguments.part is None else parse_part(arguments.part)
    _refuse_options(arguments)
    trusted = tuple(load_public_key(path) for path in arguments.trust)
    console = Console(highlight=False, stderr=arguments.json)
    if arguments.join is not None:
        return _join(arguments, trusted, console)
    levels = _levels(arguments.levels, "0,1,2,3,4,5" if part is None else "0,6")
    if part is not None and (6 not in levels or 5 in levels):
        raise UserError(f"--part divides level 6, the whole training: --levels {arguments.levels} must have 6, not 5")
    nonce = arguments.nonce or os.urandom(16).hex()
    with signing_key(arguments.sign, arguments.make_key) as private:
        found = verify_release(
            arguments.release,
            levels,
            nonce,
            arguments.segments or 1,
            arguments.key,
            arguments.read_sources,
            say,
            trusted,
            arguments.parent,
            part,
            RECORDS if arguments.records is None else _records(arguments.records),
            arguments.allow_code,
        )
    _print_rows(found.rows, console)
    statement = as_statement(found, {**describe(), "platform": platform.platform()})
    _write(statement, private, nonce, arguments, console)
    result = result_of(found.rows)
    if arguments.json:
        print_json({"statement": statement, "rows": [row.as_json() for row in found.rows]})
    else:
        which = "" if part is None else f"part {part}: "
        covered = coverage(found.segments, found.steps)
        console.print(Text(f"{which}{result}; {covered}; nonce {nonce}", style="bold"), soft_wrap=True)
    return FAILED if result.undone or result.verdict == "FAILED" else 0


def _refuse_options(arguments: argparse.Namespace) -> None:
    """Refuse options that contradict each other, before anything is computed."""
    if arguments.segments is not None and arguments.segments < 1:
        raise UserError(f"--segments {arguments.segments}: use a number from 1 up")
    if arguments.make_key and arguments.sign is None:
        raise UserError("--make-key goes with --sign FILE, the file of the new key")
    if arguments.out is not None and not arguments.out.absolute().parent.is_dir():
        raise UserError(f"--out {arguments.out}: its folder does not exist: make it first")
    names = ("levels", "segments", "part", "nonce", "key", "parent", "read_sources", "records", "allow_code")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]
    if arguments.join is not None and given:
        raise UserError(f"--join reads what parts found, and does nothing again: leave out {', '.join(given)}")
    if arguments.part is not None and arguments.segments is not None:
        raise UserError("--part divides all segments: leave out --segments")
    if arguments.part is not None and arguments.out is None and arguments.sign is None:
        raise UserError("--part: say where its statement goes: --out FILE, or --sign KEY for attestations/")


def _join(arguments: argparse.Namespace, trusted: tuple[PublicKey, ...], console: Console) -> int:
    """Print and write what the statements of all parts give together."""
    from rich.text import Text

    from clearseek.cli.keys import signing_key
    from clearseek.cli.report import print_json
    from clearseek.signing.tree import visible
    from clearseek.verify.join import join
    from clearseek.verify.statement import coverage

    with signing_key(arguments.sign, arguments.make_key) as private:
        joined = join(arguments.release, arguments.join, trusted)
    for piece in joined.pieces:
        who = f"signed by {piece.key[:12]}" if piece.key else "not signed"
        parts = f"part {piece.number} of {len(joined.pieces)}: {piece.result}"
        console.print(Text(visible(f"  {parts}; {who}; {piece.machine}")), soft_wrap=True)
        for id, reason in piece.reasons.items():
            console.print(Text(visible(f"      {id}: {reason}")), soft_wrap=True)
    statement = joined.statement()
    _write(statement, private, joined.pieces[-1].said.nonce, arguments, console)
    if arguments.json:
        print_json({"statement": statement})
    else:
        covered = coverage(joined.segments, joined.steps)
        who = "" if joined.signed else "; nobody signed the parts, so who ran them is not proven"
        console.print(Text(f"{joined.result}; {covered}; {joined.told}{who}", style="bold"), soft_wrap=True)
    return FAILED if joined.result.undone or joined.result.verdict == "FAILED" else 0


def _print_rows(rows: Iterable[Row], console: Console) -> None:
    from rich.text import Text

    from clearseek.audit.render.text import MARKS, mark
    from clearseek.signing.tree import visible

    for row in rows:
        own = row.id.startswith("verify.")
        sign = Text(f"{'  ' if own else '    '}{mark(console, row.answer)} ", style=MARKS[row.answer][1])
        said = f"{row.title}: {row.reason}" if own else f"E{int(row.grade)}  {row.id}: {row.reason}"
        console.print(sign + Text(visible(said)), soft_wrap=True)


def _write(
    statement: dict[str, Any], private: PrivateKey | None, nonce: str, arguments: argparse.Namespace, console: Console
) -> None:
    """Write the statement where it was asked for: signed with a key, and with its public key into a release."""
    from rich.text import Text

    from clearseek.files import write_atomic
    from clearseek.signing.dsse import sign_statement
    from clearseek.signing.manifest import ATTESTATIONS

    if private is None and arguments.out is None:
        return
    raw = json.dumps(statement, indent=2).encode() if private is None else sign_statement(statement, private)
    path = arguments.out
    if path is None:
        assert private is not None
        signer = private.public.fingerprint[:12]
        drawn = "".join(letter for letter in nonce if letter.isalnum())[:12] or "x"  # part of the file's name
        part = "" if arguments.part is None else f"-part-{arguments.part.replace('/', '-of-')}"
        path = arguments.release / ATTESTATIONS / f"verify-{signer}-{drawn}{part}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path.parent / f"{signer}.pub", private.public.pem)
    write_atomic(path, raw)
    console.print(Text(f"  {'statement' if private is None else 'signed statement'}: {path}"), soft_wrap=True)


def _records(text: str) -> int | None:
    """Parse a number, or ``all`` as None. Raises UserError for anything else."""
    if text == "all":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise UserError(f"--records {text}: use a number from 1 up, or all")
    return int(text)


def _levels(text: str | None, default: str) -> tuple[int, ...]:
    """Parse ``0,1,5``. Raises UserError for an unknown level."""
    from clearseek.verify.run import LEVELS

    text = default if text is None else text
    try:
        levels = tuple(sorted({int(each) for each in text.split(",")}))
    except ValueError:
        levels = (-1,)
    if not set(levels) <= set(LEVELS):
        raise UserError(f"--levels {text}: use numbers out of {', '.join(map(str, LEVELS))}, with commas between")
    return levels
