"""
The parts of a transaction that are JSON data without secrets when sentry-sdk gets them.

Its serialiser would walk and copy each value of them once more, which was most of what an event
cost. They are taken out when all event processors have seen the whole and put back behind it.
"""

from collections.abc import Mapping, MutableMapping
from datetime import datetime
from typing import Any, Final

from tracebaton.redaction import redact_value
from tracebaton.telemetry.transactions import json_data

__all__ = ["Held"]

#: Where the parts wait, in the hint that the SDK passes along with an event.
_HINT: Final = "tracebaton_held"
#: The contexts that come from spans, and the SDK's own about Python.
_CONTEXTS: Final = ("otel", "trace", "runtime")
#: What the SDK writes about a child span, all of it text and numbers but for the moments and data.
_PLAIN: Final = frozenset(
    {"trace_id", "span_id", "parent_span_id", "same_process_as_parent", "op", "description"}
    | {"status", "origin", "hash"}
)
_MOMENTS: Final = ("start_timestamp", "timestamp")
#: What the SDK looks at between its serialiser and the envelope.
_READ: Final = frozenset({"type", "event_id", "contexts", "spans", "sdk"})


class Held:
    """Takes parts out of transactions in front of the SDK's serialiser, and puts them back."""

    def __init__(self) -> None:
        """Know nothing yet."""
        #: What the SDK says of itself, the same in each event once its integrations are set up.
        self._sdk: dict[str, Any] = {}

    def take_out(self, event: dict[str, Any], hint: dict[str, Any]) -> None:
        """Move what came from spans out of the *event* into its *hint*."""
        contexts = event["contexts"]
        held = {name: contexts.pop(name) for name in _CONTEXTS if name in contexts}
        hint[_HINT] = {}, held, [_child(span) for span in event["spans"]]
        event["spans"] = [{} for _ in event["spans"]]  # the SDK counts a missing one as dropped
        if self._sdk:
            event.setdefault("sdk", {})

    def take_plain(self, event: dict[str, Any], hint: dict[str, Any]) -> None:
        """Move what else of the masked *event* is plain text or a moment into its *hint* too."""
        held = hint[_HINT][0]
        for key in [key for key in event if key not in _READ]:
            value = event[key]
            if type(value) is str or (type(value) is dict and _is_text(value)):
                held[key] = event.pop(key)
            elif key in _MOMENTS and isinstance(value, datetime):
                held[key] = _moment(event.pop(key))

    def put_back(self, event: Any, hint: dict[str, Any]) -> Any:
        """Return the serialised *event* with what `take_out()` took."""
        if _HINT in hint:
            plain, contexts, spans = hint.pop(_HINT)
            event = {**event, **plain}
            event["contexts"] = {**event.get("contexts", {}), **contexts}
            event["spans"] = spans
            event["sdk"] = self._sdk = event.get("sdk") or self._sdk
        return event


def _is_text(values: Mapping[str, Any]) -> bool:
    return all(type(key) is type(value) is str for key, value in values.items())


def _child(span: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return a child *span* as JSON data: a processor of the application may have added to it."""
    for key in span.keys() - _PLAIN:
        value = span[key]
        if key in _MOMENTS and isinstance(value, datetime):
            span[key] = _moment(value)
        elif key == "data":
            span[key] = json_data(value)
        else:
            span[key] = redact_value(key, value)
    return span


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
