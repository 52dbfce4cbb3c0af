"""
The queues: whether they answer, and whether their policies are those the worker counts on.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from tracebaton.doctor.finding import Finding
from tracebaton.errors import ConfigurationError, TracebatonError
from tracebaton.queue.sqs import Queue, Sqs
from tracebaton.runtime import check_redrive
from tracebaton.settings import Settings

__all__ = ["queue_findings", "why"]

_DAY: Final = 86_400
#: What to do about an error code of AWS, by its last part.
_REMEDIES: Final = {
    "AccessDenied": "Allow the action in the role's IAM policy; deploy/iam has one for each role.",
    "AccessDeniedException": "Allow the action in the role's IAM policy, see deploy/iam.",
    "ExpiredToken": "The session token has run out: get new credentials.",
    "InvalidClientTokenId": "AWS does not know this access key: check AWS_ACCESS_KEY_ID.",
    "NoCredentialsError": "Set AWS_ACCESS_KEY_ID, AWS_PROFILE, or give the machine a role.",
    "NonExistentQueue": "Make the queue, or correct TRACEBATON_QUEUE_URL or AWS_REGION.",
    "QueueDoesNotExist": "Make the queue, or correct TRACEBATON_QUEUE_URL or AWS_REGION.",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY does not belong to AWS_ACCESS_KEY_ID.",
    "EndpointConnectionError": "Nothing answers there: check AWS_ENDPOINT_URL_SQS and the network.",
}
#: A receipt handle that no queue has given: what is refused for it was allowed to be asked.
_NO_HANDLE: Final = "tracebaton-doctor"


def why(error: BaseException) -> tuple[str, str]:
    """Return what an AWS call failed of, and what to do about it."""
    cause = error.__cause__ or error
    response = getattr(cause, "response", None)
    said = response.get("Error", {}) if isinstance(response, Mapping) else {}
    code = str(said.get("Code", type(cause).__name__)).rsplit(".", 1)[-1]
    text = " ".join(str(said.get("Message") or cause).split())
    return f"{code}: {text}", _REMEDIES.get(code, "Check credentials, region and network.")


async def queue_findings(sqs: Sqs, settings: Settings) -> AsyncIterator[Finding]:
    """Look at each queue that is worked on, at its DLQ, and at the quarantine queue."""
    queues = [Queue(sqs, url=one.queue) for one in settings.queue_urls] or [
        Queue(sqs, name=one.queue) for one in settings.queue_names
    ]
    for queue in queues:
        async for finding in _worked_on(sqs, queue, settings):
            yield finding
    async for finding in _quarantine(sqs, settings):
        yield finding


async def _worked_on(sqs: Sqs, queue: Queue, settings: Settings) -> AsyncIterator[Finding]:
    check = f"queue {queue.name}"
    try:
        attributes = await queue.attributes()
    except TracebatonError as exc:
        said, remedy = why(exc)
        yield Finding(check=check, state="failed", said=said, remedy=remedy)
        return
    try:
        check_redrive(queue.name, attributes, settings.max_attempts)
    except ConfigurationError as exc:
        remedy = "Set the queue's redrive policy, or TRACEBATON_MAX_ATTEMPTS."
        yield Finding(check=check, state="failed", said=exc.detail, remedy=remedy)
    else:
        waiting = attributes.get("ApproximateNumberOfMessages", "?")
        held = attributes.get("ApproximateNumberOfMessagesNotVisible", "?")
        yield Finding(
            check=check,
            state="ok",
            said=f"{waiting} messages wait, {held} are held; to the DLQ after"
            f" {settings.max_attempts} attempts, leases of {settings.visibility_seconds} s",
        )
    for finding in _policies(check, attributes, settings):
        yield finding
    async for finding in _permissions(sqs, queue):
        yield finding
    async for finding in _dlq(sqs, queue, attributes, settings):
        yield finding


def _policies(check: str, attributes: Mapping[str, str], settings: Settings) -> list[Finding]:
    found = []
    retention = int(attributes.get("MessageRetentionPeriod", 4 * _DAY))
    longest = settings.max_attempts * settings.retry_cap_seconds
    if retention < longest:
        said = f"messages are kept {retention} s, but all retries may take {longest:.0f} s"
        remedy = "Raise MessageRetentionPeriod, or a message ends before its last attempt."
        found.append(Finding(check=check, state="failed", said=said, remedy=remedy))
    plain = (
        not settings.sqs_on_loopback
        and attributes.get("SqsManagedSseEnabled", "true") != "true"
        and not attributes.get("KmsMasterKeyId")
    )
    if plain:
        remedy = "Set SqsManagedSseEnabled=true."
        said = "messages are not encrypted at rest"
        found.append(Finding(check=check, state="warning", said=said, remedy=remedy))
    return found


async def _permissions(sqs: Sqs, queue: Queue) -> AsyncIterator[Finding]:
    """Ask for what a worker has to be allowed, with a handle that no message has."""
    url = await queue.url()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "sqs:DeleteMessage": lambda: sqs.delete(url, [_NO_HANDLE]),
        "sqs:ChangeMessageVisibility": lambda: sqs.change_visibility(url, [(_NO_HANDLE, 0)]),
    }
    for action, call in calls.items():
        try:
            await call()
        except TracebatonError as exc:
            said, remedy = why(exc)
            if not said.startswith("AccessDenied"):
                continue  # refused for the handle, so asking was allowed
            yield Finding(
                check=f"permission {action}",
                state="warning",
                said=f"{queue.name}: {said}",
                remedy=f"A worker needs it, an API does not. {remedy}",
            )


async def _dlq(
    sqs: Sqs, queue: Queue, attributes: Mapping[str, str], settings: Settings
) -> AsyncIterator[Finding]:
    policy = json.loads(attributes.get("RedrivePolicy", "{}"))
    name = str(policy.get("deadLetterTargetArn", "")).rpartition(":")[2]
    if not name:
        return
    check = f"dlq {name}"
    given = settings.dlq_url
    if given and given.rstrip("/").rsplit("/", 1)[-1] != name and len(settings.queue_urls) == 1:
        said = f"{queue.name} moves messages to {name}, TRACEBATON_DLQ_URL is another queue"
        remedy = "Set TRACEBATON_DLQ_URL to the queue of the redrive policy."
        yield Finding(check=check, state="failed", said=said, remedy=remedy)
    try:
        dead = await Queue(sqs, name=name).attributes()
    except TracebatonError as exc:
        said, remedy = why(exc)
        yield Finding(check=check, state="failed", said=said, remedy=remedy)
        return
    kept = int(dead.get("MessageRetentionPeriod", 4 * _DAY))
    before = int(attributes.get("MessageRetentionPeriod", 4 * _DAY))
    if kept <= before and not queue.fifo:
        # A standard queue's message keeps the time it was first sent (SQS guide, dead-letter).
        said = f"keeps messages {kept / _DAY:.1f} days, the queue itself {before / _DAY:.1f}"
        remedy = "Raise its MessageRetentionPeriod, at best to 14 days: its clock runs on."
        yield Finding(check=check, state="warning", said=said, remedy=remedy)
    yield _lying(check, dead, "tracebaton dlq list")


async def _quarantine(sqs: Sqs, settings: Settings) -> AsyncIterator[Finding]:
    if settings.quarantine_url is None:
        yield Finding(
            check="quarantine",
            state="warning",
            said="TRACEBATON_QUARANTINE_URL is not set: what cannot be read is tried until it is"
            " in the DLQ",
            remedy="Make a queue for it and name it.",
        )
        return
    queue = Queue(sqs, url=settings.quarantine_url)
    check = f"quarantine {queue.name}"
    try:
        yield _lying(check, await queue.attributes(), "tracebaton quarantine list")
    except TracebatonError as exc:
        said, remedy = why(exc)
        yield Finding(check=check, state="failed", said=said, remedy=remedy)


def _lying(check: str, attributes: Mapping[str, str], command: str) -> Finding:
    count = int(attributes.get("ApproximateNumberOfMessages", 0))
    if not count:
        return Finding(check=check, state="ok", said="is empty")
    said = f"holds {count} message{'s' if count > 1 else ''}"
    return Finding(check=check, state="warning", said=said, remedy=f"Look: {command}")
