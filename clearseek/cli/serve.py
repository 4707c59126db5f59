"""``clearseek serve``: a model over HTTP, for OpenAI's and Anthropic's clients and for a browser."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path

from clearseek.cli.models import add_model, cache_pages, open_model
from clearseek.cores import default_threads, sharing_cores
from clearseek.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
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
                        help="a further name by which clients call this server; may be repeated")  # fmt: skip
    parser.add_argument("--base", action="store_true", help="the page is for continuing a text, not for chat")
    parser.add_argument("--most-tokens", type=int, default=4096, help="most tokens of an answer (default: 4096)")
    parser.add_argument("--most-waiting", type=int, default=256, help="most answers at once (default: 256)")
    parser.add_argument("--at-once", type=int, default=64, help="most answers that are written at once (default: 64)")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    keys = [key for key in os.environ.get(KEY, "").split(",") if key]
    if arguments.host not in LOOPBACK and not keys and not arguments.no_key:
        raise UserError(f"--host {arguments.host}: anybody could use this server: set {KEY}, or say --no-key")
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
    if arguments.name:
        model = model.named(arguments.name)
    engine = model.engine(cache_pages(arguments, model), most=arguments.at_once)
    worker = Worker(engine, arguments.most_waiting)
    limits = Limits(waiting=arguments.most_waiting, tokens=arguments.most_tokens)
    service = Service(model, worker, limits, chat=not arguments.base and _chats(arguments.model))
    hosts = [] if arguments.host in ("0.0.0.0", "::") else [arguments.host]
    app = application(service, keys, [*hosts, *arguments.allow_host, *_own_names(arguments.host)])
    worker.start()
    port = listener.getsockname()[1]
    shown = arguments.host if ":" not in arguments.host else f"[{arguments.host}]"
    print(f"{model.name}: http://{shown}:{port}/  ({service.fingerprint}; Ctrl-C ends it)", flush=True)
    Server(app, worker).run(sockets=[listener])
    return 0


def _chats(folder: Path) -> bool:
    """Whether a model was trained to chat: ClearSeek's own runs and exports are of pre-trained models so far."""
    card = folder / "README.md"
    if not (folder / "config.json").is_file():
        return False
    return "clearseek" not in (card.read_text(encoding="utf-8", errors="replace")[:2000] if card.is_file() else "")


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
    """Names of this machine, where it serves others."""
    return [socket.gethostname()] if host not in LOOPBACK else []
