"""
Failures as Sentry events, once each, and units of work kept apart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import sentry_sdk
from sentry_sdk.scope import Scope, ScopeType, use_isolation_scope, use_scope
from sentry_sdk.utils import event_from_exception

from tracebaton.context import current
from tracebaton.problems import Outcome
from tracebaton.telemetry.dsc import DynamicSampling
from tracebaton.telemetry.failures import describe_failure
from tracebaton.telemetry.outages import Outages

__all__ = ["SentryReporter", "first_report"]

#: Where an exception keeps the trace and the event it was reported with.
_REPORTED: Final = "_tracebaton_event"


def first_report(exc: BaseException, trace_id: str | None, event_id: str) -> bool:
    """Mark *exc* as reported in this trace; a cached object raised in another one is new."""
    seen = getattr(exc, _REPORTED, None)
    if seen is not None and (None in (seen[0], trace_id) or seen[0] == trace_id):
        return False
    with suppress(AttributeError, TypeError):  # an exception with slots cannot be marked
        setattr(exc, _REPORTED, (trace_id, event_id))
    return True


class SentryReporter:
    """Failures as Sentry events, and units of work kept apart."""

    def __init__(
        self, outages: Outages, wake: Callable[[], None], members: DynamicSampling
    ) -> None:
        self._members = members
        self._outages = outages
        self._wake = wake
        # A copy of an empty scope costs half of a new one, which reads the environment each time.
        self._unit, self._inner = Scope(ty=ScopeType.ISOLATION), Scope(ty=ScopeType.CURRENT)

    @contextmanager
    def isolated(self) -> Iterator[None]:
        """Start a unit of work with nothing inherited: no tag, user or breadcrumb."""
        # New scopes and not the SDK's isolation_scope(): that one copies what is there.
        with use_isolation_scope(self._unit.fork()) as scope, use_scope(self._inner.fork()):
            scope.set_new_propagation_context()
            yield

    def report(
        self,
        exc: BaseException,
        outcome: Outcome,
        *,
        mechanism: str,
        tags: Mapping[str, str],
        failures: Sequence[Mapping[str, Any]] = (),
    ) -> str | None:
        """Send *exc* once and return its event's id."""

        def described() -> tuple[Any, dict[str, Any]]:
            event, hint = event_from_exception(
                exc,
                client_options=sentry_sdk.get_client().options,
                mechanism={"type": mechanism, "handled": False},
            )
            whole = describe_failure(
                event,
                outcome,
                current(),
                mechanism=mechanism,
                tags=tags,
                failures=failures,
                transaction=self._members.current_transaction(),
            )
            return whole, hint

        if outcome.outage:
            return self._outage(outcome.code, described)
        event, hint = described()
        sent = sentry_sdk.capture_event(event, hint=hint)
        return sent or getattr(exc, _REPORTED, (None, None))[1]

    def _outage(self, code: str, described: Callable[[], tuple[Any, dict[str, Any]]]) -> str:
        def opened() -> tuple[str, Callable[[int], Any]]:
            event, hint = described()
            if "trace" in event["contexts"]:  # it leaves later, from another thread
                header = self._members.current_header()
                event["contexts"]["trace"]["dynamic_sampling_context"] = header
            scope = sentry_sdk.get_isolation_scope()
            return event["event_id"], partial(_send_outage, event, hint, scope)

        event_id = self._outages.add(code, opened)
        self._wake()
        return event_id


def _send_outage(event: Any, hint: dict[str, Any], scope: Scope, count: int) -> None:
    event["contexts"]["outage"] = {"count": count}
    with use_isolation_scope(scope), use_scope(Scope(ty=ScopeType.CURRENT)):
        sentry_sdk.capture_event(event, hint=hint)
