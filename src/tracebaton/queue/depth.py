"""
How many messages the queue has, asked now and then for the metrics.
"""

import logging
from typing import Final

from tracebaton.errors import TracebatonError
from tracebaton.queue.meters import WorkerMeters
from tracebaton.queue.sqs import Queue
from tracebaton.queue.stop import Stop

__all__ = ["watch_depth"]

#: The states a message is in, and what SQS calls their counts.
_STATES: Final = {
    "visible": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}

_log = logging.getLogger("tracebaton.worker")


async def watch_depth(queue: Queue, meters: WorkerMeters, stop: Stop, *, seconds: float) -> None:
    """Measure *queue* every *seconds* until the *stop*; one that does not answer is let pass."""
    while True:
        try:
            attributes = await queue.attributes()
        except TracebatonError as exc:  # the receives say so, loud enough
            fields = {"queue": queue.name, "reason": str(exc.__cause__ or exc)}
            _log.debug("queue.unmeasured", extra={"fields": fields})
        else:
            meters.called(queue.name, "measure")
            meters.depth(
                queue.name,
                {state: int(attributes.get(name, 0)) for state, name in _STATES.items()},
            )
        if await stop.sleep(seconds):
            return
