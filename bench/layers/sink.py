"""
A sink for spans that costs next to nothing: it reads a POST, counts it and answers.

``python sink.py live`` prints its port. ``live`` answers at once, ``slow`` after 50 ms, ``hole``
never; ``GET /`` tells how many POSTs and bytes came.
"""

import asyncio
import json
import sys

#: Seconds that a slow sink thinks.
SLOW = 0.05
MODES = ("live", "slow", "hole")


class Sink(asyncio.Protocol):
    """One connection."""

    posts = 0
    size = 0
    mode = "live"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._head = b""
        self._left = 0

    def data_received(self, data: bytes) -> None:
        while data:
            if self._left:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
                if not self._left:
                    self._answer(b"{}")
                continue
            head, mark, data = (self._head + data).partition(b"\r\n\r\n")
            self._head = b"" if mark else head
            if mark:
                self._begin(head)

    def _begin(self, head: bytes) -> None:
        if head.startswith(b"GET"):
            self._answer(json.dumps({"posts": Sink.posts, "bytes": Sink.size}).encode())
            return
        lines = head.lower().split(b"\r\n")
        lengths = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        self._left = lengths[0] if lengths else 0
        Sink.posts += 1
        Sink.size += self._left
        if not self._left:
            self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        whole = f"{head}\r\n\r\n".encode() + body
        if self.mode == "live" or b"posts" in body:
            self._transport.write(whole)  # type: ignore[attr-defined]
        elif self.mode == "slow":
            asyncio.get_running_loop().call_later(SLOW, self._transport.write, whole)  # type: ignore[attr-defined]


async def serve(mode: str) -> None:
    """Answer until killed."""
    Sink.mode = mode
    server = await asyncio.get_running_loop().create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
