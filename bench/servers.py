"""
Servers that a bench runs beside what it measures; none outlives it, however it ends.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from rounds import clean_environment, say

#: Linux: the signal that a process gets when its parent is gone.
_PR_SET_PDEATHSIG = 1


@contextmanager
def started(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    output: IO[Any] | int = subprocess.PIPE,
    patience: float = 15,
    **more: Any,
) -> Iterator["subprocess.Popen[str]"]:
    """
    Run a process in a session of its own; it and whoever it started are gone afterwards.

    Args:
        env: The whole environment, by default the clean one.
        output: Where its stdout goes.
        patience: Seconds that it has to end by itself at SIGTERM.
        more: What else ``Popen`` takes.
    """
    process = subprocess.Popen(
        command,
        env=clean_environment() if env is None else env,
        stdout=output,
        text=True,
        start_new_session=True,  # so that no Ctrl-C reaches it before the bench has its figures
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        **more,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            say("had to be killed")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@contextmanager
def telling(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, patience: float = 15
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """
    Run a server; yield its process and the first line of its stdout: mostly its port.

    Raises:
        OSError: It ended without one.
    """
    with started(command, env=env, patience=patience) as process:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        if not line:
            raise OSError(f"{' '.join(command[-2:])} did not start")
        yield process, line


def _end_with_parent() -> None:
    """Ask for SIGTERM at the end of the bench: a ``kill -9`` leaves no time to send one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
