"""
What SQS's answers mean: errors that are ours, and what became of each entry of a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from botocore.exceptions import ClientError

from tracebaton.errors import MessageTooLarge, QueueUnavailable, TracebatonError
from tracebaton.queue.message import Sent

__all__ = ["Entry", "blames_content", "error_of", "outcomes", "sent"]

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
#: What became of one entry of a batch: done, gone for us, or worth another try.
Entry = Literal["ok", "lost", "again"]


def error_of(exc: Exception) -> TracebatonError:
    """Return ours for what a call of boto3 raised."""
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


def outcomes(count: int, answer: Mapping[str, Any]) -> list[Entry]:
    """Return what became of each entry; one that SQS says nothing of has to be tried again."""
    found: list[Entry] = ["again"] * count
    for entry in answer.get("Successful", ()):
        found[int(entry["Id"])] = "ok"
    for entry in answer.get("Failed", ()):
        lost = _code(entry) in _LOST or bool(entry.get("SenderFault"))
        found[int(entry["Id"])] = "lost" if lost else "again"
    return found


def blames_content(error: TracebatonError) -> bool:
    """Tell whether a batch was refused as a whole for what stands in one of its messages."""
    cause = error.__cause__
    if isinstance(error, MessageTooLarge):
        return True
    return isinstance(cause, ClientError) and _code(cause.response.get("Error", {})) in _CONTENT


def _code(said: Mapping[str, Any]) -> str:
    """Return an error code without the namespaces that SQS has had for it."""
    return str(said.get("Code", "")).rsplit(".", 1)[-1]


def sent(entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> list[Sent]:
    """Return what became of each entry of a send; one that SQS says nothing of failed."""
    found = {entry["Id"]: Sent(entry["MessageId"]) for entry in answer.get("Successful", ())}
    found |= {entry["Id"]: _unsent(entry) for entry in answer.get("Failed", ())}
    untold = {"Code": "Unanswered", "Message": "SQS said nothing of the message."}
    return [found.get(entry["Id"]) or _unsent(untold) for entry in entries]
