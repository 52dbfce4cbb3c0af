"""
The function that makes a call an audited one, for each kind of function.

A wrapper is of the kind it wraps, so that ``inspect`` and frameworks see no difference, and it adds
its own frame to a traceback and no other.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from functools import partial, update_wrapper
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from tracebaton.audit.calls import Call, Method

__all__ = ["AUDITED", "wrapper"]

#: Where a wrapper keeps the function it wraps.
AUDITED: Final = "__audited__"

#: The function that a call of *self* ends in, bound.
Resolve = Callable[[Any], Callable[..., Any]]


def wrapper(method: Method, resolve: Resolve) -> Callable[..., Any]:
    """Return the function that audits a call of *method* and makes it by *resolve*."""
    function = method.function
    if inspect.iscoroutinefunction(function):
        made = _coroutine(method, resolve)
    elif inspect.isasyncgenfunction(function):
        made = _async_steps(partial(_opened, method, resolve))
    elif inspect.isgeneratorfunction(function):
        made = _steps(partial(_opened, method, resolve))
    else:
        made = _plain(method, resolve)
    update_wrapper(made, function)
    setattr(made, AUDITED, function)
    return made


def _plain(method: Method, resolve: Resolve) -> Callable[..., Any]:
    def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        function, call = resolve(self), method.call(self, args, kwargs)
        with call:
            result = function(*args, **kwargs)
        if type(result) in _LATER:  # a decorated coroutine function: nothing has happened yet
            return _LATER[type(result)](call, result)
        call.succeeded(result)
        return _outside(self, function, result)

    return wrapper


def _coroutine(method: Method, resolve: Resolve) -> Callable[..., Any]:
    async def wrapper(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        function, call = resolve(self), method.call(self, args, kwargs)
        with call:
            result = await function(*args, **kwargs)
        call.succeeded(result)
        return _outside(self, function, result)

    return wrapper


def _outside(self: Any, function: Callable[..., Any], result: Any) -> Any:
    """Return *self* where a method of its target returned the target."""
    return self if result is getattr(function, "__self__", _NOBODY) else result


_NOBODY: Final = object()


async def _awaited(call: Call, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with call:
        result = await coroutine
    call.succeeded(result)
    return result


def _opened(
    method: Method, resolve: Resolve, self: Any, /, *args: Any, **kwargs: Any
) -> tuple[Call, Any]:
    """Return the call of a generator function and its generator, in which nothing ran yet."""
    call = method.call(self, args, kwargs)
    call.steps = True
    return call, resolve(self)(*args, **kwargs)


def _steps(opened: Callable[..., tuple[Call, Generator[Any, Any, Any]]]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call, steps = opened(*args, **kwargs)
        resume: Callable[[Any], Any] = steps.send
        item = value = None
        while True:
            with call:
                item = resume(value)
            if call.over:
                return call.result
            call.items += 1
            try:
                resume, value = steps.send, (yield item)
            except GeneratorExit:
                with call:
                    steps.close()
                call.succeeded(closed=True)
                raise
            except BaseException as exc:  # thrown in by the consumer: it is the generator's
                resume, value = steps.throw, exc

    return wrapper


def _async_steps(
    opened: Callable[..., tuple[Call, AsyncGenerator[Any, Any]]],
) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call, steps = opened(*args, **kwargs)
        resume: Callable[[Any], Any] = steps.asend
        item = value = None
        while True:
            with call:
                item = await resume(value)
            if call.over:
                return
            call.items += 1
            try:
                resume, value = steps.asend, (yield item)
            except GeneratorExit:
                with call:
                    await steps.aclose()
                call.succeeded(closed=True)
                raise
            except BaseException as exc:  # thrown in by the consumer: it is the generator's
                resume, value = steps.athrow, exc

    return wrapper


def _step_later(call: Call, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    call.steps = True
    found: Generator[Any, Any, Any] = _steps(lambda: (call, steps))()
    return found


def _async_step_later(call: Call, steps: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    call.steps = True
    found: AsyncGenerator[Any, Any] = _async_steps(lambda: (call, steps))()
    return found


#: What a plain function may return that has yet to run, and what watches over it.
_LATER: Final[Mapping[type, Callable[[Call, Any], Any]]] = {
    CoroutineType: _awaited,
    GeneratorType: _step_later,
    AsyncGeneratorType: _async_step_later,
}
