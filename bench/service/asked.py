"""
Ask for tasks from many connections: ``python asked.py WHAT CONNECTIONS SECONDS``, with what
`served.py` said on stdin.

WHAT is ``submit``, ``get``, ``list`` or ``events``; a connection asks again when it has its whole
answer, which of ``events`` is the stream of an ended task.
"""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "layers"))

import load

BODY = json.dumps({"message": "lorem ipsum dolor sit amet " * 10}).encode()
#: Tasks on a page.
PAGE = 20


class Stream(load.Connection):
    """A connection whose answers come in chunks."""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self._data.endswith(b"\r\n0\r\n\r\n") and self._waiter is not None:
            waiter, self._waiter, whole, self._data = self._waiter, None, self._data, b""
            if not waiter.done():
                waiter.set_result(whole)


def requests(what: str, key: str, ids: list[str]) -> Callable[[], bytes]:
    """Return what makes the next request."""
    head = f"Host: 127.0.0.1\r\nUser-Agent: load\r\nAuthorization: Bearer {key}\r\n"
    if what == "submit":
        line = f"POST /v1/tasks/chat HTTP/1.1\r\n{head}Content-Type: application/json\r\n"
        whole = f"{line}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        return lambda: whole
    if what == "list":
        page = f"GET /v1/tasks?limit={PAGE} HTTP/1.1\r\n{head}\r\n".encode()
        return lambda: page
    end = "/events" if what == "events" else ""
    every = [f"GET /v1/tasks/{one}{end} HTTP/1.1\r\n{head}\r\n".encode() for one in ids]
    return itertools.cycle(every).__next__


async def asked(
    what: str, port: int, key: str, ids: list[str], *, connections: int, seconds: float
) -> dict[str, float]:
    """Ask as fast as the answers come."""
    kind, status = Stream if what == "events" else load.Connection, b"200"
    status = b"202" if what == "submit" else b"200"
    loop, following = asyncio.get_running_loop(), requests(what, key, ids)
    spent: list[float] = []
    answers = counted = 0
    begin = time.perf_counter() + load.WARM_UP
    end = begin + seconds

    async def user(connection: load.Connection) -> None:
        nonlocal answers, counted
        while (now := time.perf_counter()) < end or not spent:
            answer = await connection.ask(following())
            if not answer.startswith(b"HTTP/1.1 " + status):
                raise SystemExit(f"an answer that was not expected: {answer[:300]!r}")
            done = time.perf_counter()
            answers += 1
            counted += done >= begin
            if now >= begin:
                spent.append(done - now)

    every = [(await loop.create_connection(kind, "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.gather(*map(user, every))
    # Until the last answer is here: of many connections few may be answered by the end.
    whole = time.perf_counter() - begin
    spent.sort()
    count = len(spent)
    return {
        "rps": counted / whole,
        "p50_ms": spent[count // 2] * 1e3,
        "p99_ms": spent[int(count * 0.99)] * 1e3,
        "answers": answers,
    }


if __name__ == "__main__":
    told = json.load(sys.stdin)
    run = asked(
        sys.argv[1],
        told["port"],
        told["key"],
        told["ids"],
        connections=int(sys.argv[2]),
        seconds=float(sys.argv[3]),
    )
    print(json.dumps(asyncio.run(run)))
