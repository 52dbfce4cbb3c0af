"""
The grammar of the headers that carry a trace: pure functions from text to values and back.

W3C Trace Context level 2 and Baggage, read to the letter, plus ``sentry-trace`` and AWS's trace
header. Where letter and the W3C's own validation suite differ, the suite decides. What does not fit
the grammar is absent: nothing here raises or logs, because the text is an outsider's.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from opentelemetry.trace import SpanContext, TraceFlags, TraceState, format_span_id, format_trace_id

__all__ = [
    "Member",
    "encode_member",
    "format_sentry_trace",
    "format_traceparent",
    "format_tracestate",
    "parse_aws_trace_header",
    "parse_baggage",
    "parse_sentry_trace",
    "parse_traceparent",
    "parse_tracestate",
]

_OWS = " \t"
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
#: The flags level 2 defines: sampled and random-trace-id. Others have to be sent as 0.
_KNOWN_FLAGS = 0x03

_KEY = r"[a-z0-9][a-z0-9_\-*/@]{0,255}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_STATE_MEMBER = re.compile(f"({_KEY})=({_VALUE})")
_STATE_MEMBERS = 32
#: Characters of tracestate that everybody has to pass on; longer ones lose entries, the long first.
_STATE_LENGTH = 512
_STATE_LONG_ENTRY = 128

_SENTRY_TRACE = re.compile(r"([0-9a-f]{32})-([0-9a-f]{16})(?:-([01]))?")
_AWS_ROOT = re.compile(r"1-([0-9a-f]{8})-([0-9a-f]{24})")
_AWS_PARENT = re.compile(r"[0-9a-f]{16}")

#: What percent-encoding leaves as it is, a colon among it.
_PLAIN = re.compile(r"[A-Za-z0-9_.~:\-]*")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_OCTETS = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_BAGGAGE_MEMBER = re.compile(rf"({_TOKEN})[ \t]*=[ \t]*({_OCTETS})[ \t]*(;.*)?")
#: Members and bytes that are read of an inbound baggage header; the rest is not looked at.
_BAGGAGE_MEMBERS = 180
_BAGGAGE_BYTES = 8192


class Member(NamedTuple):
    """One baggage member: its key, its decoded value, and the text it came as."""

    key: str
    value: str
    raw: str


class _State(TraceState):
    """A tracestate of the level 2 grammar; the SDK's own class drops keys such as ``a@@b``."""

    def __init__(self, members: dict[str, str]) -> None:
        super().__init__()
        # The base class filters its entries by the level 1 grammar and logs what it drops.
        self._dict = members


def parse_traceparent(values: Sequence[str]) -> SpanContext | None:
    """Return the remote parent that the header *values* name; two headers name none."""
    if len(values) != 1:
        return None
    match = _TRACEPARENT.fullmatch(values[0].strip(_OWS))
    if match is None:
        return None
    version, trace_id, span_id, flags, tail = match.groups()
    if version == "ff" or (version == "00" and tail):
        return None
    return _remote(trace_id, span_id, int(flags, 16) & _KNOWN_FLAGS)


def _remote(trace_id: str, span_id: str, flags: int) -> SpanContext | None:
    parent = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags)
    )
    return parent if parent.is_valid else None


def format_traceparent(span: SpanContext) -> str:
    """Return the ``traceparent`` of *span* with its current flags."""
    ids = f"{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}"
    return f"00-{ids}-{span.trace_flags & _KNOWN_FLAGS:02x}"


def parse_tracestate(values: Iterable[str]) -> TraceState:
    """
    Return the combined state of all header *values*, empty if one member breaks the grammar.

    Of a repeated key the first stays: it is the most recent one.
    """
    members: dict[str, str] = {}
    count = 0
    for text in ",".join(values).split(","):
        member = text.strip(_OWS)
        if not member:
            continue
        match = _STATE_MEMBER.fullmatch(member)
        count += 1
        if match is None or count > _STATE_MEMBERS:
            return TraceState()
        members.setdefault(match[1], match[2])
    return _State(members)


def format_tracestate(state: TraceState) -> str:
    """Return the header of *state*, cut by whole entries to what everybody passes on."""
    entries = [f"{key}={value}" for key, value in state.items()]
    if len(",".join(entries)) > _STATE_LENGTH:
        entries = [entry for entry in entries if len(entry) <= _STATE_LONG_ENTRY] or entries
    while len(entries) > 1 and len(",".join(entries)) > _STATE_LENGTH:
        entries.pop()
    return ",".join(entries)


def parse_sentry_trace(values: Sequence[str]) -> tuple[SpanContext, bool | None] | None:
    """Return the remote parent of ``sentry-trace`` and its decision, None where it is deferred."""
    match = _SENTRY_TRACE.fullmatch(values[0].strip(_OWS)) if len(values) == 1 else None
    if match is None:
        return None
    sampled = None if match[3] is None else match[3] == "1"
    parent = _remote(match[1], match[2], int(bool(sampled)))
    return (parent, sampled) if parent else None


def format_sentry_trace(span: SpanContext) -> str:
    """Return the ``sentry-trace`` of *span*, which says ``-0`` for an unsampled one."""
    ids = f"{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}"
    return f"{ids}-{int(span.trace_flags.sampled)}"


def parse_aws_trace_header(value: str | None) -> SpanContext | None:
    """Return the remote parent of an ``AWSTraceHeader``: ``Root=1-…;Parent=…;Sampled=1``."""
    if value is None:
        return None
    fields = dict(part.strip().partition("=")[::2] for part in value.split(";"))
    root = _AWS_ROOT.fullmatch(fields.get("Root", ""))
    parent = _AWS_PARENT.fullmatch(fields.get("Parent", ""))
    if root is None or parent is None:
        return None
    return _remote(root[1] + root[2], parent[0], int(fields.get("Sampled") == "1"))


def parse_baggage(values: Iterable[str]) -> list[Member]:
    """Return the well-formed members of all header *values*, in order, up to the limits."""
    header = ",".join(values)
    if len(header) > _BAGGAGE_BYTES:  # the member at the cut is not a whole one
        header = header[: _BAGGAGE_BYTES + 1].rpartition(",")[0]
    members: dict[str, Member] = {}
    for text in header.split(",")[:_BAGGAGE_MEMBERS]:
        raw = text.strip(_OWS)
        match = _BAGGAGE_MEMBER.fullmatch(raw)
        if match is not None:
            key, value = match[1], match[2]
            members.setdefault(key, Member(key, unquote(value) if "%" in value else value, raw))
    return list(members.values())


def encode_member(key: str, value: str) -> str | None:
    """
    Return ``key=value`` with *value* percent-encoded, None where *key* cannot be a key.

    A space is ``%20``, never ``+``: other languages' readers take a plus literally.
    """
    if not _is_token(key):
        return None
    return f"{key}={value if _PLAIN.fullmatch(value) else quote(value, safe=':')}"


@lru_cache(maxsize=256)
def _is_token(key: str) -> bool:
    return re.fullmatch(_TOKEN, key) is not None
