"""The application of the tests across processes: a task that takes each step when it is let."""

import asyncio
from pathlib import Path

from pydantic import BaseModel

from tracebaton import Tracebaton, progress

app = Tracebaton()


class Walk(BaseModel):
    """Where the walker waits for a file of each step's number, and how many steps it takes."""

    folder: Path
    steps: int = 0


@app.task("walk", model=Walk)
async def walk(data: Walk) -> dict[str, int]:
    """Write down that it began, and then take the steps."""
    await asyncio.to_thread(_note, data.folder / "began")
    for step in range(1, data.steps + 1):
        while not (data.folder / str(step)).exists():
            await asyncio.sleep(0.01)
        await progress(step, f"step {step}")
    return {"steps": data.steps}


def _note(began: Path) -> None:
    with began.open("a") as file:
        file.write("walk\n")
