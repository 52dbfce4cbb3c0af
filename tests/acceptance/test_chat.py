"""The chat example against a real HTTP server that speaks OpenAI's protocol."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from command import ended, running
from stage import Broker

pytestmark = pytest.mark.acceptance

CHAT = "tracebaton.examples.chat:app"


class Model:
    """A small OpenAI-compatible server: it keeps what it was asked and answers *status*."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status = 200

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the last message in capitals."""
        said = request["messages"][-1]["content"].upper()
        return {
            "model": "loud-1",
            "choices": [{"message": {"role": "assistant", "content": said}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        }


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """Serve *model* on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            model.requests.append((self.path, headers, request))
            body = json.dumps(model.answer(request)).encode()
            self.send_response(model.status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_remote_model_answers_inside_the_trace(broker: Broker) -> None:
    """The call carries traceparent and no baggage; its answer is the task's result."""
    model = Model()
    with serving(model) as url:
        env = broker.env | {"TRACEBATON_CHAT_URL": url, "TRACEBATON_CHAT_API_KEY": "sk-test"}
        with (
            running("api", CHAT, "--port", "0", env=env, cwd=broker.folder) as api,
            running("worker", CHAT, env=env, cwd=broker.folder) as worker,
            httpx.Client(base_url=api.ready()["api"]) as http,
        ):
            sent = http.post("/v1/ai/chat", json={"message": "hello", "conversation_id": "c-9"})
            task = ended(http, sent.json()["task_id"])
            api.stop()
            worker.stop()

    [(path, headers, request)] = model.requests
    assert task["result"] == {"reply": "HELLO", "model": "loud-1", "conversation_id": "c-9"}
    assert (path, request["messages"]) == (
        "/v1/chat/completions",
        [{"role": "user", "content": "hello"}],
    )
    assert headers["authorization"] == "Bearer sk-test"
    assert headers["traceparent"].split("-")[1] == task["trace_id"]
    assert "baggage" not in headers
    assert "sk-test" not in "\n".join(api.lines + worker.lines)


def test_a_model_that_fails_is_retried_and_then_dead(broker: Broker) -> None:
    """The dependency's failure is retryable; the task ends as dead with its code."""
    model = Model()
    model.status = 500
    with serving(model) as url:
        env = broker.env | {"TRACEBATON_CHAT_URL": url}
        with (
            running("api", CHAT, "--port", "0", env=env, cwd=broker.folder) as api,
            running("worker", CHAT, env=env, cwd=broker.folder) as worker,
            httpx.Client(base_url=api.ready()["api"]) as http,
        ):
            sent = http.post("/v1/ai/chat", json={"message": "hello"})
            task = ended(http, sent.json()["task_id"])
            api.stop()
            worker.stop()

    assert (task["status"], task["error"]["code"], task["attempt"]) == ("dead", "dependency", 2)
    assert len(model.requests) == 2


def test_an_empty_message_is_refused(broker: Broker) -> None:
    """422 with the field, and nothing is enqueued."""
    with (
        running("api", CHAT, "--port", "0", env=broker.env, cwd=broker.folder) as api,
        httpx.Client(base_url=api.ready()["api"]) as http,
    ):
        answer = http.post("/v1/ai/chat", json={"message": ""})
        api.stop()

    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/message")
    assert broker.sqs.stats()["tasks"]["sent"] == 0
