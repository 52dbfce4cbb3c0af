"""Work handed to background threads."""

import os
import queue
import threading
import weakref
from typing import Any

import pytest
import sentry_sdk
from sentry_receiver import SentryReceiver

from tracebaton.telemetry.handover import Handover


def test_items_are_handled_in_order_by_another_thread() -> None:
    """And drain waits for all of them."""
    seen: list[tuple[int, str]] = []
    handover: Handover[int] = Handover(
        lambda item: seen.append((item, threading.current_thread().name)), name="back", limit=100
    )
    for number in range(50):
        assert handover.submit(number)

    assert handover.drain(5)
    assert seen == [(number, "back") for number in range(50)]
    assert len(handover) == 0


def test_a_full_queue_refuses_and_a_deadline_is_kept() -> None:
    """What is in hand counts as waiting until it is done."""
    gate, begun = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        begun.set()
        gate.wait(5)

    handover: Handover[int] = Handover(handle, name="back", limit=2)
    handover.submit(0)
    assert begun.wait(5)

    assert [handover.submit(number) for number in (1, 2, 3)] == [True, True, False]
    assert not handover.drain(0.01)
    assert len(handover) == 3
    gate.set()
    assert handover.drain(5)


class Resting:
    """A handover whose first item waits at a gate, and whose rests are told and take no time."""

    def __init__(self, *moments: float, rests_below: int) -> None:
        self._gate, self._begun, self._clock = threading.Event(), threading.Event(), iter(moments)
        self.rests: queue.SimpleQueue[tuple[bool, float]] = queue.SimpleQueue()
        self.handover: Handover[int] = Handover(
            self._handle,
            name="back",
            limit=100,
            rests_below=rests_below,
            now=lambda: next(self._clock),
            rest=lambda hurry, seconds: self.rests.put((hurry.is_set(), round(seconds, 6))),
        )

    def _handle(self, item: int) -> None:
        self._begun.set()
        self._gate.wait(5)

    def submit(self, count: int) -> None:
        for number in range(count):
            self.handover.submit(number)
        assert self._begun.wait(5)

    def open(self) -> None:
        self._gate.set()


def test_a_thread_rests_while_little_waits() -> None:
    """As long as an item took, 5 ms at most; with more to do it goes on at once."""
    # The first two items leave two and more behind them: nobody asks how long they took.
    resting = Resting(0, 1, 2, 2.25, 3, 3.002, rests_below=2)
    resting.submit(4)
    resting.open()

    assert [resting.rests.get(timeout=5) for _ in range(2)] == [(False, 0.005), (False, 0.002)]


def test_nothing_rests_while_somebody_waits_for_the_end() -> None:
    """A stop has a deadline."""
    resting = Resting(0, 1, 2, 3, rests_below=10)
    resting.submit(2)
    drained = threading.Thread(target=resting.handover.drain, args=(5,))
    drained.start()
    assert resting.handover._hurry.wait(5)
    resting.open()

    assert resting.rests.get(timeout=5) == (True, 0.005)
    drained.join(5)
    assert not drained.is_alive()
    assert not resting.handover._hurry.is_set()


def test_what_waits_at_the_end_is_let_go() -> None:
    """What is in hand ends by itself; nothing more is taken."""
    gate, begun, seen = threading.Event(), threading.Event(), list[int]()

    def handle(item: int) -> None:
        begun.set()
        gate.wait(5)
        seen.append(item)

    handover: Handover[int] = Handover(handle, name="back", limit=5)
    for number in range(3):
        handover.submit(number)
    assert begun.wait(5)

    assert handover.close() == 3
    assert not handover.submit(4)
    gate.set()
    assert handover.drain(5)
    assert seen == [0]


def test_several_threads_run_when_one_is_not_enough() -> None:
    """They meet, which one alone could not."""
    barrier = threading.Barrier(3)
    handover: Handover[int] = Handover(
        lambda item: barrier.wait(5), name="back", limit=10, threads=3
    )
    for number in range(3):
        handover.submit(number)

    assert handover.drain(5)


def test_without_a_thread_the_work_is_done_by_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the machine's limit of threads submit() raises nothing, and nothing is lost."""
    seen: list[tuple[int, str]] = []
    handover: Handover[int] = Handover(
        lambda item: seen.append((item, threading.current_thread().name)), name="back", limit=9
    )
    with monkeypatch.context() as limit:
        limit.setattr(threading.Thread, "start", _refuse)
        assert [handover.submit(number) for number in (1, 2)] == [True, True]
        assert not handover.drain(0)
        assert handover.drain(5)
    handover.submit(3)
    assert handover.drain(5)

    assert seen == [(1, "MainThread"), (2, "MainThread"), (3, "back")]


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_a_failure_costs_its_item_only(caplog: pytest.LogCaptureFixture) -> None:
    """The thread lives on, the line says what was wrong."""
    seen: list[int] = []

    def handle(item: int) -> None:
        seen.append(1 // item)

    handover: Handover[int] = Handover(handle, name="back", limit=10)
    handover.submit(0)
    handover.submit(1)

    assert handover.drain(5)
    assert seen == [1]
    (line,) = caplog.records
    assert (line.message, line.exc_info is not None) == ("telemetry.handover_failed", True)


def test_a_tick_comes_when_it_asked_to_and_when_it_is_woken() -> None:
    """The queue may be empty all the while."""
    ticks = threading.Semaphore(0)
    delays = iter([0.01, None, None])

    def tick() -> float | None:
        ticks.release()
        return next(delays, None)

    handover: Handover[int] = Handover(lambda item: None, name="back", limit=1, tick=tick)
    handover.wake()
    assert ticks.acquire(timeout=5)
    assert ticks.acquire(timeout=5)
    handover.wake()
    assert ticks.acquire(timeout=5)


def test_a_forked_child_starts_empty() -> None:
    """Its parent's items are the parent's to handle."""
    gate = threading.Event()
    handover: Handover[int] = Handover(lambda item: gate.wait(5), name="back", limit=10)
    handover.submit(1)
    handover.submit(2)
    child = os.fork()
    if child == 0:
        gate.set()
        empty = handover.drain(0) and handover.submit(3) and handover.drain(5)
        os._exit(0 if empty else 1)
    _, status = os.waitpid(child, 0)
    gate.set()

    assert os.waitstatus_to_exitcode(status) == 0
    assert handover.drain(5)


def test_its_threads_start_from_an_empty_context(pipelines: Any, sentry: SentryReceiver) -> None:
    """sentry-sdk gives each new thread the unit's scopes; ours outlives the unit."""
    telemetry = pipelines({"SENTRY_DSN": sentry.dsn})
    handover: Handover[str] = Handover(sentry_sdk.capture_message, name="back", limit=1)
    with telemetry.reporter.isolated():
        sentry_sdk.set_tag("unit", "first")
        handover.submit("from the thread")
    assert handover.drain(5)
    telemetry.shutdown(5)

    (event,) = sentry.events()

    assert event["message"] == "from the thread"
    assert "unit" not in event.get("tags", {})


def test_a_thread_that_waits_keeps_nothing_of_what_it_handled() -> None:
    """An envelope is a dozen objects, and there are sixteen threads."""

    class Item:
        pass

    handled: Handover[Item] = Handover(lambda item: None, name="test", limit=10)
    item = Item()
    kept = weakref.ref(item)
    gone = threading.Event()
    weakref.finalize(item, gone.set)
    handled.submit(item)
    del item

    assert gone.wait(10)
    assert kept() is None
