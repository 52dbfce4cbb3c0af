"""Another host, under both of its names on this machine, that notes what it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Neighbour", "running_neighbour"]


class Neighbour:
    """
    What it was told.

    Attributes:
        requests: The name it was asked by and the headers of each request, oldest first.
        status: What each is answered with.
        redirect: Where the next one is sent instead.
    """

    def __init__(self, *, status: int = 200) -> None:
        self.requests: list[tuple[str, list[tuple[str, str]]]] = []
        self.status = status
        self.redirect: str | None = None
        neighbour = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                name = self.headers["Host"].partition(":")[0]
                headers = [(key.lower(), value) for key, value in self.headers.items()]
                neighbour.requests.append((name, headers))
                to, neighbour.redirect = neighbour.redirect, None
                self.send_response(307 if to else neighbour.status)
                if to:
                    self.send_header("Location", to)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_POST = do_GET  # noqa: N815  the server's name for it

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, name: str) -> str:
        """Return its address by one of its names: ``127.0.0.1`` or ``localhost``."""
        return f"http://{name}:{self._server.server_address[1]}/"

    def told(self, keys: set[str]) -> list[tuple[str, dict[str, str]]]:
        """Return the name and those headers of each request that are among *keys*."""
        return [
            (name, {key: value for key, value in headers if key in keys})
            for name, headers in self.requests
        ]

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def running_neighbour(*, status: int = 200) -> Iterator[Neighbour]:
    """Run one for the length of a ``with`` block."""
    neighbour = Neighbour(status=status)
    try:
        yield neighbour
    finally:
        neighbour.close()
