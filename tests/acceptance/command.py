"""The command in a process of its own, as whoever deploys it runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

#: Settings of the machine a test runs on must not reach the command.
_OURS = ("OTEL_", "SENTRY_", "AWS_", "TRACEBATON_")


class Command:
    """A running ``tracebaton``: its lines, its ready event, its end."""

    def __init__(self, *arguments: str, env: Mapping[str, str], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error::ResourceWarning", "-m", "tracebaton", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=clean_environment() | dict(env),
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every JSON line it wrote."""
        return [json.loads(line) for line in list(self.lines)]

    def wait_for(
        self, good: Callable[[dict[str, Any]], bool], *, seconds: float = 30
    ) -> dict[str, Any]:
        """Wait for an event that is *good* and return it."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                for event in self.events:
                    if good(event):
                        return event
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._alive()):
                    raise AssertionError(
                        f"no such line; exit code {self.process.poll()}\n"
                        + "\n".join(self.lines[-30:] + self.errors[-30:])
                    )
                self._changed.wait(min(left, 0.2))

    def _alive(self) -> bool:
        return any(reader.is_alive() for reader in self._readers)

    def ready(self) -> dict[str, Any]:
        """Wait until it says that it is up."""
        return self.wait_for(lambda event: str(event["event"]).endswith(".ready"))

    def stop(self, *, seconds: float = 30) -> int:
        """Send SIGTERM and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds=seconds)

    def wait(self, *, seconds: float = 30) -> int:
        """Return the exit code."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        return code


def clean_environment() -> dict[str, str]:
    """This process's environment without anything that configures the command."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}


@contextlib.contextmanager
def running(*arguments: str, env: Mapping[str, str], cwd: Path) -> Iterator[Command]:
    """Run the command for the length of a block; whatever happens, it is gone afterwards."""
    command = Command(*arguments, env=env, cwd=cwd)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.terminate()
            try:
                command.process.wait(30)
            except subprocess.TimeoutExpired:
                command.process.kill()
        command.wait()
        for stream in (command.process.stdout, command.process.stderr):
            if stream is not None:
                stream.close()


def ended(client: httpx.Client, task_id: str, *, seconds: float = 30) -> dict[str, Any]:
    """Wait until the task has ended and return its resource."""
    deadline = time.monotonic() + seconds
    while True:
        resource: dict[str, Any] = client.get(f"/v1/tasks/{task_id}").raise_for_status().json()
        if resource["status"] not in {"queued", "running"}:
            return resource
        assert time.monotonic() < deadline, resource
        time.sleep(0.05)


def create_key(env: Mapping[str, str], user: str, *, cwd: Path) -> str:
    """Make an API key by the command."""
    with running("keys", "create", user, env=env, cwd=cwd) as keys:
        assert keys.wait() == 0
    return keys.lines[0]
