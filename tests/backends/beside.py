"""A server beside a test: free ports for it, and the wait until it is up."""

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

__all__ = ["answer_of", "free_ports", "wait_until_up"]


def free_ports(count: int) -> list[int]:
    """Return *count* ports of loopback that nobody uses."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def answer_of(url: str) -> Any:
    """Return the JSON at *url*."""
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


def wait_until_up(
    process: "subprocess.Popen[bytes]",
    url: str,
    log: Path,
    *,
    good: Callable[[bytes], bool] = lambda body: True,
    seconds: float = 30,
) -> None:
    """Wait until *url* answers with what is *good*; where it does not, its *log* is told."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if good(answer.read()):
                    return
        except OSError:
            pass  # not yet
        time.sleep(0.05)  # a poll of another process, bounded by the deadline
    raise AssertionError(f"{url} is not up: {log.read_text()[-2000:]}")
