"""A server that speaks enough of Redis's protocol (RESP) for a client's SET and GET."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            words = [self._word() for _ in range(int(line[1:]))]
            self.wfile.write(self._answer(words[0].upper(), words[1:]))

    def _word(self) -> bytes:
        size = int(self.rfile.readline()[1:])
        return self.rfile.read(size + 2)[:size]

    def _answer(self, command: bytes, words: list[bytes]) -> bytes:
        values: dict[bytes, bytes] = self.server.values  # type: ignore[attr-defined]
        if command == b"HELLO":
            return b"-ERR unknown command 'HELLO'\r\n"
        if command == b"GET":
            found = values.get(words[0])
            return b"$-1\r\n" if found is None else b"$%d\r\n%s\r\n" % (len(found), found)
        if command == b"SET":
            values[words[0]] = words[1]
        return b"+OK\r\n"


@contextmanager
def redis_server() -> Iterator[int]:
    """Serve for the length of a ``with`` block and yield the port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session) as server:
        server.daemon_threads = True
        server.values = {}  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
