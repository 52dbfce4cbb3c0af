"""
The calls: on the event loop where the client is plain, else by stock boto3 on its own threads.

Long polls have a client of their own, so that a delete or a visibility change never waits for a
connection that a parked poll holds.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from botocore import xform_name
from botocore.exceptions import BotoCoreError, ClientError
from opentelemetry.instrumentation.utils import suppress_instrumentation

from tracebaton.boto import session as own_session
from tracebaton.errors import ConfigurationError, QueueUnavailable, TracebatonError
from tracebaton.queue.fastpath import Cut, Direct, FastPath
from tracebaton.queue.message import Attribute, Outgoing, Received, Sent, received, request_entry
from tracebaton.queue.sqs.access import SqsAccess, client_of
from tracebaton.queue.sqs.answers import Entry, error_of, outcomes, sent
from tracebaton.queue.threads import DaemonThreads

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

__all__ = ["BATCH", "Sqs"]

#: Seconds an answer may take; a long poll gets its wait on top (aws-sdk-js#1005).
_READ_TIMEOUT = 10.0
#: Polls that may run at once.
_POLLS = 32
#: The most entries SQS takes in one batch call.
BATCH = 10

Result = TypeVar("Result")
#: Takes what a poll brought; False where nobody waits for it any more.
Deliver = Callable[[list[Received] | TracebatonError], bool]


class Sqs:
    """Asynchronous calls to SQS by boto3 in threads."""

    def __init__(self, access: SqsAccess, *, session: boto3.session.Session | None = None) -> None:
        """
        Make the clients; nothing is called yet.

        Args:
            session: Whose credentials and files the clients share, by default one of their own.

        Raises:
            ConfigurationError: boto3 finds no region, or a variable or a profile of it is wrong.
        """
        self._access = access
        try:
            session = session or own_session()
            self._actions = client_of(
                session, access, pool=access.threads, read_timeout=_READ_TIMEOUT
            )
            self._polls = client_of(session, access, pool=_POLLS, read_timeout=20 + _READ_TIMEOUT)
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
        return sent(entries, answer)

    async def delete(self, queue_url: str, handles: Sequence[str]) -> list[Entry]:
        """Delete up to ten messages and return what became of each."""
        entries = [{"Id": str(n), "ReceiptHandle": handle} for n, handle in enumerate(handles)]
        answer = await self._call("DeleteMessageBatch", QueueUrl=queue_url, Entries=entries)
        return outcomes(len(handles), answer)

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
        return outcomes(len(changes), answer)

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
            deliver(error_of(exc))
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
            deliver(error_of(exc))
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
            raise error_of(exc) from exc
        return answer


def _direct(client: "SQSClient", threads: DaemonThreads) -> Direct | None:
    path = FastPath.install(client)
    return None if path is None else Direct(client, path, threads, quietly=_unseen)


def _unseen(work: Callable[[], Result]) -> Result:
    """Run *work* out of sight of instrumentations: the spans of our calls are our own."""
    with suppress_instrumentation():
        return work()
