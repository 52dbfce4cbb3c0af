"""
A call that is audited: what is told of it, and that it is told once.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import trace

from tracebaton.audit.summary import Parameters, summary
from tracebaton.events import say
from tracebaton.redaction import redact_text, redact_value
from tracebaton.semconv import EVENT_AUDIT_CALL, EVENT_AUDIT_ERROR, EVENT_AUDIT_SUCCESS

__all__ = ["Call", "Method"]

#: Characters of an exception's message.
_MESSAGE: Final = 500

_log = logging.getLogger("tracebaton.audit")
#: The object whose audited method is running here; its calls of itself are not audited again.
_inside: ContextVar[object] = ContextVar("tracebaton_audit_inside", default=None)


class Method:
    """A public method of a service."""

    __slots__ = ("_always", "_parameters", "function", "name", "service")

    def __init__(
        self, service: str, name: str, function: Callable[..., Any], *, always: bool = False
    ) -> None:
        """
        Name the method.

        Args:
            service: What its events say as ``service``.
            name: What they say as ``method``.
            function: Whose kind and parameters the wrapper has.
            always: Each call comes from outside: the object itself calls another one.
        """
        self.service: str = redact_text(service)
        self.name: str = name
        self.function: Callable[..., Any] = function
        self._always = always
        self._parameters = Parameters(function, skip=1)

    def call(self, receiver: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Call":
        """Start a call; one that *receiver* makes of itself is heard by nobody."""
        if self._always:
            receiver = object()
        elif _inside.get() is receiver:
            return _Unheard(self, receiver)
        if (span := _heard()) is not None:
            said = {"arguments": self._parameters.summary(args, kwargs)}
            _tell(EVENT_AUDIT_CALL, self, said, span)
        return Call(self, receiver)


class Call:
    """
    One call, told about once when it is over, and entered for each step that it runs.

    Attributes:
        steps: It is a generator's.
        items: What it has yielded so far.
        over: There is no more.
        result: What it returned then.
    """

    __slots__ = ("_method", "_receiver", "_started", "_token", "items", "over", "result", "steps")

    def __init__(self, method: Method, receiver: object) -> None:
        self._method = method
        self._receiver = receiver
        self._started = time.perf_counter()
        self.items: int = 0
        self._token: Token[object]
        self.steps: bool = False
        self.over: bool = False
        self.result: Any = None

    def __enter__(self) -> Self:
        self._token = _inside.set(self._receiver)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        try:
            _inside.reset(self._token)
        except ValueError:  # a coroutine that was moved to another context half way through
            _inside.set(None)
        if exc is None:
            return False
        if self.steps and isinstance(exc, StopIteration | StopAsyncIteration):
            self.over, self.result = True, getattr(exc, "value", None)
            self.succeeded(self.result)
            return True
        self.failed(exc)
        return False

    def succeeded(self, result: Any = None, *, closed: bool = False) -> None:
        """Tell that the call is over and what came of it."""
        span = _heard()
        if span is None:
            return
        said: dict[str, Any] = {"duration_ms": self._duration()}
        if self.steps:
            said["items"] = self.items
        if closed:
            said["closed"] = True
        said["result"] = summary(self._method.name, result)
        _tell(EVENT_AUDIT_SUCCESS, self._method, said, span)

    def failed(self, exc: BaseException) -> None:
        """Tell that the call raised *exc*; the stack is the caller's to report."""
        said = {
            "duration_ms": self._duration(),
            "error_type": type(exc).__qualname__,
            "error": str(redact_value("error", exc))[:_MESSAGE],
        }
        span = trace.get_current_span()
        _tell(EVENT_AUDIT_ERROR, self._method, said, span, level=logging.WARNING)

    def _duration(self) -> float:
        return round((time.perf_counter() - self._started) * 1000, 3)


class _Unheard(Call):
    """A call that an audited object makes of itself."""

    __slots__ = ()

    def succeeded(self, result: Any = None, *, closed: bool = False) -> None:
        """Say nothing."""

    def failed(self, exc: BaseException) -> None:
        """Say nothing."""


def _heard() -> trace.Span | None:
    """Return the current span where it or the log listens."""
    span = trace.get_current_span()
    return span if _log.isEnabledFor(logging.INFO) or span.is_recording() else None


def _tell(
    event: str,
    method: Method,
    said: Mapping[str, Any],
    span: trace.Span,
    *,
    level: int = logging.INFO,
) -> None:
    """Write *event* to the current *span* and to the log; what is *said* has no secrets."""
    fields = {"service": method.service, "method": method.name, **said}
    if span.is_recording():
        span.add_event(event, _flat(fields))
    say(_log, event, fields, level=level, clean=True)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return *fields* as span attributes, which neither nest nor are None."""
    flat = {}
    for key, value in fields.items():
        if key == "arguments":
            for name, argument in value.items():
                flat[f"argument.{name}"] = "None" if argument is None else argument
        else:
            flat[key] = "None" if value is None else value
    return flat
