"""
Many messages in as few calls as SQS allows, with an outcome for each.
"""

import asyncio
from collections.abc import Iterator, Sequence

from tracebaton.errors import QueueUnavailable, TracebatonError
from tracebaton.queue.message import Outgoing, Sent
from tracebaton.queue.sqs import BATCH, MESSAGE_LIMIT, Sqs, blames_content

__all__ = ["PAUSE", "TRIES", "batches", "send_all", "send_alone", "send_together"]

#: Calls that run at once; a FIFO queue gets one after the other, in order.
_CALLS = 4
#: Tries of a message that SQS failed for its own reasons.
TRIES = 4
#: Seconds before the first retry; doubled each time.
PAUSE = 0.1


def batches(
    messages: Sequence[Outgoing], *, most: int = BATCH, limit: int = MESSAGE_LIMIT
) -> Iterator[list[int]]:
    """Yield the indexes of *messages* call by call: at most *most*, at most *limit* bytes."""
    batch: list[int] = []
    size = 0
    for index, message in enumerate(messages):
        if batch and (len(batch) == most or size + message.size > limit):
            yield batch
            batch, size = [], 0
        batch.append(index)
        size += message.size
    if batch:
        yield batch


async def send_all(
    sqs: Sqs, queue_url: str, messages: Sequence[Outgoing], *, ordered: bool
) -> list[Sent]:
    """
    Send *messages* and return what became of each, in their order.

    Only those are tried again that SQS failed for its own reasons.

    Args:
        ordered: Make one call after the other, for a FIFO queue.
    """
    outcomes: list[Sent] = [Sent(None)] * len(messages)
    slots = asyncio.Semaphore(1 if ordered else _CALLS)

    async def send(batch: list[int]) -> None:
        async with slots:
            chosen = [messages[index] for index in batch]
            for index, sent in zip(batch, await _send(sqs, queue_url, chosen), strict=True):
                outcomes[index] = sent

    await asyncio.gather(*(send(batch) for batch in batches(messages)))
    return outcomes


async def send_alone(sqs: Sqs, queue_url: str, message: Outgoing) -> Sent:
    """Send one message by a call of its own and return what became of it."""
    try:
        message_id = await sqs.send(
            queue_url,
            message.body,
            attributes=message.attributes,
            delay_seconds=message.delay_seconds,
            group_id=message.group_id,
            deduplication_id=message.deduplication_id,
            trace_header=message.trace_header,
        )
    except TracebatonError as exc:
        return Sent(None, exc)
    return Sent(message_id)


async def send_together(sqs: Sqs, queue_url: str, messages: Sequence[Outgoing]) -> list[Sent]:
    """
    Send up to ten messages by one call and return what became of each.

    Some brokers refuse a whole batch for one message's sake. Then each goes by a call of its own,
    in order, so that none fails for another's fault.
    """
    try:
        return await sqs.send_batch(queue_url, messages)
    except TracebatonError as exc:  # the whole call failed, which boto3 has retried already
        if len(messages) > 1 and blames_content(exc):
            return [await send_alone(sqs, queue_url, message) for message in messages]
        return [Sent(None, _same(exc, exc.__cause__)) for _ in messages]


async def _send(sqs: Sqs, queue_url: str, messages: Sequence[Outgoing]) -> list[Sent]:
    outcomes = await send_together(sqs, queue_url, messages)
    for number in range(TRIES - 1):
        failed = [index for index, sent in enumerate(outcomes) if sent.again]
        if not failed:
            break
        await asyncio.sleep(PAUSE * 2**number)
        again = await send_together(sqs, queue_url, [messages[index] for index in failed])
        for index, sent in zip(failed, again, strict=True):
            outcomes[index] = sent
    return outcomes


def _same(exc: TracebatonError, cause: BaseException | None) -> TracebatonError:
    """Return an error of each message's own, because it is recorded on a span of its own."""
    error = type(exc)(exc.detail) if not isinstance(exc, QueueUnavailable) else QueueUnavailable()
    error.__cause__ = cause
    return error
