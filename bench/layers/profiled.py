"""
Profile a subject's requests or messages: ``python profiled.py requests|messages SUBJECT``.

Prints where the time of the calling thread goes, by a function's own time, as CPU; background
threads are not in it. ``sentry`` in place of a subject profiles the thread behind the span
processor.
"""

import asyncio
import cProfile
import io
import pstats
import sys
import time
from typing import Any

import in_process
import messages

CALLS = 2000


async def requests(app: Any) -> None:
    """Ask one request after the other."""
    for _ in range(CALLS):
        await in_process.request(app)


async def deliveries(deliver: messages.Deliver) -> None:
    """Deliver one message after the other."""
    for number in range(CALLS):
        await deliver(number)


def background() -> None:
    """Profile the handover's own thread, which the profiler of this one does not see."""
    from tracebaton.telemetry.handover import Handover

    run = Handover._run

    def profiled(self: Any) -> None:
        if self._name != "tracebaton-sentry":
            run(self)
            return
        profile = cProfile.Profile(time.thread_time)
        handle = self._handle
        self._handle = lambda item: profile.runcall(handle, item)
        self.profile = profile
        PROFILES.append(profile)
        run(self)

    Handover._run = profiled  # type: ignore[method-assign]


PROFILES: list[cProfile.Profile] = []


def main(kind: str, name: str) -> None:
    """Run, and print the profile."""
    replayed = name == "sentry"
    if replayed:
        background()
    subject = "ours-sentry" if replayed else name
    made, flush = (in_process if kind == "requests" else messages).SUBJECTS[subject]()
    work = requests if kind == "requests" else deliveries
    asyncio.run(work(made))
    profile = cProfile.Profile(time.thread_time)
    if not replayed:
        profile.enable()
        asyncio.run(work(made))
        profile.disable()
    flush()
    out = io.StringIO()
    stats = pstats.Stats(PROFILES[0] if replayed else profile, stream=out)
    stats.strip_dirs().sort_stats("tottime").print_stats(60)
    print(out.getvalue())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
