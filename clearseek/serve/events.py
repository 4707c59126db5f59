"""Server-sent events, and a response of them that ends its answers with itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic_core import to_json

DONE = "data: [DONE]\n\n"


def sent(value: Any, name: str = "") -> str:
    """An event with a value, and a name where clients need one."""
    return (f"event: {name}\n" if name else "") + f"data: {to_json(value).decode()}\n\n"


class Events(StreamingResponse):
    """Events; `end` is called when they are at their end or the client has left, also before the first of them."""

    def __init__(self, events: AsyncIterator[str], end: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._end = end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._end()
