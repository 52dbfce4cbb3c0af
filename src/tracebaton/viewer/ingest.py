"""
The OTLP/HTTP intake: ``POST /v1/traces`` and ``POST /v1/logs``.

Protobuf and JSON, plain or gzip, answered in the encoding of the request as the protocol asks
(https://opentelemetry.io/docs/specs/otlp/#otlphttp): an export response or a ``google.rpc.Status``.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from anyio import to_thread
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import (  # type: ignore[import-untyped]  # it has no py.typed
    INVALID_ARGUMENT,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # it has no py.typed
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from pydantic_core import from_json
from starlette.requests import Request
from starlette.responses import Response

from tracebaton.errors import (
    DependencyError,
    MalformedBody,
    PayloadTooLarge,
    TracebatonError,
    UnsupportedMediaType,
)
from tracebaton.viewer.otlp_json import parsed
from tracebaton.viewer.plain_spans import json_span_rows
from tracebaton.viewer.rows import log_rows, span_rows
from tracebaton.viewer.spans import SpanStore

__all__ = ["MAX_BODY", "post_logs", "post_traces"]

#: Bytes of one request, as sent and as decompressed.
MAX_BODY: Final = 10_000_000
PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"


class Export(NamedTuple):
    """One request as it came in."""

    body: bytes
    encoding: str
    is_json: bool


async def post_traces(request: Request) -> Response:
    """Store the spans of one export request."""
    return await _intake(request, _store_spans)


async def post_logs(request: Request) -> Response:
    """Store the log lines of one export request."""
    return await _intake(request, _store_lines)


async def _intake(request: Request, keep: Callable[[SpanStore, Export], Message]) -> Response:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_json = media_type != PROTOBUF
    try:
        if media_type not in (PROTOBUF, JSON):
            raise UnsupportedMediaType(f"an OTLP request is {PROTOBUF} or {JSON}")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        export = Export(await _read(request), encoding, is_json)
        # Off the event loop: ten megabytes of JSON are seconds of work.
        answer = await to_thread.run_sync(keep, request.app.state.store, export)
    except TracebatonError as exc:
        return _refusal(exc, is_json=is_json)
    return _response(answer, is_json=is_json)


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MAX_BODY:
        raise PayloadTooLarge(_too_large())
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise PayloadTooLarge(_too_large())
    return bytes(body)


def _store_spans(store: SpanStore, export: Export) -> Message:
    with _read_as(ExportTraceServiceRequest):
        body = _decompress(export)
        if export.is_json:
            spans, rejected = json_span_rows(from_json(body))
        else:
            spans, rejected = span_rows(ExportTraceServiceRequest.FromString(body))
    store.submit(spans=spans)
    if not rejected:
        return ExportTraceServiceResponse()
    partial = ExportTracePartialSuccess(
        rejected_spans=rejected, error_message="spans without a valid trace id and span id"
    )
    return ExportTraceServiceResponse(partial_success=partial)


def _store_lines(store: SpanStore, export: Export) -> Message:
    with _read_as(ExportLogsServiceRequest):
        body = _decompress(export)
        if export.is_json:
            request = parsed(from_json(body), ExportLogsServiceRequest())
        else:
            request = ExportLogsServiceRequest.FromString(body)
    store.submit(lines=log_rows(request))
    return ExportLogsServiceResponse()


@contextmanager
def _read_as(kind: type[Message]) -> Iterator[None]:
    """Refuse a body that is no *kind*."""
    try:
        yield
    except (DecodeError, ValueError) as exc:
        raise MalformedBody(f"the body is no {kind.DESCRIPTOR.name}") from exc


def _decompress(export: Export) -> bytes:
    if export.encoding in ("", "identity"):
        return export.body
    if export.encoding != "gzip":
        raise UnsupportedMediaType("an OTLP request is sent plain or with gzip")
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(export.body, MAX_BODY + 1)
    except zlib.error as exc:
        raise MalformedBody("the body is no gzip stream") from exc
    if len(plain) > MAX_BODY:
        raise PayloadTooLarge(_too_large())
    if not stream.eof or stream.unused_data:
        raise MalformedBody("the body is not one whole gzip stream")
    return plain


def _too_large() -> str:
    return f"an OTLP request has up to {MAX_BODY} bytes, decompressed too"


def _refusal(exc: TracebatonError, *, is_json: bool) -> Response:
    code = {413: RESOURCE_EXHAUSTED, 503: UNAVAILABLE}.get(exc.status, INVALID_ARGUMENT)
    response = _response(Status(code=code, message=exc.detail), is_json=is_json)
    response.status_code = exc.status
    if isinstance(exc, DependencyError):
        response.headers["retry-after"] = str(int(exc.retry_after or 1))
    return response


def _response(message: Message, *, is_json: bool) -> Response:
    if not is_json:
        return Response(message.SerializeToString(), media_type=PROTOBUF)
    return Response(json.dumps(MessageToDict(message)), media_type=JSON)
