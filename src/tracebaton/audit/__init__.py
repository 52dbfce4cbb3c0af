"""
Who called what: an event before and after each public method of a service.

``audit.call``, then ``audit.success`` or ``audit.error``, on the current span and in the log, with
``service``, ``method``, ``duration_ms`` and a summary of arguments and result by name. Once a call
from outside: what a service calls of itself is its own business. Errors pass through unchanged.
"""

from collections.abc import Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, TypeVar, overload

from tracebaton.audit.calls import Method
from tracebaton.audit.stand_in import is_stand_in, public_functions, stand_in
from tracebaton.audit.wrappers import AUDITED, wrapper

__all__ = ["audited"]

Service = TypeVar("Service")


@overload
def audited(service: str) -> Callable[[Service], Service]: ...


@overload
def audited(service: Service) -> Service: ...


def audited(service: Any) -> Any:
    """
    Audit the public methods of *service*, a class or an instance.

    A class is changed in place and returned, so that this is a decorator; an instance gets a
    stand-in of the same type, and stays as it is. Static and class methods and properties are left
    alone. With a string, return a decorator whose events say that name as ``service`` in place of
    the class's.

    Raises:
        TypeError: *service* is a function, or a class that cannot be changed.
    """
    if isinstance(service, str):
        return partial(_audited, name=service)
    return _audited(service)


def _audited(service: Any, *, name: str | None = None) -> Any:
    if isinstance(service, FunctionType | MethodType):
        raise TypeError(f"audited() wraps a class or an instance, not the function {service!r}.")
    if isinstance(service, type):
        return _audited_class(service, name or service.__name__)
    if is_stand_in(service) or _is_audited(type(service)):
        return service
    return stand_in(service, service=name or type(service).__name__)


def _audited_class(cls: type, name: str) -> type:
    for attribute, found in public_functions(cls).items():
        function = getattr(found, AUDITED, found)  # a base may be audited as well
        method = Method(name, attribute, function)
        try:
            setattr(cls, attribute, wrapper(method, partial(MethodType, function)))
        except TypeError as exc:
            raise TypeError(f"{cls.__name__} cannot be changed: audit an instance of it.") from exc
    return cls


def _is_audited(cls: type) -> bool:
    return any(hasattr(function, AUDITED) for function in public_functions(cls).values())
