"""
Many messages in as few calls as SQS allows, with an outcome for each.
"""

import asyncio
from collections.abc import Iterator, Sequence

from tracebaton.errors import QueueUnavailable, TracebatonError
from tracebaton.queue.message import Outgoing, Sent
from tracebaton.queue.sqs import BATCH, MESSAGE_LIMIT, Sqs

__all__ = ["batches", "send_all"]

#: Calls that run at once; a FIFO queue gets one after the other, in order.
_CALLS = 4
#: Tries of a message that SQS failed for its own reasons.
_TRIES = 4
#: Seconds before the first retry; doubled each time.
_PAUSE = 0.1


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


async def _send(sqs: Sqs, queue_url: str, messages: Sequence[Outgoing]) -> list[Sent]:
    outcomes = await _call(sqs, queue_url, messages)
    for number in range(_TRIES - 1):
        failed = [index for index, sent in enumerate(outcomes) if sent.again]
        if not failed:
            break
        await asyncio.sleep(_PAUSE * 2**number)
        again = await _call(sqs, queue_url, [messages[index] for index in failed])
        for index, sent in zip(failed, again, strict=True):
            outcomes[index] = sent
    return outcomes


async def _call(sqs: Sqs, queue_url: str, messages: Sequence[Outgoing]) -> list[Sent]:
    try:
        return await sqs.send_batch(queue_url, messages)
    except TracebatonError as exc:  # the whole call failed, which boto3 has retried already
        cause = exc.__cause__
        return [Sent(None, _same(exc, cause)) for _ in messages]


def _same(exc: TracebatonError, cause: BaseException | None) -> TracebatonError:
    """Return an error of each message's own, because it is recorded on a span of its own."""
    error = type(exc)(exc.detail) if not isinstance(exc, QueueUnavailable) else QueueUnavailable()
    error.__cause__ = cause
    return error
