"""An application whose handlers do not end when they are told to."""

import asyncio
import threading

from pydantic import BaseModel

from tracebaton import Tracebaton

app = Tracebaton()


class Nothing(BaseModel):
    """No data."""


@app.task("deaf", model=Nothing)
async def deaf(data: Nothing) -> None:
    """Go on after each cancellation."""
    for _ in range(60):
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            continue


@app.task("hung", model=Nothing)
async def hung(data: Nothing) -> None:
    """Wait for a thread of asyncio's executor that comes back much later."""
    await asyncio.to_thread(threading.Event().wait, 60)
