"""The actions of SQS on messages."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tracebaton.local.call import Call, refused, succeeded, whole
from tracebaton.local.line import Poll
from tracebaton.local.message import Content, Message, Selection, check_token, digest
from tracebaton.local.queues import Queue
from tracebaton.local.refusal import Refusal, invalid, missing
from tracebaton.local.strike import Strike

__all__ = [
    "Parked",
    "change_message_visibility",
    "change_message_visibility_batch",
    "delete_message",
    "delete_message_batch",
    "receive_message",
    "send_message",
    "send_message_batch",
]

#: The most entries of a batch, and messages of a receive.
_MOST_ENTRIES: Final = 10
#: The most bytes of all messages of a batch.
_LARGEST_BATCH: Final = 1_048_576
_LONGEST_VISIBILITY: Final = 43_200
#: The one sender there is, in the form of an IAM user's id.
_SENDER: Final = "AIDALOCALSQSLOOPBACK0"
_ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")

Answer = Mapping[str, Any]
#: Writes the answer of a receive.
Show = Callable[[list[Message]], Answer]


@dataclass(frozen=True, slots=True)
class Parked:
    """A receive that waits, or has just been answered."""

    queue: Queue
    poll: Poll

    def cancel(self) -> None:
        """Forget it: the client is gone."""
        self.queue.unpark(self.poll)


def send_message(call: Call) -> Answer:
    """Add one message."""
    queue = call.queue()
    content = Content.parse(call.request)
    return _sent(queue, call.request, content, "are invalid")


def send_message_batch(call: Call) -> Answer:
    """Add up to ten messages, each for itself, unless they are too large together."""
    queue = call.queue()
    entries = _entries(call, "SendMessageBatchRequestEntry")
    contents = {entry["Id"]: _parsed(queue, entry) for entry in entries}
    size = sum(content.size for content in contents.values() if isinstance(content, Content))
    if size > _LARGEST_BATCH:
        text = f"Batch requests cannot be longer than {_LARGEST_BATCH} bytes. "
        raise Refusal("BatchRequestTooLong", f"{text}You have sent {size} bytes.")

    def send(entry: Answer) -> Answer:
        content = contents[entry["Id"]]
        if isinstance(content, Refusal):
            raise content
        return _sent(queue, entry, content, "cannot be validated")

    return _each(call, entries, send)


def receive_message(call: Call) -> Answer | Parked:
    """Hand out messages now, or as soon as there are some while the client waits."""
    queue, request = call.queue(), call.request
    most = request.get("MaxNumberOfMessages", 1)
    if not 1 <= most <= _MOST_ENTRIES:
        reason = f"Must be between 1 and {_MOST_ENTRIES}, if provided."
        raise invalid(most, "MaxNumberOfMessages", reason)
    visibility = whole(
        request,
        "VisibilityTimeout",
        most=_LONGEST_VISIBILITY,
        default=queue.attributes.visibility_timeout,
    )
    wait = whole(request, "WaitTimeSeconds", most=20, default=queue.attributes.receive_wait_seconds)
    attempt = request.get("ReceiveRequestAttemptId")
    if attempt is not None:
        check_token("ReceiveRequestAttemptId", attempt)
    show = _shown(request)
    if call.strike is not None:
        call.strike.arrive(queue)
        show = _befallen(call.strike, queue, show)
    if not wait:
        return show(queue.receive(most, visibility, attempt))
    exchange = call.exchange
    poll = Poll(
        most=most,
        visibility=visibility,
        alive=exchange.alive,
        finish=lambda messages: exchange.reply(succeeded(show(messages))),
        refuse=lambda refusal: exchange.reply(refused(refusal)),
        attempt=attempt,
    )
    queue.park(poll, wait)
    return Parked(queue, poll)


def delete_message(call: Call) -> Answer:
    """Delete one message."""
    return _delete(call.queue(), call.request)


def delete_message_batch(call: Call) -> Answer:
    """Delete up to ten messages, each for itself."""
    queue = call.queue()
    entries = _entries(call, "DeleteMessageBatchRequestEntry")
    return _each(call, entries, lambda entry: _delete(queue, entry))


def change_message_visibility(call: Call) -> Answer:
    """Set how long one message stays hidden from now."""
    return _change_visibility(call.queue(), call.request)


def change_message_visibility_batch(call: Call) -> Answer:
    """Set how long up to ten messages stay hidden, each for itself."""
    queue = call.queue()
    entries = _entries(call, "ChangeMessageVisibilityBatchRequestEntry")
    return _each(call, entries, lambda entry: _change_visibility(queue, entry))


def _parsed(queue: Queue, entry: Answer) -> Content | Refusal:
    try:
        content = Content.parse(entry)
    except Refusal as refusal:
        return refusal
    lack = queue.lacks(content)
    if lack is not None:  # AWS refuses the whole batch, by one code for both ids
        raise Refusal("InvalidParameterValueException", str(lack))
    return content


def _sent(queue: Queue, entry: Answer, content: Content, verdict: str) -> Answer:
    most = queue.attributes.maximum_message_size
    if content.size > most:
        text = f"One or more parameters {verdict}. Reason: Message must be shorter than {most} "
        raise Refusal("InvalidParameterValueException", f"{text}bytes.")
    delay = entry.get("DelaySeconds")
    if delay is not None and not 0 <= delay <= 900:
        raise invalid(delay, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")
    sent = queue.send(content, delay)
    answer = {"MessageId": sent.id, "MD5OfMessageBody": content.body_digest}
    if sent.sequence_number is not None:
        answer["SequenceNumber"] = sent.sequence_number
    if content.attributes_digest is not None:
        answer["MD5OfMessageAttributes"] = content.attributes_digest
    if content.trace_header is not None:
        answer["MD5OfMessageSystemAttributes"] = digest((content.trace_header,))
    return answer


def _delete(queue: Queue, entry: Answer) -> Answer:
    queue.delete(_required(entry, "ReceiptHandle"))
    return {}


def _change_visibility(queue: Queue, entry: Answer) -> Answer:
    _required(entry, "VisibilityTimeout")
    seconds = whole(entry, "VisibilityTimeout", most=_LONGEST_VISIBILITY, default=0)
    queue.change_visibility(_required(entry, "ReceiptHandle"), seconds)
    return {}


def _required(entry: Answer, name: str) -> Any:
    value = entry.get(name)
    if value is None:
        raise missing(name)
    return value


def _entries(call: Call, kind: str) -> list[Answer]:
    entries: list[Answer] = call.request.get("Entries", [])
    if not entries:
        raise Refusal("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > _MOST_ENTRIES:
        text = f"Maximum number of entries per request are {_MOST_ENTRIES}. "
        raise Refusal("TooManyEntriesInBatchRequest", f"{text}You have sent {len(entries)}.")
    seen = set()
    for entry in entries:
        name = entry.get("Id", "")
        if not _ENTRY_ID.fullmatch(name):
            text = "A batch entry id can only contain alphanumeric characters, hyphens and "
            text += "underscores. It can be at most 80 letters long."
            raise Refusal("InvalidBatchEntryId", text)
        if name in seen:
            raise Refusal("BatchEntryIdsNotDistinct", f"Id {name} repeated.")
        seen.add(name)
    return entries


def _each(call: Call, entries: list[Answer], act: Callable[[Answer], Answer]) -> Answer:
    successful: list[Answer] = []
    failed: list[Answer] = []
    for entry in entries:
        fault = call.strike.failure() if call.strike is not None else None
        try:
            done = act(entry) if fault is None or fault.after else {}
        except Refusal as refusal:
            failed.append(_failed(entry, refusal.of_entry()))
            continue
        if fault is not None:
            failed.append(fault.failed(entry["Id"]))
        else:
            successful.append({"Id": entry["Id"], **done})
    # AWS leaves a list out when it is empty.
    answer = {"Successful": successful, "Failed": failed}
    return {name: results for name, results in answer.items() if results}


def _failed(entry: Answer, refusal: Refusal) -> Answer:
    return {
        "Id": entry["Id"],
        "SenderFault": refusal.sender_fault,
        "Code": refusal.query_code,
        "Message": str(refusal),
    }


def _befallen(strike: Strike, queue: Queue, show: Show) -> Show:
    def shown(messages: list[Message]) -> Answer:
        answer = show(messages)
        strike.deliver(queue, messages)
        return answer

    return shown


def _shown(request: Answer) -> Show:
    system = {
        *request.get("AttributeNames", ()),
        *request.get("MessageSystemAttributeNames", ()),
    }
    selection = Selection(request.get("MessageAttributeNames", ()))

    def show(messages: list[Message]) -> Answer:
        shown = [_message(message, system, selection) for message in messages]
        return {"Messages": shown} if shown else {}

    return show


def _message(message: Message, system: set[str], selection: Selection) -> Answer:
    content = message.content
    shown: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.handle,
        "MD5OfBody": content.body_digest,
        "Body": content.body,
    }
    if system:
        shown["Attributes"] = _system_attributes(message, system)
    attributes, md5 = selection.of(content)
    if attributes:
        shown["MD5OfMessageAttributes"] = md5
        shown["MessageAttributes"] = {attribute.name: attribute.wire() for attribute in attributes}
    return shown


def _system_attributes(message: Message, names: set[str]) -> dict[str, str]:
    header = message.content.trace_header
    values = {
        "SenderId": _SENDER,
        "SentTimestamp": str(message.sent_at),
        "ApproximateReceiveCount": str(message.receive_count),
        "ApproximateFirstReceiveTimestamp": str(message.first_received_at),
        "AWSTraceHeader": header.value.decode() if header is not None else None,
        "MessageDeduplicationId": message.deduplication_id,
        "MessageGroupId": message.content.group_id,
        "SequenceNumber": message.sequence_number,
        "DeadLetterQueueSourceArn": message.source_arn,
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and ("All" in names or name in names)
    }
