"""``clearseek chat``: a conversation in the terminal."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clearseek.cli.models import add_model, cache_pages, open_model
from clearseek.cores import default_threads, sharing_cores
from clearseek.errors import UserError, one_line
from clearseek.interrupts import stop_on_signal

if TYPE_CHECKING:
    from clearseek.inference.engine import Engine
    from clearseek.inference.model import Model
    from clearseek.inference.text import Bytes

HELP = "/again answers anew, /save FILE keeps the last answer's record, /new begins anew, /quit or Ctrl-D ends"


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "example:\n  clearseek chat my-model\n  echo 'What is 2 + 2?' | clearseek chat my-model --save answer.json"
    )
    add_model(parser)
    parser.add_argument("--system", default="", help="text that tells the model how to answer")
    parser.add_argument("--thinking", action="store_true", help="let the model think before it answers")
    parser.add_argument("--max-tokens", type=int, default=512, help="most tokens of an answer (default: 512)")
    parser.add_argument("--temperature", type=float, default=0.6, help="0 takes the likeliest token (default: 0.6)")
    parser.add_argument("--top-p", type=float, default=0.95, help="probability mass to draw from (default: 0.95)")
    parser.add_argument("--seed", type=int, help="seed of the draws (default: a new one for each answer)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the last answer's record, for clearseek derive")


@sharing_cores()
def run(arguments: argparse.Namespace) -> int:
    import torch

    torch.set_num_threads(default_threads())
    model = open_model(arguments)
    talk = _Talk(arguments, model)
    alone = not sys.stdin.isatty()
    if not alone:
        print(f"{model.name}. {HELP}")
    while True:
        try:
            line = (sys.stdin.read() if alone else input("> ")).strip()
        except (EOFError, KeyboardInterrupt):
            line = "/quit"
        if line == "/quit" or (alone and not line):
            break
        if alone:
            talk.answer(line)
            break
        try:
            talk.take(line)
        except UserError as error:  # the conversation goes on
            print(f"clearseek: {one_line(str(error))}", file=sys.stderr)
    if arguments.save is not None:
        talk.save(arguments.save)
    return 0


class _Talk:
    """A conversation and the engine that goes on with it."""

    def __init__(self, arguments: argparse.Namespace, model: Model) -> None:
        from clearseek.inference.text import Bytes

        self.arguments, self.model = arguments, model
        self.engine: Engine = model.engine(cache_pages(arguments, model, sequences=2))
        self.bytes_of: Bytes = Bytes(model.tokenizer)
        self.messages: list[dict[str, Any]] = []
        self.record: Any = None
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        system = self.arguments.system
        self.messages = [{"role": "system", "content": system}] if system else []

    def take(self, line: str) -> None:
        """Answer a line, or do what it says where it begins with a slash."""
        if line.startswith("/"):
            self.command(line)
        elif line:
            self.answer(line)

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says."""
        name, _, rest = line.partition(" ")
        if name == "/new":
            self.restart()
        elif name == "/again" and self.messages and self.messages[-1]["role"] == "assistant":
            self.again()
        elif name == "/save" and rest:
            self.save(Path(rest))
        else:
            print(HELP)

    def again(self) -> None:
        """Answer the last message anew; the old answer stays where there is no new one."""
        before = self.messages
        self.messages = before[:-2]
        try:
            self.answer(before[-2]["content"])
        except UserError:
            self.messages = before
            raise

    def save(self, file: Path) -> None:
        """Save the last answer's record."""
        if self.record is None:
            raise UserError("there is no answer to save yet")
        self.record.save(file)

    def answer(self, text: str) -> None:
        """Answer a message, and keep both."""
        from clearseek.chat.render import render
        from clearseek.chat.reply import Reply
        from clearseek.inference.answer import Answer, record_of
        from clearseek.inference.request import Request, Settings

        a, tokenizer = self.arguments, self.model.tokenizer
        messages = [*self.messages, {"role": "user", "content": text}]
        seed = secrets.randbits(53) if a.seed is None else a.seed
        settings = Settings(
            max_tokens=a.max_tokens, temperature=a.temperature, top_p=a.top_p, seed=seed, logprobs=0,
            stop_tokens=frozenset({tokenizer.eos_id}),
        )  # fmt: skip
        request = Request(render(tokenizer, messages, thinking=a.thinking).ids, settings)
        answer = Answer(request, self.bytes_of, (), Reply(tokenizer, a.thinking, tools=False))
        written = self._write(request, answer)
        self.messages = [*messages, {"role": "assistant", "content": written}]
        self.record = record_of(self.model, answer, written)

    def _write(self, request: Any, answer: Any) -> str:
        """Write an answer as it comes; Ctrl-C ends it where it is."""
        written, part = "", "content"
        asked: list[bool] = []
        self.engine.add(request)
        with stop_on_signal(lambda: asked.append(True)):
            while request.finish is None:
                self.engine.step()
                if asked:
                    self.engine.abort(request)
                for delta in answer.take():
                    if delta.part != part:
                        sys.stdout.write("\n" if part == "reasoning" else "thinking: ")
                        part = delta.part
                    sys.stdout.write(delta.text)
                    written += delta.text if part == "content" else ""
                sys.stdout.flush()
        for delta in answer.take():
            sys.stdout.write(delta.text)
            written += delta.text if delta.part == "content" else ""
        sys.stdout.write("\n")
        if request.error:
            raise UserError(request.error)
        return written
