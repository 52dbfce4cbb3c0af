"""
A line of JSON for programs.
"""

import json
import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext
from pydantic_core import PydanticSerializationError, to_json

from tracebaton.context import RequestStore, in_context
from tracebaton.logs.fields import LEVELS, OF_A_SERVICE, log_fields, timestamp
from tracebaton.redaction import redact_mapping, redact_text
from tracebaton.semconv import LOG_FIELDS, SERVICE_NAME

__all__ = ["JsonFormatter"]

#: Names that an event's own fields may have only by the rules of `log_fields()`.
_FIXED: Final = frozenset(LOG_FIELDS)


class JsonFormatter(logging.Formatter):
    """Render a record as one line of JSON."""

    def __init__(self, *, service: str) -> None:
        super().__init__()
        self._service = service
        #: The ids of the latest line: the next one is often of the same request or message.
        self._last: tuple[SpanContext, RequestStore, str] = (
            *(INVALID_SPAN_CONTEXT, RequestStore()),
            _ids(INVALID_SPAN_CONTEXT, RequestStore()),
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return the JSON line of *record*."""
        fields = log_fields(record, service=self._service)
        try:
            return _json(fields)
        except PydanticSerializationError:  # it does not know lone surrogates
            return json.dumps(fields, separators=(",", ":"))

    def line(
        self,
        logger: str,
        event: str,
        level: int,
        fields: Mapping[str, Any],
        *,
        clean: bool = False,
    ) -> str | None:
        """
        Return the line of an event that happens now, as `format()` would of its record.

        Most lines are such events, and this takes half the time: no record, no dict of all fields,
        and what is the same each time is written once. None where only `format()` can tell.

        Args:
            clean: The *fields* are JSON data without secrets already.
        """
        here = otel.get_current()
        store, span = in_context(here), trace.get_current_span(here).get_span_context()
        own = fields if clean else redact_mapping(fields)
        service = self._service
        if event in OF_A_SERVICE and "service" in own:
            own = {**own, SERVICE_NAME: service}
            service = own.pop("service")
        if not _FIXED.isdisjoint(own):
            return None
        try:
            last = self._last  # another thread may put its own in its place meanwhile
            if last[0] is not span or last[1] is not store:
                last = self._last = (span, store, _ids(span, store))
            return (
                f'{{"timestamp":"{timestamp(time.time())}",{_head(logger, event, level, service)}'
                f"{last[2]}{',' if own else ''}{_json(own)[1:]}"
            )
        except PydanticSerializationError:  # it does not know lone surrogates
            return None


def _json(value: object) -> str:
    # A quarter of the standard library's time, and the line is most of a log call's.
    return to_json(value, ensure_ascii=True).decode("ascii")


def _ids(span: SpanContext, store: RequestStore) -> str:
    """Return the fields that say which request or message a line is of."""
    ids = (
        f'"trace_id":"{span.trace_id:032x}","span_id":"{span.span_id:016x}"'
        if span.is_valid
        else '"trace_id":null,"span_id":null'
    )
    return (
        f'{ids},"correlation_id":{_text(store.correlation_id)},"user_id":{_text(store.user_id)}'
        f',"task_id":{_text(store.task_id)},"attempt":{_text(store.attempt)}'
    )


def _text(value: str | int | None) -> str:
    return "null" if value is None else _json(value)


@lru_cache(maxsize=512)
def _head(logger: str, event: str, level: int, service: str) -> str:
    """Return the fields that are the same whenever this event happens."""
    fields = {
        "level": LEVELS.get(level) or logging.getLevelName(level).lower(),
        "event": redact_text(event.rstrip("\n")),
        "logger": logger,
        "service": service,
    }
    return f"{_json(fields)[1:-1]},"
