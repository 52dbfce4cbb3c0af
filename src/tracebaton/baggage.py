"""
One baggage header for three owners: the request store, Sentry's members, and whoever is trusted.

Reading and writing are apart from the question who may be believed, which `propagation` answers.
"""

from collections.abc import Iterable, Sequence
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
    "header",
    "incoming_sentry_members",
    "is_foreign",
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


def store_fields(members: Iterable[Member], *, own: bool) -> dict[str, str]:
    """Return the store's fields among *members*; a message that is not our *own* names no user."""
    fields = {
        member.key.removeprefix(BAGGAGE_PREFIX): member.value
        for member in members
        if member.key.startswith(BAGGAGE_PREFIX)
    }
    if valid_correlation_id(fields.get("correlation_id")) is None:
        fields.pop("correlation_id", None)
    if not own:
        fields.pop("user_id", None)
    return fields


def is_foreign(member: Member) -> bool:
    """Tell whether *member* is neither ours nor Sentry's."""
    return not member.key.startswith((BAGGAGE_PREFIX, SENTRY_BAGGAGE_PREFIX))


def with_sentry(context: Context, members: Iterable[Member]) -> Context:
    """Return *context* with the Sentry members among *members*, frozen."""
    frozen = tuple((m.key, m.value) for m in members if m.key.startswith(SENTRY_BAGGAGE_PREFIX))
    return otel.set_value(_SENTRY_KEY, frozen, context) if frozen else context


def incoming_sentry_members(context: Context | None) -> tuple[tuple[str, str], ...]:
    """Return the frozen Sentry members that came in with *context*."""
    members = otel.get_value(_SENTRY_KEY, context)
    return members if isinstance(members, tuple) else ()


def with_foreign(context: Context, members: Iterable[Member]) -> Context:
    """Return *context* with the foreign ones among *members* as OpenTelemetry's baggage."""
    passing = [member for member in members if is_foreign(member)]
    for member in passing:
        context = baggage.set_baggage(member.key, member.value, context)
    raw = {member.key: member for member in passing}
    return otel.set_value(_FOREIGN_KEY, raw, context) if raw else context


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
