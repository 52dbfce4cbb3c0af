"""The application of the fault tests: every way in which a task can end, and some in between."""

import asyncio
import os
import signal
import time

from pydantic import BaseModel

from tracebaton import Reject, RetryLater, Tracebaton, current

app = Tracebaton()


class Ship(BaseModel):
    """Data of every type."""

    number: int = 0
    seconds: float = 0.0
    times: int = 0


@app.task("sail", model=Ship)
async def sail(ship: Ship) -> int:
    """Succeed, after a while."""
    await asyncio.sleep(ship.seconds)
    return ship.number


@app.task("row", model=Ship)
def row(ship: Ship) -> int:
    """Succeed in a thread."""
    time.sleep(ship.seconds)
    return ship.number


@app.task("drift", model=Ship)
async def drift(ship: Ship) -> int:
    """Fail the first times."""
    if (current().attempt or 0) <= ship.times:
        raise ConnectionError("the wind is away")
    return ship.number


@app.task("wait", model=Ship)
async def wait(ship: Ship) -> int:
    """Ask for another try."""
    if (current().attempt or 0) <= ship.times:
        raise RetryLater(0)
    return ship.number


@app.task("refuse", model=Ship)
async def refuse(ship: Ship) -> None:
    """End as failed."""
    raise Reject("The harbour is closed.")


@app.task("leak", model=Ship)
async def leak(ship: Ship) -> None:
    """End as dead."""
    raise LookupError("there is no bottom")


@app.task("mine", model=Ship)
async def mine(ship: Ship) -> None:
    """Kill the worker, every time."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task("late", model=Ship, deadline=0.3)
async def late(ship: Ship) -> int:
    """Run over the deadline the first times."""
    if (current().attempt or 0) <= ship.times:
        await asyncio.sleep(60)
    return ship.number


@app.task("fleet", model=Ship)
async def fleet(ship: Ship) -> int:
    """Enqueue another task."""
    await app.enqueue("sail", ship)
    return ship.number
