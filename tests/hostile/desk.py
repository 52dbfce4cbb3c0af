"""The application that the hostile tests talk to: it takes notes, repeats, streams and fails."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from tracebaton import Tracebaton, current
from tracebaton.http.body import read_json

#: Seconds that ``/slow`` waits for its body, and the bytes it takes.
SLOW_SECONDS, SLOW_BYTES = 0.3, 4_000


class Note(BaseModel):
    """A note with a field of every awkward kind."""

    text: str = Field(min_length=1, max_length=100_000)
    number: int | float = 0
    when: datetime | None = None
    tags: list[str] | dict[str, int] | None = None


class Failed(RuntimeError):
    """What the desk raises on purpose."""


def create_desk() -> Tracebaton:
    """Return a desk of its own."""
    app = Tracebaton()

    @app.task("note", model=Note)
    async def note(data: Note) -> dict[str, Any]:
        store = current()
        return {"text": data.text, "user_id": store.user_id, "task_id": store.task_id}

    @app.route("/v1/ai/chat", methods=["POST"])
    async def chat(request: Request) -> Any:
        return await app.enqueue("note", await app.body(request, Note))

    @app.route("/echo/{text:path}")
    async def echo(request: Request) -> Response:
        return JSONResponse({"text": request.path_params["text"], **_who()})

    @app.route("/sync", methods=["GET", "POST"])
    def sync(request: Request) -> Response:
        return JSONResponse(_who(), headers={"X-Correlation-ID": "the-app's own"})

    @app.route("/stream")
    async def stream(request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                await asyncio.sleep(0)
                yield b"data: %d\n\n" % number

        return StreamingResponse(chunks(), media_type="text/event-stream")

    @app.route("/slow", methods=["POST"])
    async def slow(request: Request) -> Response:
        await read_json(request, timeout=SLOW_SECONDS, limit=SLOW_BYTES)
        return JSONResponse(_who())

    return app


def _who() -> dict[str, Any]:
    store = current()
    return {"user_id": store.user_id, "correlation_id": store.correlation_id}


#: For the command: ``tracebaton api desk:app``.
app = create_desk()
