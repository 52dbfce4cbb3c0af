"""The first five minutes: ``tracebaton dev`` and nothing else."""

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import clean_environment, ended, running

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent
DEV = ("dev", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")


def test_a_chat_message_is_one_trace_in_the_viewer(tmp_path: Path) -> None:
    """202, the result, and both halves in one waterfall."""
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        ready = dev.ready()
        with httpx.Client(base_url=ready["api"]) as client:
            answer = client.post(
                "/v1/ai/chat",
                json={"message": "What is one trace?"},
                headers={"X-Correlation-ID": "first-five-minutes"},
            )
            task = ended(client, answer.json()["task_id"])
        spans = trace_in_viewer(ready["viewer"], task["trace_id"], names=4)
        code = dev.stop()

    by_id = {span["spanId"]: span["name"] for span in spans}
    shape = {span["name"]: by_id.get(span.get("parentSpanId", "")) for span in spans}
    assert set(ready) == {"event", "api", "sqs", "queue_url", "dlq_url", "store", "viewer"}
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/tasks/{task['task_id']}")
    assert set(answer.json()) == {
        *("task_id", "type", "status", "correlation_id", "trace_id", "created_at", "links")
    }
    assert answer.headers["x-correlation-id"] == "first-five-minutes"
    assert (task["status"], task["result"]["model"]) == ("succeeded", "local")
    assert shape == {
        "POST /v1/ai/chat": None,
        "send tasks": "POST /v1/ai/chat",
        "process tasks": "send tasks",
        "chat local": "process tasks",
    }
    assert {attribute(span, "tracebaton.correlation_id") for span in spans} == {
        "first-five-minutes"
    }
    assert code == 0
    assert dev.errors == []


def test_dev_stops_in_order_and_leaves_no_child(tmp_path: Path) -> None:
    """SIGTERM: API, then worker, exit 0, and the worker says what it drained."""
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        dev.ready()
        begun = time.monotonic()
        code = dev.stop()

    assert code == 0
    assert time.monotonic() - begun < 12
    assert [event["event"] for event in dev.events if event["event"] == "worker.drained"]


def test_a_bad_setting_stops_dev_with_one_line(tmp_path: Path) -> None:
    """Exit 2, every bad variable in one line, no traceback."""
    env = {"TRACEBATON_CONCURRENCY": "many", "SENTRY_DSN": "nonsense"}
    with running(*DEV, env=env, cwd=tmp_path) as dev:
        code = dev.wait()

    assert code == 2
    assert len(dev.errors) == 1
    assert "TRACEBATON_CONCURRENCY" in dev.errors[0]
    assert "SENTRY_DSN" in dev.errors[0]


def test_an_application_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A wrong APP is a usage error."""
    with running("api", "no_such_module:app", env={}, cwd=tmp_path) as api:
        code = api.wait()

    assert code == 2
    assert api.errors == [
        "tracebaton: APP: there is no module 'no_such_module' here or on sys.path"
    ]


def trace_in_viewer(viewer: str, trace_id: str, *, names: int) -> list[dict[str, Any]]:
    """Wait until the viewer has *names* spans of the trace, at most five seconds."""
    deadline = time.monotonic() + 5
    while True:
        answer = httpx.get(f"{viewer}/api/traces/{trace_id}")
        found = [
            span
            for resource in answer.json().get("resourceSpans", ())
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]
        if len(found) >= names or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def attribute(span: dict[str, Any], name: str) -> Any:
    """The value of a string attribute."""
    return next(
        (a["value"].get("stringValue") for a in span["attributes"] if a["key"] == name), None
    )


def test_an_api_that_cannot_start_stops_dev_with_its_reason(tmp_path: Path) -> None:
    """A missing key file is the API's configuration error: dev says so and ends with 2."""
    env = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(tmp_path / "no.json")}
    with running(*DEV, env=env, cwd=tmp_path) as dev:
        code = dev.wait()

    assert code == 2
    assert [line.split(":")[1].strip() for line in dev.errors] == [
        "TRACEBATON_API_KEYS_FILE",
        "the api process ended by itself with 2",
    ]


def test_a_killed_worker_is_told_by_its_signal(tmp_path: Path) -> None:
    """A number alone says nothing to most; the rest ends with it, since half of dev misleads."""
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        dev.ready()
        os.kill(child(dev.process.pid, "worker"), signal.SIGKILL)
        code = dev.wait()

    assert code == 1
    assert dev.errors == [
        "tracebaton: the worker process was ended by SIGKILL, and with it all of dev"
    ]


def child(parent: int, command: str) -> int:
    """The process that runs *command* for *parent*."""
    pids = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in pids}
    return next(int(pid) for pid, words in commands.items() if command.encode() in words)


@pytest.mark.parametrize(
    ("app", "said"),
    [((), "/v1/ai/chat"), (("shop:app",), "/docs")],
    ids=["example", "own"],
)
def test_a_terminal_is_told_what_to_try(app: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """The example's request, or where an application of one's own says what it takes."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tracebaton", *DEV, *app, "--data", str(tmp_path)]
    with (
        subprocess.Popen(command, env=clean_environment(), cwd=HERE, stdout=theirs) as dev,
        os.fdopen(ours) as terminal,
    ):
        line = next(line for line in terminal if line.startswith("try "))
        dev.terminate()
        assert dev.wait(30) == 0
    os.close(theirs)

    assert said in line


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_PROFILE", "nobody", "AWS: The config profile (nobody) could not be found"),
        (
            "OTEL_SPAN_EVENT_COUNT_LIMIT",
            "many",
            "OpenTelemetry: OTEL_SPAN_EVENT_COUNT_LIMIT must be a non-negative integer"
            " but got many",
        ),
    ],
)
def test_what_a_library_reads_itself_is_a_setting_too(
    tmp_path: Path, name: str, value: str, said: str
) -> None:
    """boto3 and the SDK find it wrong: one line, exit code 2, no stack."""
    queue_url = "https://sqs.eu-west-1.amazonaws.com/1/tasks"
    env = {"TRACEBATON_QUEUE_URL": queue_url, name: value}
    with running("api", "--port", "0", env=env, cwd=tmp_path) as api:
        code = api.wait()

    assert (code, api.errors) == (2, [f"tracebaton: {said}"])


def test_a_startup_that_fails_is_told_without_a_stack_of_ours(tmp_path: Path) -> None:
    """A port that is taken names itself, exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with running("dev", "--port", port, *DEV[3:], env={}, cwd=tmp_path) as dev:
            code = dev.wait()

    assert code == 2
    assert f"127.0.0.1:{port} cannot be used" in dev.errors[0]
