"""Daemon threads for sync handlers."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tracebaton.context import RequestStore, current, entered
from tracebaton.queue.threads import DaemonThreads


def names() -> set[str]:
    """Return the handler threads that are alive."""
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("tracebaton-handler")
    }


async def ended(before: set[str]) -> set[str]:
    """Return the threads started since, once they have ended."""
    mine = [thread for thread in threading.enumerate() if thread.name in names() - before]
    await asyncio.gather(*(asyncio.to_thread(thread.join, 5) for thread in mine))
    return names() - before


async def test_work_sees_the_store_of_its_caller() -> None:
    """On a daemon thread, which cannot hold up the exit."""
    threads = DaemonThreads(1)
    with entered(RequestStore(correlation_id="abc", attempt=2)):
        seen = await threads.run(lambda: (current(), threading.current_thread().daemon))
    threads.close()

    assert seen == (RequestStore(correlation_id="abc", attempt=2), True)


async def test_what_work_changes_in_its_context_stays_there() -> None:
    """Two jobs on one thread do not see each other."""
    threads = DaemonThreads(1)
    with entered(RequestStore(user_id="ada")):
        await threads.run(lambda: None)
    seen = await threads.run(current)
    threads.close()

    assert seen == RequestStore()


async def test_an_idle_thread_is_used_again() -> None:
    """One after the other needs one thread, of however many."""
    threads = DaemonThreads(8)
    served = {await threads.run(threading.get_ident) for _ in range(20)}
    threads.close()

    assert len(served) == 1


async def test_never_more_threads_than_asked_for() -> None:
    """What is too much waits for its turn."""
    threads, meeting = DaemonThreads(3), threading.Barrier(3)

    def work() -> int:
        meeting.wait(5)  # passes only in threes
        return threading.get_ident()

    served = await asyncio.gather(*(threads.run(work) for _ in range(9)))
    threads.close()

    assert len(set(served)) == 3


@pytest.mark.parametrize("failure", [ValueError("x"), SystemExit(3), KeyboardInterrupt()])
def test_a_failure_reaches_the_caller_as_it_is(failure: BaseException) -> None:
    """One that would end a thread silently included."""

    async def run() -> BaseException | None:
        threads = DaemonThreads(1)
        try:
            await threads.run(_raising(failure))
        except BaseException as exc:  # whatever it is: it is compared
            return exc
        finally:
            threads.close()
        return None

    assert asyncio.run(run()) is failure


def _raising(failure: BaseException) -> Callable[[], Any]:
    def work() -> None:
        raise failure

    return work


async def test_stop_iteration_ends_the_wait() -> None:
    """A future refuses it; the caller gets the error that a coroutine would give."""
    threads = DaemonThreads(1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await asyncio.wait_for(threads.run(_raising(StopIteration())), 5)
    threads.close()


async def test_a_discarded_job_gives_up_its_place() -> None:
    """Its thread stays busy, so another one is started, and its result is nobody's."""
    before, threads, go = names(), DaemonThreads(1), threading.Event()
    started = threading.Event()

    def stuck() -> str:
        started.set()
        assert go.wait(5)
        return "late"

    job = asyncio.create_task(threads.run(stuck))
    await asyncio.to_thread(started.wait, 5)
    job.cancel()
    await asyncio.wait([job])
    result = await asyncio.wait_for(threads.run(lambda: "next"), 5)
    go.set()
    threads.close()

    assert (job.cancelled(), result) == (True, "next")
    assert await ended(before) == set()


async def test_close_lets_threads_end() -> None:
    """Idle ones at once, a busy one after its job, which still delivers."""
    before, threads, go = names(), DaemonThreads(2), threading.Event()
    busy = asyncio.create_task(threads.run(lambda: go.wait(5)))
    await threads.run(lambda: None)
    threads.close()
    go.set()

    assert await busy is True
    assert await ended(before) == set()


def test_a_job_that_ends_after_its_loop_is_harmless() -> None:
    """The process is leaving; the thread raises into nobody."""
    before, go, started = names(), threading.Event(), threading.Event()
    failures: list[object] = []
    hook, threading.excepthook = threading.excepthook, failures.append

    def stuck() -> None:
        started.set()
        assert go.wait(5)

    async def leave() -> None:
        threads = DaemonThreads(1)
        job = asyncio.create_task(threads.run(stuck))
        await asyncio.to_thread(started.wait, 5)
        threads.close()
        job.cancel()

    try:
        asyncio.run(leave())
        mine = [thread for thread in threading.enumerate() if thread.name in names() - before]
        go.set()
        for thread in mine:
            thread.join(5)
    finally:
        threading.excepthook = hook

    assert (failures, names() - before) == ([], set())
