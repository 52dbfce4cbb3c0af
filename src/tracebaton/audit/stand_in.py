"""
An object that stands in for a service instance and audits what is called from outside.

The instance itself stays as it is: its calls of itself never pass here, and nobody else who holds
it is audited by surprise.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

from tracebaton.audit.calls import Method
from tracebaton.audit.wrappers import wrapper

__all__ = ["is_stand_in", "public_functions", "stand_in"]

#: What a stand-in has of its own, or what is about the class and not about the instance.
_OWN: Final = frozenset(
    {"__class__", "__new__", "__init__", "__init_subclass__", "__subclasshook__", "__del__"}
    | {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}
    | {"__dict__", "__slots__", "__weakref__"}
)


def public_functions(cls: type) -> dict[str, FunctionType]:
    """
    Return the public methods of *cls*, inherited ones too.

    Properties, static methods and class methods are none, nor is what is abstract.
    """
    return {
        name: found
        for name in dir(cls)
        if not name.startswith("_")
        and isinstance(found := inspect.getattr_static(cls, name), FunctionType)
        and not getattr(found, "__isabstractmethod__", False)
    }


class _StandIn:
    """What every stand-in does with the attributes of its target."""

    __slots__ = ("__weakref__", "_audited_target")
    _audited_target: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self._audited_target, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._audited_target, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._audited_target, name)


def is_stand_in(service: object) -> bool:
    """Tell whether *service* is audited already."""
    return issubclass(type(service), _StandIn)


def stand_in(target: Any, *, service: str) -> Any:
    """Return an object that is used like *target* and audits its public methods."""
    kind = type(target)
    namespace: dict[str, Any] = {
        "__slots__": (),
        "__class__": property(lambda self: kind),
    }
    for name in dir(kind):
        if name.startswith("__") and name.endswith("__") and name not in _OWN:
            found = getattr(kind, name)
            namespace[name] = _forwarded(kind, name) if callable(found) else found
    for name, function in public_functions(kind).items():
        method = Method(service, name, function, always=True)
        namespace[name] = wrapper(method, _target_method(name))
    made: Any = object.__new__(type(kind.__name__, (_StandIn,), namespace))
    object.__setattr__(made, "_audited_target", target)
    return made


def _target_method(name: str) -> Callable[[Any], Callable[..., Any]]:
    # By name and not by function: an attribute of the instance may replace it, in a test.
    return lambda self: getattr(self._audited_target, name)


def _forwarded(kind: type, name: str) -> Callable[..., Any]:
    """Return the special method *name*, which Python looks up on the type, as the target's."""
    special = getattr(kind, name)

    def forward(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        target = self._audited_target
        result = special(target, *args, **kwargs)
        return self if result is target else result  # ``with service as service``

    async def enter(self: Any, /) -> Any:
        target = self._audited_target
        result = await special(target)
        return self if result is target else result

    return enter if name == "__aenter__" else forward
