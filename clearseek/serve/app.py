"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from clearseek.errors import UserError
from clearseek.inference.answer import Answer
from clearseek.serve import anthropic, completions, openai, responses
from clearseek.serve.events import Events, sent
from clearseek.serve.guard import Guard, error_body
from clearseek.serve.metrics import Metrics
from clearseek.serve.page import page
from clearseek.serve.schemas import Chat, Completion, Tokenize
from clearseek.serve.service import RefusedError, Service
from clearseek.serve.worker import BusyError, EndedError, Job

Form = TypeVar("Form", bound=BaseModel)
Result = TypeVar("Result")
DRAIN_SECONDS = 25.0
"""Time in which open answers may end after the server was told to end."""


@dataclass(frozen=True)
class Way:
    """How one path's requests become answers, and answers its responses."""

    form: type[Any]
    answers: Callable[[Service, Any], list[Answer]]
    """Prepares the answers; runs in a thread."""
    whole: Callable[[Service, Any, list[Job]], Coroutine[Any, Any, Any]]
    stream: Callable[[Service, Any, list[Job]], AsyncIterator[str]]
    count: Callable[[Any], int] = lambda asked: 1
    """Answers that a request asks for."""


WAYS = {
    "/v1/chat/completions": Way(
        Chat, openai.chat_answers, openai.chat, openai.stream_chat, lambda asked: asked.n or 1
    ),
    "/v1/completions": Way(
        Completion, completions.completion_answers, completions.completion, completions.stream_completion,
        completions.completion_count,
    ),
    "/v1/responses": Way(responses.Responses, responses.answers, responses.response, responses.stream_response),
    "/v1/messages": Way(anthropic.Messages, anthropic.answers, anthropic.message, anthropic.stream_message),
}  # fmt: skip


class Json(Response):
    """A response of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The value as bytes."""
        return to_json(content)


def application(service: Service, keys: Collection[str] = (), hosts: Collection[str] = ()) -> Guard:
    """The ASGI application of a served model."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.drain, DRAIN_SECONDS)

    app = FastAPI(title="ClearSeek", version="1", lifespan=life, docs_url=None, redoc_url=None)
    metrics = Metrics(service.worker)
    _errors(app)
    for path, way in WAYS.items():
        _generation(app, service, metrics, path, way)
    _plain(app, service, metrics)
    return Guard(
        app, service.limits, keys, hosts, lambda path, status: metrics.requests.labels(path, str(status)).inc()
    )


def refusal(error: Exception) -> RefusedError:
    """An error as a client is told."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, BusyError):
        return RefusedError(429, "as many answers are being written as this server allows: try again", "busy")
    if isinstance(error, EndedError):
        return RefusedError(503, str(error), "unavailable")
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"]))[:200]
        return RefusedError(400, f"{where + ': ' if where else ''}{first['msg'][:500]}", parameter=where or None)
    return RefusedError(400, str(error), "invalid_request")


def _told(request: Request, error: RefusedError) -> Response:
    body = error_body(request.url.path, error.status, str(error), error.code, error.parameter)
    return Json(body, error.status, {"Retry-After": "1"} if error.status in (429, 503) else None)


def _errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        return _told(request, refusal(error))

    for kind in (RefusedError, UserError, BusyError, EndedError, ValidationError):
        app.add_exception_handler(kind, known)

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> Response:
        return _told(request, RefusedError(404, "no such path", "not_found"))

    @app.exception_handler(405)
    async def method(request: Request, error: Any) -> Response:
        response = _told(request, RefusedError(405, "no such method here", "method_not_allowed"))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def fault(request: Request, error: Exception) -> Response:
        return _told(request, RefusedError(500, "a fault of the server, which has noted it", "internal_error"))


async def read(request: Request, form: type[Form]) -> Form:
    """The request's body in a form. Raises ValidationError, of which the first fault is told."""
    return form.model_validate_json(await request.body())


async def until_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RefusedError(499, "the client left", "client_left")
        return task.result()
    finally:
        left.cancel()
        task.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


def body_of(form: type[BaseModel]) -> dict[str, Any]:
    """The form, for the server's own description."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": form.model_json_schema()}}}}


def _generation(app: FastAPI, service: Service, metrics: Metrics, path: str, way: Way) -> None:
    async def answer(request: Request) -> Response:
        asked = await read(request, way.form)
        jobs = await service.begin(lambda: way.answers(service, asked), way.count(asked))

        def end() -> None:
            service.end(jobs)
            metrics.answered(jobs)

        if asked.stream:
            return Events(_to_its_end(path, way.stream(service, asked, jobs)), end)
        try:
            return Json(await until_gone(request, way.whole(service, asked, jobs)))
        finally:
            end()

    app.add_api_route(path, answer, methods=["POST"], openapi_extra=body_of(way.form), response_model=None, name=path)


async def _to_its_end(path: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """Events; an error among them is told by a last one."""
    try:
        async for event in events:
            yield event
    except RefusedError as error:
        body = error_body(path, error.status, str(error), error.code, error.parameter)
        yield sent(body, "error" if path != "/v1/chat/completions" and path != "/v1/completions" else "")


def _plain(app: FastAPI, service: Service, metrics: Metrics) -> None:
    text, headers = page()

    @app.get("/", response_model=None, include_in_schema=False)
    async def root(request: Request) -> Response:
        known = request.headers.get("if-none-match") == headers["ETag"]
        return Response(None, 304, headers) if known else HTMLResponse(text, headers=headers)

    @app.get("/health", response_model=None)
    async def health() -> Response:
        broken = service.worker.broken
        if broken is not None:
            return Json({"status": "broken", "error": broken}, 503)
        return Json({"status": "ending"}, 503) if service.worker.draining else Json({"status": "ok"})

    @app.get("/metrics", response_model=None)
    async def told() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", response_model=None)
    async def models() -> Response:
        return Json({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> Response:
        service.check_model(name)
        return Json(_model(service))

    @app.post("/tokenize", response_model=None, openapi_extra=body_of(Tokenize))
    async def tokenize(request: Request) -> Response:
        asked = await read(request, Tokenize)
        tokens = await service.aside(lambda: _tokens(service, asked))
        return Json({"count": len(tokens), "max_model_len": service.longest, "tokens": tokens})

    @app.post("/v1/messages/count_tokens", response_model=None, openapi_extra=body_of(anthropic.Counted))
    async def count(request: Request) -> Response:
        asked = await read(request, anthropic.Counted)
        return Json({"input_tokens": await service.aside(lambda: anthropic.count(service, asked))})


def _tokens(service: Service, asked: Tokenize) -> list[int]:
    """Tokens of a text or a conversation."""
    service.check_model(asked.model)
    if asked.messages is not None:
        return service.chat_prompt(Chat(messages=asked.messages, tools=asked.tools)).ids
    text = asked.prompt if asked.prompt is not None else asked.content
    if text is None:
        raise RefusedError(400, "give prompt or messages", parameter="prompt")
    first = [service.model.tokenizer.bos_id] if asked.add_special_tokens else []
    return [*first, *service.tokens(text)]


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model.name, "object": "model", "created": service.started, "owned_by": "clearseek",
        "max_model_len": service.longest, "weights_sha256": service.model.weights_sha256,
        "system_fingerprint": service.fingerprint, "chat": service.chat, "most_tokens": service.limits.tokens,
        "layers": service.model.config.num_hidden_layers, "experts": service.model.config.n_routed_experts,
    }  # fmt: skip
