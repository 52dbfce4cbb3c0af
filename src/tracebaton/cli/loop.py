"""The ways from a command into the event loop."""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

__all__ = ["leave_on_signals", "run", "serve"]

T = TypeVar("T")

#: Seconds that what is left behind gets to end, once the work of a process is done.
_END_SECONDS: Final = 3.0


def run(work: Coroutine[Any, Any, T], *, fast: bool = False) -> T:
    """
    Run *work* to its end and return what it returned.

    Args:
        fast: Whether it answers many requests: then on uvloop, where that is installed. A chat
            costs a fifth less there; nothing else that a command does was seen to gain.
    """
    import asyncio  # a tenth of the time that ``--help`` takes, which has no use for it

    with asyncio.Runner(loop_factory=_uvloop() if fast else None) as runner:
        return runner.run(work)


def _uvloop() -> Callable[[], Any] | None:
    """Return what makes a loop of uvloop, None without the extra ``fast``."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def serve(
    work: Coroutine[Any, Any, T], *, code: Callable[[T], int] = lambda _: 0, fast: bool = False
) -> T:
    """
    Run *work*, whose end is the process's, as `run()`; what outlives it is cut short.

    asyncio waits for every task before it closes its loop, and the interpreter for every thread of
    an executor. A handler that does not heed its cancellation, or that hangs in a thread of its
    own, would keep a drained worker for ever.

    Args:
        code: Returns the exit code of what *work* returned.
        fast: As for `run()`.
    """
    import threading

    async def ended() -> T:
        result = await work
        _ignore_signals()
        threading.Thread(target=_cut_short, args=(code(result),), daemon=True).start()
        return result

    return run(ended(), fast=fast)


def leave_on_signals() -> None:
    """End with exit code 0 at a SIGTERM or SIGINT that comes while the process still starts."""
    import signal

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _ignore_signals() -> None:
    """Let no further signal end the process in another way than it is about to end by itself."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)  # it would bring the default back when the loop closes
        signal.signal(number, signal.SIG_IGN)


def _cut_short(code: int) -> None:
    import logging
    import os
    import time

    time.sleep(_END_SECONDS)
    fields = {"remedy": "A task or a thread did not end: let handlers end when they are cancelled"}
    logging.getLogger("tracebaton").warning("process.cut_short", extra={"fields": fields})
    os._exit(code)
