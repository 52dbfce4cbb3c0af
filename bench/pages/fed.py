"""
Feed a viewer: ``python fed.py URL CONTENT TRACES WIDE`` posts so many traces and a WIDE one.

WIDE is its number of spans, CONTENT ``protobuf``, ``gzip`` (of it) or ``json``. Everything is
encoded before the clock runs, which stops when the viewer's list has all of it. Log lines come
with a WIDE trace only.
"""

import gzip
import json
import sys
import threading
import time
from http.client import HTTPConnection
from urllib.parse import urlsplit

import exports

#: Spans of a request, as the SDK's batch processor sends them.
BATCH = 512
SENDERS = 2
#: What an OTLP request says of itself.
HEADERS = {
    "protobuf": {"content-type": "application/x-protobuf"},
    "gzip": {"content-type": "application/x-protobuf", "content-encoding": "gzip"},
    "json": {"content-type": "application/json"},
}


def main(url: str, content: str, traces: int, wide: int) -> None:
    """Post, wait until it can be read, and tell how fast that was."""
    now = time.time_ns() - traces * exports.MS
    requests = exports.trace_requests(1, traces, now, BATCH)
    if wide:
        requests += exports.wide_trace(traces + 1, wide, now, BATCH)
    count = sum(len(one.resource_spans[0].scope_spans[0].spans) for one in requests)
    encode = {
        "json": exports.as_json,
        "protobuf": lambda one: one.SerializeToString(),
        "gzip": lambda one: gzip.compress(one.SerializeToString(), 6),
    }[content]
    bodies = [("/v1/traces", encode(one)) for one in requests]
    started = time.perf_counter()
    _post_all(url, bodies, HEADERS[content])
    _get(url, "/api/traces?limit=1")  # answers when all that was accepted is written
    seconds = time.perf_counter() - started
    if wide:  # somebody will look at it
        lines = exports.log_requests(1, traces, now)
        _post_all(
            url, [("/v1/logs", one.SerializeToString()) for one in lines], HEADERS["protobuf"]
        )
        _get(url, "/api/traces?limit=1")
    told = {"spans": count, "rate": count / seconds, "bytes": sum(len(one) for _, one in bodies)}
    print(json.dumps(told | {"wide": exports.trace_id(traces + 1).hex()}))


def _post_all(url: str, bodies: list[tuple[str, bytes]], headers: dict[str, str]) -> None:
    failures: list[str] = []

    def send(own: list[tuple[str, bytes]]) -> None:
        connection = _connection(url)
        for path, body in own:
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                failures.append(f"{answer.status} {said!r}")
                break
        connection.close()

    senders = [threading.Thread(target=send, args=(bodies[n::SENDERS],)) for n in range(SENDERS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    if failures:
        raise SystemExit(f"the viewer refused: {failures[0]}")


def _get(url: str, path: str) -> None:
    connection = _connection(url)
    connection.request("GET", path)
    assert connection.getresponse().read()
    connection.close()


def _connection(url: str) -> HTTPConnection:
    parts = urlsplit(url)
    return HTTPConnection(str(parts.hostname), parts.port, timeout=60)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
