"""An application whose handler does its work twice when it is asked twice."""

import itertools

from pydantic import BaseModel

from tracebaton import Tracebaton

app = Tracebaton()
_counter = itertools.count()


class Empty(BaseModel):
    """No data."""


@app.task("count", model=Empty)
async def count(data: Empty) -> int:
    """Return another number each time."""
    return next(_counter)
