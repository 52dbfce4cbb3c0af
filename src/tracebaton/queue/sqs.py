"""
The only door to SQS: stock boto3 on its own threads, and the seam where its errors become ours.

Long polls have a client of their own, so that a delete or a visibility change never waits for a
connection that a parked poll holds.
"""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import boto3
from botocore import xform_name
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from opentelemetry.instrumentation.utils import suppress_instrumentation

from tracebaton.errors import (
    ConfigurationError,
    MessageTooLarge,
    QueueUnavailable,
    TracebatonError,
)
from tracebaton.queue.fastpath import Cut, Direct, FastPath
from tracebaton.queue.message import Attribute, Outgoing, Received, Sent, received, request_entry
from tracebaton.queue.threads import DaemonThreads
from tracebaton.settings import Settings

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

__all__ = [
    "BATCH",
    "MESSAGE_LIMIT",
    "Entry",
    "Queue",
    "Received",
    "Sent",
    "Sqs",
    "SqsAccess",
    "blames_content",
]

#: Seconds a connection attempt may take.
_CONNECT_TIMEOUT = 3.0
#: Seconds an answer may take; a long poll gets its wait on top (aws-sdk-js#1005).
_READ_TIMEOUT = 10.0
#: Polls that may run at once.
_POLLS = 32
#: The most entries SQS takes in one batch call.
BATCH = 10
#: Error codes that say the receipt handle no longer owns the message.
_LOST = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})
#: Error codes that say something is wrong with what is sent.
_CONTENT = frozenset(
    {
        "BatchRequestTooLong",
        "InvalidAttributeValue",
        "InvalidMessageContents",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "MissingParameter",
        "UnsupportedOperation",
    }
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAccess:
    """
    How SQS is reached.

    Attributes:
        endpoint: URL of an emulator; None lets boto3 decide.
        region: AWS region; None lets boto3 decide.
        anonymous: Use made-up credentials, for an emulator on this machine.
        threads: Calls other than receives that may run at once.
        fast: Answer boto3's hot calls over connections of our own, where its client is plain.
    """

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    threads: int = 8
    fast: bool = True

    @classmethod
    def of(cls, settings: Settings) -> "SqsAccess":
        """Return the access that *settings* name: ``AWS_*``, or what the queue's URL says."""
        return cls(
            endpoint=settings.sqs_endpoint,
            region=settings.region,
            # boto3 would ask the instance metadata service for credentials nobody has.
            anonymous=settings.sqs_on_loopback and not settings.has_aws_credentials,
            fast=settings.fast_sqs,
        )


#: SQS's own limit on a message, body and attributes together, unless the queue says less.
MESSAGE_LIMIT = 1024 * 1024


class Queue:
    """One queue, by URL or by name; what SQS knows of it is asked when it is first needed."""

    def __init__(self, sqs: "Sqs", *, url: str | None = None, name: str | None = None) -> None:
        self._sqs = sqs
        self._url = url
        self.name = name or (url or "").rstrip("/").rsplit("/", 1)[-1]
        self._limit: int | None = None

    @property
    def fifo(self) -> bool:
        """Tell whether the queue is a FIFO queue, which SQS knows by its name."""
        return self.name.endswith(".fifo")

    async def url(self) -> str:
        """Return the queue's URL, looked up by name where only that was given."""
        if self._url is None:
            self._url = await self._sqs.queue_url(self.name)
        return self._url

    async def attributes(self) -> Mapping[str, str]:
        """Return the queue's attributes as they are now."""
        return await self._sqs.queue_attributes(await self.url())

    async def message_limit(self) -> int:
        """Return the bytes a message may have, body and attributes together."""
        if self._limit is None:
            attributes = await self.attributes()
            self._limit = int(attributes.get("MaximumMessageSize", MESSAGE_LIMIT))
        return self._limit


#: Takes what a poll brought; False where nobody waits for it any more.
Deliver = Callable[[list[Received] | TracebatonError], bool]
#: What became of one entry of a batch: done, gone for us, or worth another try.
Entry = Literal["ok", "lost", "again"]


class Sqs:
    """Asynchronous calls to SQS by boto3 in threads."""

    def __init__(self, access: SqsAccess) -> None:
        """
        Make the clients; nothing is called yet.

        Raises:
            ConfigurationError: boto3 finds no region, or a variable or a profile of it is wrong.
        """
        self._access = access
        try:
            session = boto3.session.Session()
            self._actions = _client(
                session, access, pool=access.threads, read_timeout=_READ_TIMEOUT
            )
            self._polls = _client(session, access, pool=_POLLS, read_timeout=20 + _READ_TIMEOUT)
        except (BotoCoreError, ValueError) as exc:
            raise ConfigurationError(f"AWS: {' '.join(str(exc).split())}") from exc
        # Not an executor: the interpreter would wait at its exit for a call that hangs.
        self._threads = DaemonThreads(access.threads, name="tracebaton-sqs")
        self._poll_threads = DaemonThreads(_POLLS, name="tracebaton-receive")
        self._direct = _direct(self._actions, self._threads) if access.fast else None
        self._direct_polls = _direct(self._polls, self._poll_threads) if access.fast else None
        #: Polls on the loop, which itself would keep no reference.
        self._parked: set[asyncio.Task[None]] = set()
        self._closed = False

    async def queue_url(self, name: str) -> str:
        """Return the URL of the queue called *name*."""
        answer = await self._call("GetQueueUrl", QueueName=name)
        return str(answer["QueueUrl"])

    async def queue_attributes(self, queue_url: str) -> Mapping[str, str]:
        """Return all attributes of the queue."""
        answer = await self._call("GetQueueAttributes", QueueUrl=queue_url, AttributeNames=["All"])
        return {str(name): value for name, value in answer.get("Attributes", {}).items()}

    async def send(
        self,
        queue_url: str,
        body: str,
        *,
        attributes: Mapping[str, str | Attribute],
        delay_seconds: int = 0,
        group_id: str | None = None,
        deduplication_id: str | None = None,
        trace_header: str | None = None,
    ) -> str:
        """Send one message and return its SQS message id."""
        request = request_entry(
            Outgoing(
                body=body,
                attributes=attributes,
                delay_seconds=delay_seconds,
                group_id=group_id,
                deduplication_id=deduplication_id,
                trace_header=trace_header,
            )
        )
        answer = await self._call("SendMessage", QueueUrl=queue_url, **request)
        return str(answer["MessageId"])

    async def send_batch(self, queue_url: str, messages: Sequence[Outgoing]) -> list[Sent]:
        """Send up to ten messages and return what became of each."""
        entries = [{"Id": str(n), **request_entry(one)} for n, one in enumerate(messages)]
        answer = await self._call("SendMessageBatch", QueueUrl=queue_url, Entries=entries)
        sent = {entry["Id"]: Sent(entry["MessageId"]) for entry in answer.get("Successful", ())}
        sent |= {entry["Id"]: _unsent(entry) for entry in answer.get("Failed", ())}
        untold = {"Code": "Unanswered", "Message": "SQS said nothing of the message."}
        return [sent.get(entry["Id"]) or _unsent(untold) for entry in entries]

    async def delete(self, queue_url: str, handles: Sequence[str]) -> list[Entry]:
        """Delete up to ten messages and return what became of each."""
        entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)]
        answer = await self._call("DeleteMessageBatch", QueueUrl=queue_url, Entries=entries)
        return _outcomes(len(handles), answer.get("Failed", ()))

    async def change_visibility(
        self, queue_url: str, changes: Sequence[tuple[str, int]]
    ) -> list[Entry]:
        """Set the visibility timeout of up to ten ``(receipt handle, seconds)`` pairs."""
        entries = [
            {"Id": str(n), "ReceiptHandle": handle, "VisibilityTimeout": seconds}
            for n, (handle, seconds) in enumerate(changes)
        ]
        answer = await self._call(
            "ChangeMessageVisibilityBatch", QueueUrl=queue_url, Entries=entries
        )
        return _outcomes(len(changes), answer.get("Failed", ()))

    def poll(
        self,
        queue_url: str,
        *,
        most: int,
        wait_seconds: int,
        visibility_seconds: int,
        deliver: Deliver,
    ) -> Callable[[], None]:
        """
        Receive once, without being waited for, hand the outcome to *deliver*, and return what
        closes the poll's connection.

        A poll can be left behind at stop; if it still gets messages then, *deliver* returns False
        and they are made visible again at once. boto3 cannot close a parked poll: without the fast
        path it has a daemon thread of its own, and nothing closes it.
        """
        request = {
            "QueueUrl": queue_url,
            "MaxNumberOfMessages": most,
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": visibility_seconds,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["All"],
        }
        if self._direct_polls is not None:
            cut = Cut()
            parked = self._receive(self._direct_polls, request, deliver, cut)
            task = asyncio.get_running_loop().create_task(parked, name="tracebaton-poll")
            self._parked.add(task)
            task.add_done_callback(self._parked.discard)
            return cut
        work = partial(self._receive_in_thread, request, deliver)
        name = "tracebaton-poll"
        threading.Thread(target=lambda: _unseen(work), name=name, daemon=True).start()
        return lambda: None

    async def _receive(
        self, calls: Direct, request: Mapping[str, Any], deliver: Deliver, cut: Cut
    ) -> None:
        try:
            answer = await calls.call("ReceiveMessage", request, cut=cut)
            messages = [received(message) for message in answer.get("Messages", ())]
        except Exception as exc:  # an edge: a poll that told nobody would stop the worker
            deliver(_ours(exc))
            return
        if deliver(messages):
            return
        with suppress(ClientError, BotoCoreError):  # they become visible when their timeout ends
            for message in messages:
                handle = {"ReceiptHandle": message.receipt_handle, "VisibilityTimeout": 0}
                again = {"QueueUrl": request["QueueUrl"], **handle}
                await calls.call("ChangeMessageVisibility", again)

    def _receive_in_thread(self, request: Mapping[str, Any], deliver: Deliver) -> None:
        try:
            answer = self._polls.receive_message(**request)
            messages = [received(message) for message in answer.get("Messages", ())]
        except Exception as exc:  # an edge, as above
            deliver(_ours(exc))
            return
        if deliver(messages):
            return
        with suppress(ClientError, BotoCoreError):  # as above
            for message in messages:
                self._polls.change_message_visibility(
                    QueueUrl=request["QueueUrl"],
                    ReceiptHandle=message.receipt_handle,
                    VisibilityTimeout=0,
                )

    async def close(self) -> None:
        """Close the connections; a call in flight is not waited for."""
        self._closed = True
        for task in self._parked:
            task.cancel()
        await asyncio.gather(*self._parked, return_exceptions=True)
        self._threads.close()
        self._poll_threads.close()
        self._actions.close()
        self._polls.close()
        for calls in (self._direct, self._direct_polls):
            if calls is not None:
                calls.close()
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn

    async def _call(self, operation: str, **request: Any) -> dict[str, Any]:
        if self._closed:
            raise QueueUnavailable("The connection to the queue is closed.")
        try:
            if self._direct is not None:
                return await self._direct.call(operation, request)
            call = partial(getattr(self._actions, xform_name(operation)), **request)
            answer: dict[str, Any] = await self._threads.run(lambda: _unseen(call))
        except (ClientError, BotoCoreError) as exc:
            raise _ours(exc) from exc
        return answer


def _direct(client: "SQSClient", threads: DaemonThreads) -> Direct | None:
    path = FastPath.install(client)
    return None if path is None else Direct(client, path, threads, quietly=_unseen)


def blames_content(error: TracebatonError) -> bool:
    """Tell whether a batch was refused as a whole for what stands in one of its messages."""
    cause = error.__cause__
    if isinstance(error, MessageTooLarge):
        return True
    return isinstance(cause, ClientError) and _code(cause.response.get("Error", {})) in _CONTENT


def _code(said: Mapping[str, Any]) -> str:
    """Return an error code without the namespaces that SQS has had for it."""
    return str(said.get("Code", "")).rsplit(".", 1)[-1]


def _unseen(work: Callable[[], Result]) -> Result:
    """Run *work* out of sight of instrumentations: the spans of our calls are our own."""
    with suppress_instrumentation():
        return work()


def _client(
    session: boto3.session.Session, access: SqsAccess, *, pool: int, read_timeout: float
) -> "SQSClient":
    made_up = "local" if access.anonymous else None
    return session.client(
        "sqs",
        endpoint_url=access.endpoint,
        region_name=access.region,
        aws_access_key_id=made_up,
        aws_secret_access_key=made_up,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            max_pool_connections=pool,
            retries={"mode": "standard", "total_max_attempts": 2},
            tcp_keepalive=True,
        ),
    )


def _ours(exc: Exception) -> TracebatonError:
    if not isinstance(exc, ClientError):
        error = QueueUnavailable()
        error.__cause__ = exc
        return error
    said = exc.response.get("Error", {})
    return _refusal(str(said.get("Code", "")), str(said.get("Message", "")), exc)


def _refusal(code: str, text: str, cause: Exception) -> TracebatonError:
    known = {"InvalidParameterValue", "BatchRequestTooLong"}
    if code.rsplit(".", 1)[-1] in known and "must be shorter" in text:
        return MessageTooLarge(text)
    error = QueueUnavailable()
    error.__cause__ = cause
    return error


def _unsent(entry: Mapping[str, Any]) -> Sent:
    code, text = str(entry.get("Code", "")), str(entry.get("Message", ""))
    error = _refusal(code, text, RuntimeError(f"{code}: {text}"))
    return Sent(None, error, again=not entry.get("SenderFault"))


def _outcomes(count: int, failed: Iterable[Mapping[str, Any]]) -> list[Entry]:
    outcomes: list[Entry] = ["ok"] * count
    for entry in failed:
        lost = _code(entry) in _LOST or bool(entry.get("SenderFault"))
        outcomes[int(entry["Id"])] = "lost" if lost else "again"
    return outcomes
