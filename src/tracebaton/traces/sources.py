"""
Where a trace is read from: the viewer, Jaeger's query API, or a file of OTLP JSON.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from tracebaton import semconv
from tracebaton.errors import NotFound, TracebatonError

__all__ = ["FileSource", "Found", "JaegerSource", "Source", "ViewerSource"]

_TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
#: Seconds one question to a backend may take.
_TIMEOUT: Final = 10.0
#: How far back Jaeger is asked for a task or correlation id, in seconds: a week.
_PAST: Final = 7 * 86_400
#: Where an id that is no trace id may stand, in the order of asking.
_LABELS: Final = (semconv.TASK_ID, semconv.CORRELATION_ID)

Found = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]


class Source(Protocol):
    """Finds a trace by one of its ids."""

    def find(self, identifier: str) -> Found:
        """
        Return the OTLP JSON document and the log lines of the newest trace with *identifier*.

        Args:
            identifier: A trace id, a task id or a correlation id.

        Raises:
            NotFound: No such trace is there.
            TracebatonError: The source does not answer, or not with a trace.
        """
        ...


class ViewerSource:
    """The viewer of ``tracebaton dev``."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def find(self, identifier: str) -> Found:
        """Return the newest trace of *identifier*; see `Source.find()`."""
        with _client(self._url, "the viewer", "is `tracebaton dev` running?") as ask:
            trace_id = self._trace_id(ask, identifier)
            document = ask(f"/api/traces/{trace_id}") if trace_id else None
            if document is None:
                raise _unknown(identifier, self._url)
            lines = ask(f"/api/traces/{trace_id}/logs") or {}
            return document, lines.get("logs", ())

    def _trace_id(self, ask: "_Ask", identifier: str) -> str | None:
        if _TRACE_ID.fullmatch(identifier) and ask(f"/api/traces/{identifier.lower()}"):
            return identifier.lower()
        for name in ("task_id", "correlation_id"):
            page = ask("/api/traces", {name: identifier, "limit": "1"}) or {}
            for trace in page.get("traces", ()):
                return str(trace["trace_id"])
        return None


class JaegerSource:
    """
    Jaeger's query API (https://www.jaegertracing.io/docs/latest/architecture/apis/).

    It has no log lines.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def find(self, identifier: str) -> Found:
        """Return the newest trace of *identifier*; see `Source.find()`."""
        with _client(self._url, "Jaeger", "is its query port right (16686)?") as ask:
            for answer in self._answers(ask, identifier):
                if answer is not None and answer.get("resourceSpans"):
                    return answer, ()
        raise _unknown(identifier, self._url)

    def _answers(self, ask: "_Ask", identifier: str) -> Iterator[Mapping[str, Any] | None]:
        if _TRACE_ID.fullmatch(identifier):
            yield ask(f"/api/v3/traces/{identifier.lower()}")
        services = (ask("/api/v3/services") or {}).get("services") or ()
        for label in _LABELS:
            # The search of version 3 passes over attributes (v1.76), that of version 1 does not.
            asked = [ask("/api/traces", _query(name, label, identifier)) for name in services]
            found = [trace for answer in asked for trace in (answer or {}).get("data") or ()]
            if found:
                newest = max(found, key=lambda trace: max(map(_started, trace["spans"])))
                yield ask(f"/api/v3/traces/{newest['traceID']}")


class FileSource:
    """A file of OTLP JSON, as the Collector's file exporter and `tracebaton trace --json` write."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, identifier: str) -> Found:
        """Return the newest trace of *identifier*; see `Source.find()`."""
        groups, logs = self._read()
        spans = [span for group in groups for span in _flat({"resourceSpans": [group]})]
        ids = {_TRACE_ID.fullmatch(identifier) and identifier.lower()} - {None}
        wanted = ids & {span["traceId"] for span in spans} or {
            span["traceId"] for span in spans if _labelled(span, identifier)
        }
        if not wanted:
            raise _unknown(identifier, str(self._path))
        newest = max(
            (span for span in spans if span["traceId"] in wanted),
            key=lambda span: int(span.get("startTimeUnixNano") or 0),
        )
        trace_id = newest["traceId"]
        document = {"resourceSpans": [_only(group, trace_id) for group in groups]}
        return document, [line for line in logs if line.get("trace_id") == trace_id]

    def _read(self) -> tuple[list[Any], list[Any]]:
        try:
            documents = list(_documents(self._path.read_text()))
            groups = [group for one in documents for group in one.get("resourceSpans") or ()]
            logs = [line for one in documents for line in one.get("logs") or ()]
            _ = [span["traceId"] for span in _flat({"resourceSpans": groups})]
        except OSError as exc:
            raise TracebatonError(f"{self._path}: {exc.strerror}") from exc
        except (ValueError, AttributeError, KeyError, TypeError) as exc:
            raise TracebatonError(f"{self._path}: is not OTLP JSON ({exc})") from exc
        return groups, logs


class _Ask:
    """GET a JSON document; None for a 404."""

    def __init__(self, client: httpx.Client, name: str, hint: str) -> None:
        self._client = client
        self._name = name
        self._hint = hint

    def __call__(self, path: str, params: Mapping[str, str] | None = None) -> Any:
        try:
            answer = self._client.get(path, params=params)
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            answer.raise_for_status()
            # Jaeger's gateway streams: one or more documents, each wrapped in ``result``.
            parts = [part.get("result", part) for part in _documents(answer.text)]
        except (httpx.HTTPError, ValueError, AttributeError) as exc:
            url = self._client.base_url
            raise TracebatonError(
                f"{self._name} at {url} does not answer as it should ({exc}): {self._hint}"
            ) from exc
        if len(parts) < 2:
            return parts[0] if parts else None
        return {"resourceSpans": [one for part in parts for one in part.get("resourceSpans", ())]}

    def __enter__(self) -> "_Ask":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _client(url: str, name: str, hint: str) -> _Ask:
    try:
        # A proxy of the environment is not the way to a backend on this machine.
        return _Ask(httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False), name, hint)
    except (httpx.InvalidURL, ValueError) as exc:
        raise TracebatonError(f"{url!r} is not a URL: {exc}") from exc


def _documents(text: str) -> Iterator[Any]:
    decoder, position = json.JSONDecoder(), 0
    while position < len(text):
        if text[position].isspace():
            position += 1
            continue
        document, position = decoder.raw_decode(text, position)
        yield document


def _query(service: str, label: str, value: str) -> dict[str, str]:
    past = f"{_PAST // 3600}h"
    return {"service": service, "tags": json.dumps({label: value}), "lookback": past, "limit": "20"}


def _started(span: Mapping[str, Any]) -> int:
    return int(span["startTime"])


def _flat(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        span
        for group in document.get("resourceSpans") or ()
        for scoped in group.get("scopeSpans") or ()
        for span in scoped.get("spans") or ()
    ]


def _labelled(span: Mapping[str, Any], identifier: str) -> bool:
    return any(
        item["key"] in _LABELS and item.get("value", {}).get("stringValue") == identifier
        for item in span.get("attributes") or ()
    )


def _only(group: Mapping[str, Any], trace_id: str) -> dict[str, Any]:
    scopes = [
        {
            **scoped,
            "spans": [one for one in scoped.get("spans") or () if one["traceId"] == trace_id],
        }
        for scoped in group.get("scopeSpans") or ()
    ]
    return {**group, "scopeSpans": scopes}


def _unknown(identifier: str, where: str) -> NotFound:
    return NotFound(f"no trace, task or correlation id {identifier} is known at {where}")
