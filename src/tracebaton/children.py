"""
Child processes of our own: their lines are passed on whole, their ready event is kept, and none
outlives its parent.
"""

import asyncio
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

__all__ = ["Child", "Out", "start"]

#: Bytes that are passed on at once.
_CHUNK = 64 * 1024
#: Seconds that the last lines of a child may take after its end.
_SILENCE_SECONDS = 2.0

_log = logging.getLogger("tracebaton")


class Out:
    """Where children write: whole lines, one after the other."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, lines: bytes) -> None:
        """Write *lines*; a reader that has gone costs the lines and nothing else."""
        with self._lock, suppress(OSError, ValueError):
            self._stream.write(lines)
            self._stream.flush()


class Child:
    """
    One running command of ours, ``tracebaton NAME``.

    Attributes:
        ready: Its ready event, None if it ended without one.
        process: Its process; ``returncode`` and ``pid`` are what they are everywhere.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, lines: int, out: Out, ready: str
    ) -> None:
        self.name = name
        self.process = process
        self._out = out
        self._marker = f'{{"event": "{ready}"'.encode()
        self._loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[Mapping[str, Any] | None] = self._loop.create_future()
        self._silent = asyncio.Event()
        # A thread: whoever reads our own stdout slowly must not hold up what this loop decides.
        threading.Thread(
            target=self._pass_on, args=(lines,), name=f"tracebaton-{name}-lines", daemon=True
        ).start()
        self._ended = asyncio.create_task(self._end())

    async def wait(self) -> int:
        """Return its exit code, minus the number of the signal that killed it."""
        return await asyncio.shield(self._ended)

    async def stop(self, seconds: float) -> None:
        """Ask it to drain, and end it if it does not within *seconds*."""
        self.terminate()
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            _log.error("child.killed", extra={"fields": {"child": self.name}})
            self.kill()
        await self.wait()

    def terminate(self) -> None:
        """Ask it to drain; asked again, to give back what it holds."""
        with suppress(ProcessLookupError):
            self.process.terminate()

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self.process.kill()

    def _pass_on(self, lines: int) -> None:
        rest, starting = b"", True
        with os.fdopen(lines, "rb", buffering=0) as pipe:
            while chunk := pipe.read(_CHUNK):
                whole, newline, rest = (rest + chunk).rpartition(b"\n")
                if newline and starting:
                    whole, starting = self._without_ready(whole)
                if whole:
                    self._out.write(whole + b"\n")
        if rest:
            self._out.write(rest + b"\n")
        with suppress(RuntimeError):  # the loop has ended before the child
            self._loop.call_soon_threadsafe(self._silent.set)

    def _without_ready(self, whole: bytes) -> tuple[bytes, bool]:
        """Return the lines without the ready event, and whether that is still to come."""
        lines = whole.split(b"\n")
        found = [line for line in lines if line.startswith(self._marker)][:1]
        if not found:
            return whole, True
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin, json.loads(found[0]))
        lines.remove(found[0])
        return b"\n".join(lines), False

    def _begin(self, event: Mapping[str, Any]) -> None:
        if not self.ready.done():
            self.ready.set_result(event)

    async def _end(self) -> int:
        code = await self.process.wait()
        with suppress(TimeoutError):  # a process that it started may hold its stdout open
            await asyncio.wait_for(self._silent.wait(), _SILENCE_SECONDS)
        if not self.ready.done():
            self.ready.set_result(None)
        return code


async def start(
    name: str,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    out: Out,
    ready: str | None = None,
) -> Child:
    """
    Start ``tracebaton NAME ARGUMENTS``.

    Its stdin closes with this process, however that ends; with ``TRACEBATON_STOP_WITH_STDIN`` in
    *environment* it stops then.

    Args:
        ready: Its ready event, ``NAME.ready`` by default.
    """
    reading, writing = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tracebaton", name, *arguments),
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=writing,
            # Ctrl-C reaches the whole group; the parent decides who stops when.
            start_new_session=True,
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return Child(name, process, reading, out, ready or f"{name}.ready")
