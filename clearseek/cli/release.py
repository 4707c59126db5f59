"""``clearseek release``: a repository with all that made a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from clearseek.cli.terminal import say
from clearseek.cores import sharing_cores
from clearseek.errors import UserError
from clearseek.program import command


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek release runs/quickstart my-release --key release.key --make-key\n"
        "  clearseek release runs/quickstart my-release --evaluation evaluations/bf16"
    )
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--data", type=Path, help="the run's data (default: RUN/data)")
    parser.add_argument("--name", help="the model's name (default: the folder's)")
    parser.add_argument("--provider", default="", metavar="TEXT",
                        help="who publishes it, with a contact: for the card and the AI Act's summary")  # fmt: skip
    parser.add_argument("--languages", default="", metavar="TEXT", help="languages of the data, for that summary")
    parser.add_argument("--dtype", choices=("bf16", "fp32", "fp8"), default="bf16",
                        help="type of the final weights (default: bf16); checkpoints are FP32")  # fmt: skip
    parser.add_argument("--base", default="", metavar="OWNER/NAME",
                        help="name on the hub of the model that it was made from")  # fmt: skip
    parser.add_argument("--base-licence", default="", metavar="ID",
                        help="that model's licence, where its folder does not say")  # fmt: skip
    parser.add_argument("--without-parent", action="store_true",
                        help="name that model's weights by their hash, and leave them out")  # fmt: skip
    carried = parser.add_mutually_exclusive_group()
    carried.add_argument("--evaluation", action="append", type=Path, metavar="FOLDER",
                         help="evaluation of the released weights to carry (default: RUN/evaluation, where it is); "
                         "repeatable")  # fmt: skip
    carried.add_argument("--without-evaluation", action="store_true", help="leave RUN/evaluation out")
    parser.add_argument("--key", type=Path, help="private key to sign with")
    parser.add_argument("--make-key", action="store_true", help="make that key first")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the Hugging Face hub")
    parser.add_argument("--private", action="store_true", help="with --push: make a new repository private")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from clearseek.cli.keys import signing_key
    from clearseek.cli.report import output, print_json, print_rows
    from clearseek.release.make import make_release
    from clearseek.release.push import check_push, push
    from clearseek.train.run import Run

    if arguments.private and arguments.push is None:
        raise UserError("--private goes with --push owner/name")
    if arguments.make_key and arguments.key is None:
        raise UserError("--make-key goes with --key FILE, the file of the new key")
    if arguments.push is not None:
        check_push(arguments.push)
    with signing_key(arguments.key, arguments.make_key) as private:
        made = make_release(
            Run(arguments.run), arguments.out, arguments.data, private, arguments.dtype, arguments.name or "",
            arguments.provider, arguments.languages, say, arguments.base, arguments.base_licence,
            not arguments.without_parent, [] if arguments.without_evaluation else arguments.evaluation,
        )  # fmt: skip
    pushed = "" if arguments.push is None else f"{arguments.push}@{push(made.out, arguments.push, arguments.private)}"
    if arguments.json:
        print_json({**asdict(made), "out": str(made.out), "pushed": pushed or None})
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
    print_rows(output(), rows)
    return 0
