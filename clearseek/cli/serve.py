"""``clearseek serve``: a model over HTTP, for OpenAI's and Anthropic's clients and for a browser."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path

from clearseek.cli.exits import INTERRUPTED
from clearseek.cli.models import add_model, cache_pages, open_model
from clearseek.cores import default_threads, sharing_cores
from clearseek.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for all addresses of this machine, and the address by which this machine calls itself then."""
KEY = "CLEARSEEK_API_KEY"


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek serve runs/quickstart\n  clearseek serve my-model --port 9000 --weights int8\n"
        f"  {KEY}=secret clearseek serve my-model --host 0.0.0.0"
    )
    add_model(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (default: 8000)")
    parser.add_argument("--name", help="name of the model for clients (default: the folder's)")
    parser.add_argument("--no-key", action="store_true", help="serve other machines without an API key")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME",
                        help="a further name by which clients call this server, such as a proxy's; a port may follow; "
                        "may be repeated")  # fmt: skip
    page = parser.add_mutually_exclusive_group()
    page.add_argument("--base", action="store_true", help="the page is for continuing a text, not for chat")
    page.add_argument("--chat", action="store_true",
                      help="the page is for chat (default: for models with a chat template of their own)")  # fmt: skip
    parser.add_argument("--most-tokens", type=int, default=4096, help="most tokens of an answer (default: 4096)")
    parser.add_argument("--most-waiting", type=int, default=256, help="most answers at once (default: 256)")
    parser.add_argument("--at-once", type=int, default=64, help="most answers that are written at once (default: 64)")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    keys = [key for key in os.environ.get(KEY, "").split(",") if key]
    if arguments.host not in LOOPBACK and not keys and not arguments.no_key:
        raise UserError(f"--host {arguments.host}: anybody could use this server: set {KEY}, or say --no-key")
    for name in arguments.allow_host:
        if "/" in name or not name:
            raise UserError(f"--allow-host {name}: give a name alone, such as chat.example.org, or a name and :port")
    for name, value in (("--most-tokens", arguments.most_tokens), ("--most-waiting", arguments.most_waiting),
                        ("--at-once", arguments.at_once)):  # fmt: skip
        if value < 1:
            raise UserError(f"{name} {value}: use a number from 1 up")
    try:
        from clearseek.serve.app import application
        from clearseek.serve.server import Server
        from clearseek.serve.service import Limits, Service
        from clearseek.serve.worker import Worker
    except ModuleNotFoundError as error:
        raise UserError(f"serving needs {error.name}: pip install 'clearseek[serve]'") from None
    import torch

    listener = _listener(arguments.host, arguments.port)
    torch.set_num_threads(default_threads())
    model = open_model(arguments)
    print(f"{arguments.model}: read; the first time, loops are compiled for about half a minute", file=sys.stderr)
    if arguments.name:
        model = model.named(arguments.name)
    engine = model.engine(cache_pages(arguments, model), most=arguments.at_once)
    worker = Worker(engine, arguments.most_waiting)
    limits = Limits(waiting=arguments.most_waiting, tokens=arguments.most_tokens)
    service = Service(model, worker, limits, arguments.chat or (not arguments.base and chats(arguments.model)))
    port = listener.getsockname()[1]
    hosts = [f"{name}:{port}" for name in _own_names(arguments.host)]
    app = application(service, keys, [*hosts, *arguments.allow_host])
    worker.start()
    print(f"{model.name}: {_places(arguments.host, port)}  ({service.fingerprint}; Ctrl-C ends it)", flush=True)
    Server(app, worker).run(sockets=[listener])
    return INTERRUPTED


def chats(folder: Path) -> bool:
    """Whether a model was trained to chat: a run that says so, or a model of another's with a chat template of its own.

    Exports and releases of ours carry ClearSeek's template, trained to chat or not, so
    that it tells nothing; their card's tag ``conversational``, by which Hugging Face knows such models, does.
    """
    from clearseek.chat.render import template
    from clearseek.train.run import Run

    if not (folder / "config.json").is_file():
        return Run(folder).read_recipe(record=True).conversational
    config = _read(folder / "tokenizer_config.json")
    try:
        held = json.loads(config).get("chat_template")
    except (ValueError, AttributeError, RecursionError):
        held = None
    own = _read(folder / "chat_template.jinja")
    found = [text for text in (held, own) if text]
    if any(text != template() for text in found):
        return True
    return "conversational" in _tags(folder / "README.md")


def _tags(card: Path) -> list[object]:
    """Tags of a model's card, or none where it has no front matter that can be read."""
    from clearseek.reading.card import Document

    try:
        tags = Document(str(card), _read(card)).metadata.get("tags")
    except UserError:
        return []
    return tags if isinstance(tags, list) else []


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _places(host: str, port: int) -> str:
    """Addresses to open in a browser: for this machine, and for others where they can come in."""
    from clearseek.serve.guard import in_address

    here = f"http://{in_address(EVERY.get(host, host))}:{port}/"
    return f"{here}, for others http://{in_address(_outer(host))}:{port}/" if host in EVERY else here


def _outer(host: str) -> str:
    """Address by which other machines may reach this one: the one that its own packets bear. No packet is sent."""
    family, there = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as line:
        try:
            line.connect((there, 9))
        except OSError:  # no network
            return socket.gethostname()
        return str(line.getsockname()[0])


def _listener(host: str, port: int) -> socket.socket:
    """A listening socket, before the model is loaded. Raises UserError where the place is taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{host}:{port}: {reason}: give another --host or --port") from None
    return listener


def _own_names(host: str) -> list[str]:
    """Names of this machine by which clients may call it; the address that a client reached is known without."""
    from clearseek.serve.guard import in_address

    given = [] if host in EVERY else [in_address(host)]
    return given if host in LOOPBACK else [*given, socket.gethostname()]
