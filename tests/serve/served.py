"""A tiny random model behind a real server on a real port, in a thread of this process."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import numpy as np
import pytest
import torch

from clearseek.config import ModelConfig
from clearseek.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train
from clearseek.inference.answer import Answer
from clearseek.inference.model import Model
from clearseek.model.transformer import DeepSeekModel
from clearseek.serve.app import application
from clearseek.serve.server import Server
from clearseek.serve.service import Limits, Service
from clearseek.serve.worker import Worker

PAGES = 400
JSON = {"Content-Type": "application/json"}


def tiny_model() -> Model:
    """A random model whose answers vary, with a multi-token-prediction layer."""
    torch.set_num_threads(1)
    tokenizer = train(["hello world, how are you? " * 50, "The quick brown fox. " * 20], 600)
    config = ModelConfig(
        vocab_size=600, hidden_size=64, num_hidden_layers=3, num_attention_heads=3, q_lora_rank=24, kv_lora_rank=20,
        qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=10, intermediate_size=100, moe_intermediate_size=24,
        n_routed_experts=8, num_experts_per_tok=2, max_position_embeddings=1024, n_group=4, topk_group=2,
        initializer_range=0.2, num_nextn_predict_layers=1,
    )  # fmt: skip
    network = DeepSeekModel(config).requires_grad_(False)
    network.initialise(1)
    return Model.of("tiny", config, dict(network.state_dict()), tokenizer, "BF16")


@dataclass
class Served:
    """A running server."""

    url: str
    service: Service
    server: Server
    client: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=60, headers=JSON))

    @property
    def worker(self) -> Worker:
        return self.service.worker

    @property
    def place(self) -> tuple[str, int]:
        """Host and port for a socket."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx2.Response:
        """A request's response."""
        return self.client.post(self.url + path, json=body, **more)

    def wait_until_idle(self, seconds: float = 20.0) -> None:
        """Wait until no answer is open; every page must be free then."""
        until = time.monotonic() + seconds
        while self.worker.open or self.worker.engine.busy:
            assert time.monotonic() < until, f"{self.worker.open} answers are still open"
            time.sleep(0.01)
        assert self.worker.engine.pages.free == self.worker.engine.pages.count


def ids(tokenizer: Tokenizer, *pieces: str) -> list[int]:
    """Tokens of texts and of special tokens."""
    return [
        token
        for piece in pieces
        for token in ([tokenizer.id_of(piece)] if piece in SPECIAL_TOKENS else tokenizer.encode(piece))
    ]


def script(patch: pytest.MonkeyPatch, tokenizer: Tokenizer, tokens: list[int]) -> None:
    """Let every answer write these tokens and then end."""

    def allow(answer: Answer, logits_V: Any) -> Any:
        place = len(answer.request.answer)
        only_V = np.full_like(logits_V, -np.inf)
        only_V[tokens[place] if place < len(tokens) else tokenizer.eos_id] = 0
        return only_V

    patch.setattr(Answer, "allow", allow)


@contextlib.contextmanager
def serving(
    model: Model, limits: Limits | None = None, keys: Collection[str] = (), pages: int = PAGES, drain: float = 5.0
) -> Iterator[Served]:
    """A server of a model, until the block ends."""
    limits = limits or Limits()
    worker = Worker(model.engine(pages, rows=64), limits.waiting)
    service = Service(model, worker, limits, chat=True)
    server = Server(application(service, keys), worker, drain)
    listener = socket.create_server(("127.0.0.1", 0))
    worker.start()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    try:
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", service, server)
    finally:
        server.should_exit = True
        thread.join(timeout=drain + 20)
        assert not thread.is_alive(), "the server did not end"
