"""
Messages that AWS Lambda's SQS event source hands over: the same deliveries, settled by the answer.

Lambda receives and deletes; what it shall not delete stands in ``batchItemFailures``
(https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html, "partial batch
responses": the event source mapping needs ``ReportBatchItemFailures``). A retry's back-off is a
change of visibility, as in the worker.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.queue.attempt import Verdict
from tracebaton.queue.delivery import Delivery
from tracebaton.queue.lease import MARGIN, Lease
from tracebaton.queue.message import Attribute, Received
from tracebaton.queue.sqs import BATCH, Sqs

__all__ = ["EventSource"]

#: What becomes of a message whose handler did not end in time, or that was not begun.
_LEFT: Final = Verdict("leave")

_log = logging.getLogger("tracebaton.worker")


class EventSource:
    """Handles one event at a time, its messages side by side, each FIFO group in order."""

    def __init__(
        self,
        sqs: Sqs,
        *,
        delivery: Callable[[str], Delivery],
        url: Callable[[str], Awaitable[str]],
        concurrency: int,
    ) -> None:
        """
        Set who handles messages.

        Args:
            delivery: Returns who delivers the messages of the queue of that name.
            url: Awaited for the URL of the queue of that name.
            concurrency: Handlers that run at once.
        """
        self._sqs = sqs
        self._delivery = delivery
        self._url = url
        self._slots = asyncio.Semaphore(concurrency)

    async def handle(self, event: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """
        Handle the messages of *event* and return what Lambda shall not delete.

        Args:
            seconds: Until Lambda ends this invocation; what runs then is cancelled before.

        Raises:
            ConfigurationError: *event* is not of an SQS event source.
        """
        name, messages = _read(event)
        delivery = self._delivery(name)
        received_at = time.monotonic()
        leases = [Lease(one, received_at=received_at, visibility=seconds) for one in messages]
        lanes = _lanes(leases)
        verdicts: dict[str, Verdict] = {}
        work = [asyncio.create_task(self._lane(delivery, lane, verdicts)) for lane in lanes]
        await asyncio.wait(work, timeout=max(0.0, seconds - MARGIN))
        for lease in leases:
            if lease.message.message_id not in verdicts:
                lease.over("lost")  # its result is discarded: the message comes again
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        await self._make_visible(name, leases, verdicts)
        failed = [
            lease.message.message_id
            for lease in leases
            if verdicts.get(lease.message.message_id, _LEFT).action != "delete"
        ]
        return {"batchItemFailures": [{"itemIdentifier": one} for one in failed]}

    async def _lane(
        self, delivery: Delivery, lane: Sequence[Lease], verdicts: dict[str, Verdict]
    ) -> None:
        """Handle one message after the other; behind one that failed, none of its group."""
        for lease in lane:
            async with self._slots:
                verdict = await delivery.run(lease)
            if lease.held:
                verdicts[lease.message.message_id] = verdict
            if verdict.action != "delete":
                return

    async def _make_visible(
        self, name: str, leases: Sequence[Lease], verdicts: Mapping[str, Verdict]
    ) -> None:
        changes = [
            (lease.message.receipt_handle, verdict.delay)
            for lease in leases
            if (verdict := verdicts.get(lease.message.message_id, _LEFT)).action == "retry"
        ]
        for start in range(0, len(changes), BATCH):
            batch = changes[start : start + BATCH]
            try:
                await self._sqs.change_visibility(await self._url(name), batch)
            except TracebatonError as exc:
                # It comes again when its visibility timeout is over: later than asked, not lost.
                fields = {"messages": len(batch), "reason": str(exc.__cause__ or exc)}
                _log.warning("visibility.failed", extra={"fields": fields})


def _lanes(leases: Sequence[Lease]) -> list[list[Lease]]:
    """Return what may run side by side: each message of its own, or each FIFO group."""
    lanes: dict[str, list[Lease]] = {}
    for lease in leases:
        group = lease.message.system.get("MessageGroupId") if _is_fifo(lease.message) else None
        lanes.setdefault(group or f"\0{lease.message.message_id}", []).append(lease)
    return list(lanes.values())


def _is_fifo(message: Received) -> bool:
    """Tell whether the order counts: fair queues have groups too, but no sequence."""
    return "SequenceNumber" in message.system


def _read(event: Mapping[str, Any]) -> tuple[str, list[Received]]:
    try:
        records = event["Records"]
        names = {record["eventSourceARN"].rsplit(":", 1)[-1] for record in records}
        messages = [_received(record) for record in records]
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise ConfigurationError(
            "The event is not of an SQS event source: it has no Records as SQS writes them"
            f" ({type(exc).__name__} {exc})"
        ) from exc
    if len(names) != 1:
        raise ConfigurationError(f"The event is of {len(names)} queues, and not of one")
    return names.pop(), messages


def _received(record: Mapping[str, Any]) -> Received:
    """Return a record as the message that a receive would have brought."""
    every = {
        name: Attribute(
            value["dataType"],
            value["stringValue"]
            if value.get("stringValue") is not None
            else base64.b64decode(value.get("binaryValue") or ""),
        )
        for name, value in (record.get("messageAttributes") or {}).items()
    }
    return Received.of(
        *(record["messageId"], record["receiptHandle"], record["body"]),
        every=every,
        system=record.get("attributes") or {},
    )
