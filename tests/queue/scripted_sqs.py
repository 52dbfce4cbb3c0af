"""An SQS endpoint whose answers a test writes, for what a healthy SQS never says."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from sqs_client import sqs_client

from tracebaton.queue.sqs import Sqs

#: What is answered to an action and its request: a document, or a status with an error code.
Answer = Callable[[str, dict[str, Any]], dict[str, Any] | tuple[int, str]]


class ScriptedSqs:
    """
    Speaks SQS's JSON protocol on loopback and answers by script.

    Attributes:
        requests: Each action with its request, in the order of arrival.
        at_once: The most requests that were being answered at the same time.
    """

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.at_once = 0
        self._answer = answer
        self._busy = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def queue_url(self) -> str:
        """A queue's URL at the endpoint."""
        return f"{self.url}/000000000000/tasks"

    def client(self, *, fast: bool = True) -> Sqs:
        """Our door to it."""
        return sqs_client(self.url, fast=fast)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _reply(self, action: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append((action, request))
            self._busy += 1
            self.at_once = max(self.at_once, self._busy)
        try:
            answer = self._answer(action, request)
        finally:
            with self._lock:
                self._busy -= 1
        if isinstance(answer, tuple):
            return answer[0], {"__type": f"com.amazonaws.sqs#{answer[1]}", "message": "scripted"}
        return 200, _whole(answer, request) if action in _SETTLING else answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the name http.server calls
                body = self.rfile.read(int(self.headers["content-length"]))
                action = self.headers["x-amz-target"].removeprefix("AmazonSQS.")
                status, document = scripted._reply(action, json.loads(body))
                payload = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("content-type", "application/x-amz-json-1.0")
                self.send_header("content-length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing on stderr."""

        return Handler


#: Calls whose answers name each entry, and nothing but its id where it succeeded.
_SETTLING = ("DeleteMessageBatch", "ChangeMessageVisibilityBatch")


def _whole(answer: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return *answer* with what it does not call failed as successful; an empty one is as it is."""
    bad = {one["Id"] for one in answer.get("Failed", ())}
    good = [{"Id": one["Id"]} for one in request["Entries"] if one["Id"] not in bad]
    return {**answer, "Successful": good} if answer else answer


def failed(*ids: str, code: str, sender: bool) -> dict[str, Any]:
    """Return a batch's answer in which the entries *ids* failed."""
    entries = [{"Id": one, "Code": code, "SenderFault": sender, "Message": "no"} for one in ids]
    return {"Successful": [], "Failed": entries}
