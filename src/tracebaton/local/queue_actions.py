"""The actions of SQS on queues, their attributes, tags and move tasks."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from tracebaton.local.call import Call
from tracebaton.local.queues import Queue
from tracebaton.local.refusal import Refusal, invalid

__all__ = [
    "cancel_message_move_task",
    "create_queue",
    "delete_queue",
    "get_queue_attributes",
    "get_queue_url",
    "list_dead_letter_source_queues",
    "list_message_move_tasks",
    "list_queue_tags",
    "list_queues",
    "purge_queue",
    "set_queue_attributes",
    "start_message_move_task",
    "tag_queue",
    "untag_queue",
]

#: The most names on one page of a list, and the page when none is asked for.
_PAGE: Final = 1000
#: Attributes a queue need not have, which may be asked for all the same.
_OPTIONAL_ATTRIBUTES: Final = frozenset(
    {
        "ContentBasedDeduplication",
        "DeduplicationScope",
        "FifoQueue",
        "FifoThroughputLimit",
        "KmsDataKeyReusePeriodSeconds",
        "KmsMasterKeyId",
        "Policy",
        "RedriveAllowPolicy",
        "RedrivePolicy",
        "SqsManagedSseEnabled",
    }
)

Answer = Mapping[str, Any]


def create_queue(call: Call) -> Answer:
    """Make a queue, or return the one that is there with the same attributes."""
    request = call.request
    tags = request.get("tags") or request.get("Tags")
    queue = call.broker.create(call.required("QueueName"), request.get("Attributes", {}), tags)
    return {"QueueUrl": call.url(queue.name)}


def get_queue_url(call: Call) -> Answer:
    """Return the URL of a queue."""
    return {"QueueUrl": call.url(call.broker.get(call.required("QueueName")).name)}


def list_queues(call: Call) -> Answer:
    """Return the URLs of the queues whose names begin with a prefix."""
    names = call.broker.names(call.request.get("QueueNamePrefix", ""))
    page = _page(call, names)
    # AWS leaves the list out when it is empty.
    return {
        key: value for key, value in zip(("QueueUrls", "NextToken"), page, strict=True) if value
    }


def list_dead_letter_source_queues(call: Call) -> Answer:
    """Return the URLs of the queues whose DLQ this is."""
    urls, token = _page(call, call.broker.sources(call.queue().arn))
    return {"queueUrls": urls, **({"NextToken": token} if token else {})}


def delete_queue(call: Call) -> Answer:
    """Delete a queue with its messages."""
    call.broker.delete(call.queue().name)
    return {}


def purge_queue(call: Call) -> Answer:
    """Delete the messages of a queue."""
    call.queue().purge()
    return {}


def get_queue_attributes(call: Call) -> Answer:
    """Return the attributes that were asked for."""
    asked = call.request.get("AttributeNames", [])
    values = _attributes(call.queue())
    for name in asked:
        if name != "All" and name not in values and name not in _OPTIONAL_ATTRIBUTES:
            raise Refusal("InvalidAttributeName", f"Unknown Attribute {name}.")
    chosen = {name: text for name, text in values.items() if "All" in asked or name in asked}
    return {"Attributes": chosen} if chosen else {}


def set_queue_attributes(call: Call) -> Answer:
    """Change attributes of a queue."""
    call.broker.change(call.queue(), call.required("Attributes"))
    return {}


def tag_queue(call: Call) -> Answer:
    """Add tags to a queue."""
    call.queue().tags.update(call.required("Tags"))
    return {}


def untag_queue(call: Call) -> Answer:
    """Take tags off a queue."""
    tags = call.queue().tags
    for key in call.required("TagKeys"):
        tags.pop(key, None)
    return {}


def list_queue_tags(call: Call) -> Answer:
    """Return the tags of a queue."""
    tags = call.queue().tags
    return {"Tags": tags} if tags else {}


def start_message_move_task(call: Call) -> Answer:
    """Start to move the messages of a DLQ."""
    task = call.broker.start_move(
        call.required("SourceArn"),
        destination_arn=call.request.get("DestinationArn"),
        rate=call.request.get("MaxNumberOfMessagesPerSecond"),
    )
    return {"TaskHandle": task.handle}


def list_message_move_tasks(call: Call) -> Answer:
    """Return the latest move tasks of a DLQ."""
    most = call.request.get("MaxResults", 1)
    if not 1 <= most <= 10:
        raise invalid(most, "MaxResults", "Must be between 1 and 10, if provided.")
    tasks = call.broker.moves.recent(call.required("SourceArn"), most)
    return {"Results": [task.describe() for task in tasks]}


def cancel_message_move_task(call: Call) -> Answer:
    """Stop a move task."""
    task = call.broker.moves.cancel(call.required("TaskHandle"))
    return {"ApproximateNumberOfMessagesMoved": task.moved}


def _attributes(queue: Queue) -> dict[str, str]:
    counts = queue.counts()
    return {
        "QueueArn": queue.arn,
        "ApproximateNumberOfMessages": str(counts["visible"]),
        "ApproximateNumberOfMessagesNotVisible": str(counts["in_flight"]),
        "ApproximateNumberOfMessagesDelayed": str(counts["delayed"]),
        "CreatedTimestamp": str(queue.created_at),
        "LastModifiedTimestamp": str(queue.modified_at),
        **queue.attributes.texts(),
    }


def _page(call: Call, names: list[str]) -> tuple[list[str], str | None]:
    asked = call.request.get("MaxResults")
    if asked is not None and not 1 <= asked <= _PAGE:
        raise invalid(asked, "MaxResults", f"Must be between 1 and {_PAGE}, if provided.")
    after = _decoded(call.request.get("NextToken", ""))
    rest = [name for name in names if name > after]
    page = rest[: asked or _PAGE]
    # Only who set MaxResults gets a token (API reference).
    more = asked is not None and len(rest) > len(page)
    token = base64.b64encode(page[-1].encode()).decode() if more else None
    return [call.url(name) for name in page], token


def _decoded(token: str) -> str:
    try:
        return base64.b64decode(token, validate=True).decode()
    except (binascii.Error, ValueError) as exc:
        raise invalid(token, "NextToken", "It is not one of this list.") from exc
