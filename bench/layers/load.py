"""
A load generator: *connections* that ask one request after the other, for a bounded time.

``python load.py PORT CONNECTIONS SECONDS [RATE]``. Without a rate each connection asks again at
once, which finds the saturation; with one, requests start on a fixed timetable and their latency
counts from the moment they were due, so a stall is not hidden by asking less.
"""

import asyncio
import json
import sys
import time

BODY = b'{"item_id": "book-17", "amount": 3, "note": "leave it at the door"}'
REQUEST = (
    b"POST /orders/4711 HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\nAccept: */*\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
)
CPU = b"GET /_cpu HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
#: Seconds of each run that are not counted.
WARM_UP = 0.5


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._data = b""
        self._waiter: asyncio.Future[bytes] | None = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, mark, body = self._data.partition(b"\r\n\r\n")
        if not mark:
            return
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 :].split(b"\r\n", 1)[0])
        if len(body) >= length and self._waiter is not None:
            waiter, self._waiter, self._data = self._waiter, None, b""
            if not waiter.done():
                waiter.set_result(head + b"\r\n\r\n" + body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(exc or ConnectionError("closed"))

    async def ask(self, request: bytes) -> bytes:
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(request)  # type: ignore[attr-defined]
        return await self._waiter


async def connect(port: int) -> Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


async def closed(port: int, connections: int, seconds: float) -> dict[str, float]:
    """Ask as fast as the answers come."""
    spent: list[float] = []
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds
    answered = [0]

    async def user(connection: Connection) -> None:
        while (now := time.perf_counter()) < end:
            answer = await connection.ask(REQUEST)
            check(answer)
            answered[0] += 1
            if now >= begin:
                spent.append(time.perf_counter() - now)

    every = [await connect(port) for _ in range(connections)]
    probe = await connect(port)
    asked = asyncio.gather(*map(user, every))
    await asyncio.sleep(WARM_UP)
    before = await cpu(probe)
    await asked
    after = await cpu(probe)
    return figures(spent, seconds, after - before, answered=answered[0])


async def timetable(port: int, connections: int, seconds: float, rate: float) -> dict[str, float]:
    """Ask *rate* times a second, whatever becomes of the answers."""
    free: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()
    for _ in range(connections):
        free.put_nowait(await connect(port))
    probe = await connect(port)
    spent: list[float] = []

    async def one(due: float, *, counts: bool) -> None:
        connection = await free.get()
        check(await connection.ask(REQUEST))
        free.put_nowait(connection)
        if counts:
            spent.append(time.perf_counter() - due)

    start, before, tasks = time.perf_counter(), 0.0, []
    for number in range(int(rate * (seconds + WARM_UP))):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        warm = number >= rate * WARM_UP
        if warm and not before:
            before = await cpu(probe)
        tasks.append(asyncio.create_task(one(due, counts=warm)))
    await asyncio.gather(*tasks)
    return figures(spent, seconds, await cpu(probe) - before, answered=len(tasks))


async def cpu(probe: Connection) -> float:
    answer = await probe.ask(CPU)
    return float(answer.partition(b"\r\n\r\n")[2])


def check(answer: bytes) -> None:
    if not answer.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"an answer that was not expected: {answer[:200]!r}")


def figures(
    spent: list[float], seconds: float, cpu_seconds: float, *, answered: int
) -> dict[str, float]:
    spent.sort()
    count = len(spent)
    return {
        "rps": count / seconds,
        "p50_ms": spent[count // 2] * 1e3,
        "p95_ms": spent[int(count * 0.95)] * 1e3,
        "p99_ms": spent[int(count * 0.99)] * 1e3,
        "cpu_us": cpu_seconds / count * 1e6,
        "answered": answered,  # in the warm-up too
    }


if __name__ == "__main__":
    port, connections, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    run = (
        timetable(port, connections, seconds, float(sys.argv[4]))
        if len(sys.argv) > 4
        else closed(port, connections, seconds)
    )
    print(json.dumps(asyncio.run(run)))
