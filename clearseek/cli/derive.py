"""``clearseek derive``: a saved answer is derived again, without a server, and compared bit for bit."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from clearseek.cli.exits import FAILED
from clearseek.cli.models import add_model, cache_pages, open_model
from clearseek.cores import sharing_cores


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example:\n  clearseek derive my-model answer.json"
    add_model(parser)
    parser.add_argument("record", type=Path, nargs="+", help="records that chat, the page or the server has saved")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    from clearseek.inference.answer import derive, read_record

    records = [(file, read_record(file)) for file in arguments.record]
    model = open_model(arguments)
    pages = cache_pages(arguments, model, sequences=1)
    found = [(file, derive(model, record, pages)) for file, record in records]
    if arguments.json:
        print(json.dumps([{"record": str(file), **asdict(each)} for file, each in found], indent=1))
    for file, each in [] if arguments.json else found:
        same = f"the same: {each.tokens} tokens, every bit"
        print(f"{file}: {same if each.differs is None else f'differs from token {each.differs} on: {each.what}'}")
        for note in each.notes:
            print(f"  {note}")
    return 0 if all(each.differs is None for _, each in found) else FAILED
