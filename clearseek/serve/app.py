"""The routes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError

from clearseek.errors import UserError
from clearseek.serve import openai
from clearseek.serve.guard import Guard, error_body
from clearseek.serve.metrics import Metrics
from clearseek.serve.page import page
from clearseek.serve.schemas import Chat, Completion, Tokenize
from clearseek.serve.service import Refused, Service
from clearseek.serve.worker import Busy, Job


Form = TypeVar("Form", bound=BaseModel)
Result = TypeVar("Result")


def application(service: Service, keys: Collection[str] = (), hosts: Collection[str] = ()) -> Any:
    """The ASGI application of a served model."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.worker.drain, 30.0)

    app = FastAPI(title="ClearSeek", version="1", lifespan=life, docs_url=None, redoc_url=None)
    metrics = Metrics(service.worker)
    _errors(app)
    _generation(app, service)
    _plain(app, service, metrics)

    @app.middleware("http")
    async def count(request: Request, call: Callable[[Request], Coroutine[Any, Any, Response]]) -> Response:
        response = await call(request)
        route = request.scope.get("route")
        metrics.requests.labels(getattr(route, "path", "other"), str(response.status_code)).inc()
        return response

    refused = metrics.requests.labels
    return Guard(app, service.limits, keys, hosts, lambda status: refused("refused", str(status)).inc())


def _refusal(status: int, message: str, code: str, parameter: str | None = None) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 429 else None
    return JSONResponse(error_body(status, message, code, parameter), status, headers)


def _errors(app: FastAPI) -> None:
    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return _refusal(error.status, str(error), error.code, error.parameter)

    @app.exception_handler(UserError)
    async def user_error(request: Request, error: UserError) -> Response:
        return _refusal(400, str(error), "invalid_request")

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> Response:
        return _refusal(429, "as many answers are being written as this server allows: try again", "busy")

    @app.exception_handler(404)
    async def unknown(request: Request, error: Exception) -> Response:
        return _refusal(404, "no such path", "not_found")

    @app.exception_handler(405)
    async def method(request: Request, error: Exception) -> Response:
        return _refusal(405, "no such method here", "method_not_allowed")


async def read(request: Request, form: type[Form]) -> Form:
    """The request's body in a form. Raises Refused for the first thing that is wrong with it."""
    try:
        return form.model_validate_json(await request.body())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise Refused(400, f"{where + ': ' if where else ''}{first['msg']}", parameter=where or None) from None


async def until_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client leaves."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, left = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Refused(499, "the client left", "client_left")
        return task.result()
    finally:
        left.cancel()


def body_of(form: type[BaseModel]) -> dict[str, Any]:
    """The form, for the server's own description."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": form.model_json_schema()}}}}


def _events(events: AsyncIterator[str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def _generation(app: FastAPI, service: Service) -> None:
    def route(
        path: str, form: type[Any], begin: Callable[..., list[Job]], whole: Callable[..., Any], stream: Callable[..., Any]
    ) -> None:
        async def answer(request: Request) -> Response:
            asked = await read(request, form)
            if asked.stream:
                return _events(stream(service, asked, begin(service, asked)))
            return JSONResponse(await until_gone(request, whole(service, asked)))

        app.add_api_route(path, answer, methods=["POST"], openapi_extra=body_of(form), response_model=None)

    route("/v1/chat/completions", Chat, openai.begin_chat, openai.chat, openai.stream_chat)
    route("/v1/completions", Completion, openai.begin_completion, openai.completion, openai.stream_completion)


def _plain(app: FastAPI, service: Service, metrics: Metrics) -> None:
    text, headers = page()

    @app.get("/", response_model=None, include_in_schema=False)
    async def root(request: Request) -> Response:
        known = request.headers.get("if-none-match") == headers["ETag"]
        return Response(None, 304, headers) if known else HTMLResponse(text, headers=headers)

    @app.get("/health", response_model=None)
    async def health() -> Response:
        broken = service.worker.broken
        return JSONResponse({"status": "ok"} if broken is None else {"status": "broken", "error": broken}, 503 if broken else 200)

    @app.get("/metrics", response_model=None)
    async def told() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", response_model=None)
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str) -> Response:
        service.check_model(name)
        return JSONResponse(_model(service))

    @app.post("/tokenize", response_model=None, openapi_extra=body_of(Tokenize))
    async def tokenize(request: Request) -> Response:
        asked = await read(request, Tokenize)
        if asked.messages is not None:
            tokens = service.chat_prompt(Chat(messages=asked.messages), False)
        else:
            text = asked.prompt if asked.prompt is not None else asked.content
            if text is None:
                raise Refused(400, "give prompt or messages", parameter="prompt")
            first = [service.model.tokenizer.bos_id] if asked.add_special_tokens else []
            tokens = [*first, *service.model.tokenizer.encode(text)]
        return JSONResponse({"count": len(tokens), "max_model_len": service.worker.engine.forward.longest, "tokens": tokens})


def _model(service: Service) -> dict[str, Any]:
    return {
        "id": service.model.name, "object": "model", "created": service.started, "owned_by": "clearseek",
        "max_model_len": service.worker.engine.forward.longest, "weights_sha256": service.model.weights_sha256,
        "system_fingerprint": service.fingerprint, "chat": service.chat, "most_tokens": service.limits.tokens,
        "layers": service.model.config.num_hidden_layers, "experts": service.model.config.n_routed_experts,
    }  # fmt: skip
