"""
One baggage header for three owners: the request store, Sentry's members, and whoever is trusted.

Reading and writing are apart from the question who may be believed, which `propagation` answers.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from opentelemetry import baggage
from opentelemetry import context as otel
from opentelemetry.context import Context

from tracebaton.context import custom_fields, in_context, valid_correlation_id
from tracebaton.semconv import (
    BAGGAGE_CORRELATION_ID,
    BAGGAGE_PREFIX,
    BAGGAGE_TASK_ID,
    BAGGAGE_USER_ID,
    SENTRY_BAGGAGE_PREFIX,
)
from tracebaton.w3c import Member, encode_member

__all__ = [
    "Owned",
    "header",
    "incoming_sentry_members",
    "owned",
    "store_fields",
    "with_foreign",
    "with_sentry",
]

#: Bytes and members of one outbound header (W3C Baggage, limits).
_BYTES = 8192
_MEMBERS = 180

_SENTRY_KEY = otel.create_key("tracebaton-sentry-members")
_FOREIGN_KEY = otel.create_key("tracebaton-foreign-members")


def header(context: Context, sentry: Sequence[tuple[str, str]]) -> str:
    """
    Return the header to send from *context*, as much of it as fits.

    Our own members come first, then Sentry's, then foreign ones.
    """
    own, foreign = _store_members(context), _foreign_members(context)
    if not sentry and not foreign and len(own) <= _MEMBERS:  # most messages
        text = ",".join(own)
        if len(text) <= _BYTES:
            return text
    return _fit(
        [[member] for member in own],
        # Half a dynamic sampling context would be read as another one.
        [[f"{key}={quote(value, safe=':')}" for key, value in sentry]],
        [[member] for member in foreign],
    )


class Owned(NamedTuple):
    """
    The members of a header by their owners.

    Attributes:
        store: Those of the request store, without their prefix.
        sentry: Keys with their prefix, and values.
        foreign: What is neither ours nor Sentry's.
    """

    store: dict[str, str]
    sentry: tuple[tuple[str, str], ...]
    foreign: Sequence[Member]


def owned(members: Iterable[Member]) -> Owned:
    """Return *members* by their owners."""
    store: dict[str, str] = {}
    sentry: list[tuple[str, str]] = []
    foreign: list[Member] = []
    for member in members:
        key, value, _ = member
        if key.startswith(BAGGAGE_PREFIX):
            store[key.removeprefix(BAGGAGE_PREFIX)] = value
        elif key.startswith(SENTRY_BAGGAGE_PREFIX):
            sentry.append((key, value))
        else:
            foreign.append(member)
    return Owned(store, tuple(sentry), foreign)


def store_fields(store: dict[str, str], *, own: bool) -> dict[str, str]:
    """Return what of *store* is believed; a message that is not our *own* names no user."""
    fields = store.copy()
    if valid_correlation_id(fields.get("correlation_id")) is None:
        fields.pop("correlation_id", None)
    if not own:
        fields.pop("user_id", None)
    return fields


def with_sentry(context: Context, members: tuple[tuple[str, str], ...]) -> Context:
    """Return *context* with the Sentry *members*, frozen."""
    return otel.set_value(_SENTRY_KEY, members, context) if members else context


def incoming_sentry_members(context: Context | None) -> tuple[tuple[str, str], ...]:
    """Return the frozen Sentry members that came in with *context*."""
    members = otel.get_value(_SENTRY_KEY, context)
    return members if isinstance(members, tuple) else ()


def with_foreign(context: Context, members: Sequence[Member]) -> Context:
    """Return *context* with the foreign *members* as OpenTelemetry's baggage."""
    if not members:
        return context
    for member in members:
        context = baggage.set_baggage(member.key, member.value, context)
    raw = {member.key: member for member in members}
    return otel.set_value(_FOREIGN_KEY, raw, context)


def _store_members(context: Context) -> list[str]:
    store = in_context(context)
    own = [
        (BAGGAGE_CORRELATION_ID, store.correlation_id),
        (BAGGAGE_USER_ID, store.user_id),
        (BAGGAGE_TASK_ID, store.task_id),
        *((BAGGAGE_PREFIX + name, value) for name, value in custom_fields(store).items()),
    ]
    members = [encode_member(key, value) for key, value in own if value is not None]
    return [member for member in members if member is not None]


def _foreign_members(context: Context) -> list[str]:
    """Return OTel's baggage, each untouched member in the very text it came in."""
    came = otel.get_value(_FOREIGN_KEY, context)
    raw = came if isinstance(came, dict) else {}
    members = []
    for key, value in baggage.get_all(context).items():
        if key.startswith((BAGGAGE_PREFIX, SENTRY_BAGGAGE_PREFIX)):
            continue
        known = raw.get(key)
        text = known.raw if known and known.value == value else encode_member(key, str(value))
        if text is not None:
            members.append(text)
    return members


def _fit(*parts: Iterable[Sequence[str]]) -> str:
    """Return the header of all groups that fit, a group whole or not at all, in order."""
    chosen: list[str] = []
    size = 0
    for group in (group for part in parts for group in part if group):
        grown = size + sum(len(member) + 1 for member in group)
        if grown - 1 <= _BYTES and len(chosen) + len(group) <= _MEMBERS:
            chosen += group
            size = grown
    return ",".join(chosen)
