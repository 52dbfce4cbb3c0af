"""
The message: a CloudEvents 1.0 event in the JSON format.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. The trace
context of origin stands in extension attributes (CloudEvents "distributed tracing"), so that it
survives brokers and tools that drop message attributes.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic_core import PydanticSerializationError, from_json, to_json

from tracebaton.errors import UndecodableMessage
from tracebaton.semconv import BAGGAGE, TRACEPARENT, TRACESTATE

__all__ = [
    "MAX_DELAY",
    "SIGNATURE",
    "Propagate",
    "TaskEvent",
    "decode",
    "document_of",
    "encode",
    "event_of",
    "parse",
    "text_of",
    "written",
]

_SPEC_VERSION = "1.0"
#: The longest delay SQS knows, in seconds.
MAX_DELAY = 900
#: Half of a surrogate pair: JSON can escape one, and no store or exporter can write it.
_SURROGATE = re.compile("[\ud800-\udfff]")
#: The extension that holds the signature where it is no message attribute.
SIGNATURE = "signature"
#: The names under which the trace context stands in the envelope.
_CARRIER = (TRACEPARENT, TRACESTATE, BAGGAGE)
#: The members that CloudEvents requires, and all that are text.
_REQUIRED = ("id", "source", "type")
_TEXTS = frozenset({*_REQUIRED, "time", "correlationid", "userid", "schemaversion", *_CARRIER})

#: Whether the consumer's span is a child of the send span, a new trace that links it, or neither.
Propagate = Literal["parent", "link", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """
    What a producer tells a worker.

    Attributes:
        id: The task id; it survives every hop, unlike SQS's message id.
        source: Who sent it, a URI reference such as ``/tracebaton-api``.
        type: The task type.
        time: RFC 3339 moment of the enqueue.
        schema_version: Version of *data*'s schema.
        delay_seconds: The delay the sender asked for, to tell it from backlog.
        propagate: What the consumer makes of the trace in *carrier*.
        carrier: ``traceparent``, ``tracestate`` and ``baggage`` of origin.
    """

    id: str
    source: str
    type: str
    time: str
    data: Any
    correlation_id: str | None = None
    user_id: str | None = None
    schema_version: str = "1"
    delay_seconds: int = 0
    propagate: Propagate = "parent"
    carrier: Mapping[str, str] = field(default_factory=dict)


def encode(event: TaskEvent) -> str:
    """Return *event* as one JSON document; unset extensions are left out."""
    return written(document_of(event))


def document_of(event: TaskEvent) -> dict[str, Any]:
    """Return *event* as the object that its JSON document is."""
    document: dict[str, Any] = {
        "specversion": _SPEC_VERSION,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": event.time,
        "datacontenttype": "application/json",
        "schemaversion": event.schema_version,
    }
    if event.correlation_id is not None:
        document["correlationid"] = event.correlation_id
    if event.user_id is not None:
        document["userid"] = event.user_id
    if event.delay_seconds:
        document["delayseconds"] = event.delay_seconds
    if event.propagate != "parent":
        document["propagate"] = event.propagate
    document.update(event.carrier)
    document["data"] = event.data
    return document


def written(document: Mapping[str, Any]) -> str:
    """
    Return *document* as JSON text, all of it ASCII.

    Raises:
        ValueError: It holds a number that JSON does not know.
    """
    with suppress(PydanticSerializationError):  # it does not know lone surrogates
        text = to_json(document, ensure_ascii=True, inf_nan_mode="constants").decode("ascii")
        if "NaN" not in text and "Infinity" not in text:
            return text
    return json.dumps(document, separators=(",", ":"), allow_nan=False)


def decode(body: str) -> TaskEvent:
    """
    Read the event in *body*.

    Raises:
        UndecodableMessage: It is not JSON, not an object, or misses what CloudEvents requires.
    """
    return event_of(parse(body))


def parse(body: str) -> Any:
    """
    Read the JSON document in *body*.

    Raises:
        UndecodableMessage: It is not JSON, or nested too deep.
    """
    # Too deep for it, or no JSON at all; a TypeError is half a surrogate pair without its escape.
    with suppress(ValueError, TypeError):
        return from_json(body)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise UndecodableMessage("The message body is not JSON.") from exc


def event_of(document: Any) -> TaskEvent:
    """
    Return the event that *document* is.

    Raises:
        UndecodableMessage: It is not an object, or misses what CloudEvents requires.
    """
    if not isinstance(document, dict) or document.get("specversion") != _SPEC_VERSION:
        raise UndecodableMessage()
    # One walk over what is there: a call of `text_of()` for each that might be takes twice as long.
    texts = {
        name: value
        for name, value in document.items()
        if name in _TEXTS
        and isinstance(value, str)
        and (value.isascii() or _SURROGATE.search(value) is None)
    }
    if missing := [name for name in _REQUIRED if not texts.get(name)]:
        raise UndecodableMessage(f"The CloudEvents event lacks {', '.join(missing)}.")
    return TaskEvent(
        id=texts["id"],
        source=texts["source"],
        type=texts["type"],
        time=texts.get("time", ""),
        data=document.get("data"),
        correlation_id=texts.get("correlationid"),
        user_id=texts.get("userid"),
        schema_version=texts.get("schemaversion") or "1",
        delay_seconds=_delay(document["delayseconds"]) if "delayseconds" in document else 0,
        propagate=_propagate(document["propagate"]) if "propagate" in document else "parent",
        carrier={name: texts[name] for name in _CARRIER if texts.get(name)},
    )


def _propagate(value: object) -> Propagate:
    if value == "link":
        return "link"
    return "none" if value == "none" else "parent"


def _delay(value: object) -> int:
    """Return the delay that *value* claims, none where SQS could not have kept it."""
    if isinstance(value, bool) or not isinstance(value, int):
        return 0
    return value if 0 <= value <= MAX_DELAY else 0


def text_of(value: object) -> str | None:
    """Return *value* where it is Unicode text, None where a forger put something else."""
    if not isinstance(value, str) or (not value.isascii() and _SURROGATE.search(value)):
        return None
    return value
