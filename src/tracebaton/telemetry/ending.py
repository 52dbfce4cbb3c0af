"""
The end of a process: everything is flushed at the same time, within a deadline.
"""

import atexit
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress

__all__ = ["AtOnce", "at_exit"]


class AtOnce:
    """
    Calls that are made at the same time, each in a daemon thread.

    The SDK's flush and shutdown know no deadline (opentelemetry-python#4568): what hangs is left
    behind.
    """

    def __init__(self, calls: Iterable[Callable[[float], object]]) -> None:
        """Set the *calls*; each gets the seconds that all of them have."""
        self._calls = tuple(calls)
        self._threads: list[threading.Thread] = []
        self._go = threading.Event()
        self._timeout = 0.0

    def prepare(self) -> None:
        """Start the threads, which wait; those that cannot be started do nothing."""
        if self._threads:
            return
        self._threads = [
            threading.Thread(target=self._run, args=(call,), daemon=True, name="tracebaton-stop")
            for call in self._calls
        ]
        for thread in self._threads:
            with suppress(RuntimeError):
                thread.start()

    def within(self, timeout: float) -> bool:
        """Make the calls and tell whether all returned in *timeout* seconds."""
        deadline = time.monotonic() + timeout
        self.prepare()
        self._timeout = timeout
        self._go.set()
        started = [thread for thread in self._threads if thread.ident is not None]
        for thread in started:
            thread.join(max(0.0, deadline - time.monotonic()))
        return len(started) == len(self._calls) and not any(map(threading.Thread.is_alive, started))

    def _run(self, call: Callable[[float], object]) -> None:
        self._go.wait()
        call(self._timeout)


def at_exit(prepare: Callable[[], object], stop: Callable[[], object]) -> Callable[[], object]:
    """
    Call *stop* when the interpreter ends, by a crash or at the end of its script.

    Args:
        prepare: A bound method, called when the main thread has ended: the last moment at which
            threads can be started (from Python 3.12 on).
        stop: Called when the other threads that Python waits for have ended as well.

    Returns:
        What takes *stop* back.
    """
    weak = weakref.WeakMethod(prepare)  # it cannot be taken back

    def prepare_if_alive() -> None:
        alive = weak()
        if alive is not None:
            alive()

    # concurrent.futures ends its threads by it; there is no public one.
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        with suppress(RuntimeError):  # the interpreter is ending already
            register(prepare_if_alive)
    # The last to register runs first, and weakref's own hook, which comes with the first finalizer,
    # closes urllib3's idle connections: it has to find those of the last flush.
    weakref.finalize(stop, lambda: None).detach()
    atexit.register(stop)
    return lambda: atexit.unregister(stop)
