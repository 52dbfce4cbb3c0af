"""What is told about the public methods of a service, and that nothing else changes."""

import asyncio
import collections
import contextlib
import contextvars
import copy
import inspect
import json
import logging
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar, Protocol, runtime_checkable
from uuid import UUID

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tracebaton.audit import audited
from tracebaton.audit.summary import summary
from tracebaton.context import RequestStore, entered
from tracebaton.logs import log_fields

SECRET = "c4n4ry-Hunter2"


class Heard(list[dict[str, Any]]):
    """The audit lines so far."""

    def brief(self) -> list[tuple[str, str]]:
        """Return event and method of each line."""
        return [(line["event"].removeprefix("audit."), line["method"]) for line in self]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """The audit lines of a test."""
    lines = Heard()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(log_fields(record, service="api"))

    logger, keep = logging.getLogger("tracebaton.audit"), Keep()
    level = logger.level
    logger.addHandler(keep)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(keep)
    logger.setLevel(level)


@pytest.fixture
def spans() -> Iterator[Callable[[], list[tuple[str, dict[str, Any]]]]]:
    """A recording span around the test; call to end it and get its events."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with contextlib.ExitStack() as stack:
        stack.enter_context(provider.get_tracer("test").start_as_current_span("request"))

        def ended() -> list[tuple[str, dict[str, Any]]]:
            stack.close()
            span: ReadableSpan = exporter.get_finished_spans()[0]
            return [(event.name, dict(event.attributes or {})) for event in span.events]

        yield ended


class Ledger:
    """A service of every kind of method."""

    kinds: ClassVar[list[str]] = []

    def __init__(self) -> None:
        self.entries: list[int] = []

    def add(self, account_id: str, amount: int, *, note: str = "") -> dict[str, Any]:
        """Add an entry."""
        self.entries.append(amount)
        return {"id": len(self.entries), "account": account_id}

    def add_all(self, *amounts: int, **options: object) -> int:
        """Add entries by calling itself."""
        for amount in amounts:
            self.add("all", amount)
        return self._sum()

    def fail(self, reason: str) -> None:
        """Fail."""
        raise ValueError(reason)

    async def fetch(self, account_id: str) -> list[int]:
        """Fetch, later, by calling itself."""
        await asyncio.sleep(0)
        await self.refresh()
        return self.entries

    async def refresh(self) -> None:
        """Refresh."""
        await asyncio.sleep(0)

    async def fail_later(self) -> None:
        """Fail, later."""
        await asyncio.sleep(0)
        raise KeyError("gone")

    def pages(self, size: int) -> Iterator[list[int]]:
        """Yield pages, calling itself in between."""
        for start in range(0, len(self.entries), size):
            self._sum()
            self.touch()
            yield self.entries[start : start + size]
        return "done"

    async def stream(self, count: int) -> AsyncIterator[int]:
        """Yield numbers, calling itself in between."""
        for number in range(count):
            await self.refresh()
            yield number

    def touch(self) -> "Ledger":
        """Return itself."""
        return self

    def _sum(self) -> int:
        return sum(self.entries)

    @staticmethod
    def currency() -> str:
        """Name the currency."""
        return "EUR"

    @classmethod
    def empty(cls) -> "Ledger":
        """Make one."""
        return cls()

    @property
    def balance(self) -> int:
        """Sum it up."""
        return self._sum()


def audited_class() -> Ledger:
    """Return an instance of an audited class."""

    class Copy(Ledger):
        pass

    Copy.__name__ = "Ledger"
    return audited(Copy)()


def audited_instance() -> Ledger:
    """Return an audited instance of a class that is not."""
    return audited(Ledger())


@pytest.fixture(params=[audited_class, audited_instance])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    """The same service, audited in either way."""
    made: Ledger = request.param()
    return made


def test_a_call_and_its_success(ledger: Ledger, heard: Heard) -> None:
    """Two lines with service, method, and what went in and out by name."""
    with entered(RequestStore(correlation_id="order-7", user_id="ada")):
        result = ledger.add("acc-1", 5, note="for lunch")
    call, success = heard

    assert result == {"id": 1, "account": "acc-1"}
    assert {name: value for name, value in call.items() if value is not None} == {
        "timestamp": call["timestamp"],
        "level": "info",
        "event": "audit.call",
        "logger": "tracebaton.audit",
        "service": "Ledger",
        "correlation_id": "order-7",
        "user_id": "ada",
        "method": "add",
        "arguments": {"account_id": "acc-1", "amount": 5, "note": "str of 9"},
        "service_name": "api",
    }
    assert (success["event"], success["service"], success["method"]) == (
        "audit.success",
        "Ledger",
        "add",
    )
    assert success["result"] == "dict of 2: id, account"
    assert 0 <= success["duration_ms"] < 1000


def test_the_events_are_on_the_current_span(
    ledger: Ledger, spans: Callable[[], list[tuple[str, dict[str, Any]]]]
) -> None:
    """Flat, as span attributes are; no span of its own."""
    ledger.add("acc-1", 5)
    call, success = spans()
    duration = success[1].pop("duration_ms")

    assert call == (
        "audit.call",
        {
            "service": "Ledger",
            "method": "add",
            "argument.account_id": "acc-1",
            "argument.amount": 5,
        },
    )
    assert success == (
        "audit.success",
        {"service": "Ledger", "method": "add", "result": "dict of 2: id, account"},
    )
    assert duration >= 0


def test_an_error_passes_through_unchanged(ledger: Ledger, heard: Heard) -> None:
    """The same object, one frame of ours, and one warning that names it."""
    with pytest.raises(ValueError, match="password") as caught:
        ledger.fail(f"password={SECRET}")
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    assert frames == ["test_an_error_passes_through_unchanged", "wrapper", "fail"]
    assert heard.brief() == [("call", "fail"), ("error", "fail")]
    assert (heard[1]["level"], heard[1]["error_type"]) == ("warning", "ValueError")
    assert heard[1]["error"] == "password=[redacted]"
    assert caught.value.__context__ is None


async def test_an_async_error_passes_through_unchanged(ledger: Ledger, heard: Heard) -> None:
    """Likewise."""
    with pytest.raises(KeyError) as caught:
        await ledger.fail_later()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    assert frames == ["test_an_async_error_passes_through_unchanged", "wrapper", "fail_later"]
    assert heard.brief() == [("call", "fail_later"), ("error", "fail_later")]


def test_what_a_service_calls_of_itself_is_not_audited(ledger: Ledger, heard: Heard) -> None:
    """Once a call from outside; the next call from outside is audited again."""
    total = ledger.add_all(1, 2, 3, dry=False)
    ledger.touch()

    assert total == 6
    assert heard.brief() == [
        ("call", "add_all"),
        ("success", "add_all"),
        ("call", "touch"),
        ("success", "touch"),
    ]
    assert heard[0]["arguments"] == {"amounts": "3 more", "dry": False}


async def test_async_calls(ledger: Ledger, heard: Heard) -> None:
    """Success is told when it is over, not when it is asked for."""
    coroutine = ledger.fetch("acc-1")
    before = heard.brief()
    result = await coroutine

    assert (before, result) == ([], [])
    assert heard.brief() == [("call", "fetch"), ("success", "fetch")]
    assert heard[1]["result"] == "list of 0"


def test_a_coroutine_may_move_between_contexts(ledger: Ledger, heard: Heard) -> None:
    """Driven by hand, half of it here and half of it there."""
    coroutine = ledger.refresh()
    contextvars.copy_context().run(coroutine.send, None)
    with pytest.raises(StopIteration):
        contextvars.copy_context().run(coroutine.send, None)
    ledger.touch()

    assert heard.brief() == [
        ("call", "refresh"),
        ("success", "refresh"),
        ("call", "touch"),
        ("success", "touch"),
    ]


async def test_a_cancelled_call_is_an_error(ledger: Ledger, heard: Heard) -> None:
    """Each call has exactly one end."""
    task = asyncio.create_task(ledger.fetch("acc-1"))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert heard.brief() == [("call", "fetch"), ("error", "fetch")]
    assert heard[1]["error_type"] == "CancelledError"


async def test_concurrent_calls_of_one_instance_are_each_audited(
    ledger: Ledger, heard: Heard
) -> None:
    """One that runs does not silence another."""
    await asyncio.gather(*(ledger.fetch(f"acc-{number}") for number in range(20)))

    assert collections.Counter(heard.brief()) == {("call", "fetch"): 20, ("success", "fetch"): 20}


def test_a_generator_succeeds_when_it_is_exhausted(ledger: Ledger, heard: Heard) -> None:
    """With the number of its items; what it returns is returned."""
    ledger.add_all(1, 2, 3)
    heard.clear()

    def consume() -> Iterator[list[int]]:
        returned.append((yield from ledger.pages(2)))

    returned: list[object] = []
    pages = list(consume())

    assert (pages, returned) == ([[1, 2], [3]], ["done"])
    assert heard.brief() == [("call", "pages"), ("success", "pages")]
    assert (heard[1]["items"], heard[1]["result"]) == (2, "str of 4")
    assert "closed" not in heard[1]


def test_between_two_items_one_is_outside(ledger: Ledger, heard: Heard) -> None:
    """A call that the consumer makes there is a call from outside."""
    ledger.add_all(1, 2)
    heard.clear()
    for _ in ledger.pages(1):
        ledger.touch()

    assert heard.brief() == [
        ("call", "pages"),
        ("call", "touch"),
        ("success", "touch"),
        ("call", "touch"),
        ("success", "touch"),
        ("success", "pages"),
    ]


def test_closing_a_generator_early_is_a_success(ledger: Ledger, heard: Heard) -> None:
    """It is said to be closed."""
    ledger.add_all(1, 2, 3)
    heard.clear()
    pages = ledger.pages(1)
    next(pages)
    pages.close()  # type: ignore[attr-defined]  # annotated as a mere iterator

    assert heard.brief() == [("call", "pages"), ("success", "pages")]
    assert (heard[1]["closed"], heard[1]["items"]) == (True, 1)


async def test_async_generators(ledger: Ledger, heard: Heard) -> None:
    """Exhausted, closed early, and with calls from outside in between."""
    numbers = [number async for number in ledger.stream(3)]
    stream = ledger.stream(3)
    await anext(stream)
    ledger.touch()
    await stream.aclose()  # type: ignore[attr-defined]  # annotated as a mere iterator

    assert numbers == [0, 1, 2]
    assert heard.brief() == [
        ("call", "stream"),
        ("success", "stream"),
        ("call", "stream"),
        ("call", "touch"),
        ("success", "touch"),
        ("success", "stream"),
    ]
    assert (heard[1]["items"], heard[5]["items"], heard[5]["closed"]) == (3, 1, True)


async def test_an_async_generator_moves_between_tasks(ledger: Ledger, heard: Heard) -> None:
    """Each step may run in another context, as the fixtures of test frameworks do."""
    stream = ledger.stream(2)
    items = [await asyncio.create_task(_next(stream)) for _ in range(2)]
    await asyncio.create_task(stream.aclose())  # type: ignore[attr-defined]
    ledger.touch()

    assert items == [0, 1]
    assert heard.brief()[-2:] == [("call", "touch"), ("success", "touch")]


async def _next(stream: AsyncIterator[int]) -> int:
    return await anext(stream)


class Echo:
    """Generators that talk back."""

    def talk(self) -> Any:
        """Yield what was sent, and catch what was thrown."""
        got: object = "ready"
        while True:
            try:
                got = yield got
            except LookupError as exc:
                got = f"caught {exc}"

    async def talk_later(self) -> Any:
        """Do the same, later."""
        got: object = "ready"
        while True:
            try:
                got = yield got
            except LookupError as exc:
                got = f"caught {exc}"

    def breaks(self) -> Iterator[int]:
        """Fail after one item."""
        yield 1
        raise ValueError("broken")

    async def breaks_later(self) -> AsyncIterator[int]:
        """Do the same, later."""
        yield 1
        raise ValueError("broken")

    def stubborn(self) -> Iterator[int]:
        """Refuse to close."""
        with contextlib.suppress(GeneratorExit):
            yield 1
        yield 2

    def stops(self) -> None:
        """Raise what ends an iteration."""
        raise StopIteration("early")


@pytest.fixture(params=["class", "instance"])
def echo(request: pytest.FixtureRequest) -> Echo:
    """The same service, audited in either way."""

    class Fresh(Echo):
        pass

    return audited(Fresh)() if request.param == "class" else audited(Echo())


def test_a_generator_is_sent_to_and_thrown_into(echo: Echo, heard: Heard) -> None:
    """The consumer talks with the generator and notices nobody."""
    talk = echo.talk()

    assert (next(talk), talk.send("hi"), talk.throw(LookupError("x"))) == (
        "ready",
        "hi",
        "caught x",
    )
    with pytest.raises(ZeroDivisionError):
        talk.throw(ZeroDivisionError())
    assert heard.brief() == [("call", "talk"), ("error", "talk")]


async def test_an_async_generator_is_sent_to_and_thrown_into(echo: Echo, heard: Heard) -> None:
    """Likewise."""
    talk = echo.talk_later()

    assert await anext(talk) == "ready"
    assert await talk.asend("hi") == "hi"
    assert await talk.athrow(LookupError("x")) == "caught x"
    with pytest.raises(ZeroDivisionError):
        await talk.athrow(ZeroDivisionError())
    assert heard.brief() == [("call", "talk_later"), ("error", "talk_later")]


def test_a_generator_that_fails(echo: Echo, heard: Heard) -> None:
    """One frame of ours, one error."""
    with pytest.raises(ValueError, match="broken") as caught:
        list(echo.breaks())
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    assert frames == ["test_a_generator_that_fails", "wrapper", "breaks"]
    assert heard.brief() == [("call", "breaks"), ("error", "breaks")]


async def test_an_async_generator_that_fails(echo: Echo, heard: Heard) -> None:
    """Likewise."""
    with pytest.raises(ValueError, match="broken"):
        _ = [number async for number in echo.breaks_later()]

    assert heard.brief() == [("call", "breaks_later"), ("error", "breaks_later")]


def test_a_generator_that_refuses_to_close(echo: Echo, heard: Heard) -> None:
    """Is an error, as without us."""
    numbers = echo.stubborn()
    next(numbers)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        numbers.close()  # type: ignore[attr-defined]

    assert heard.brief() == [("call", "stubborn"), ("error", "stubborn")]


def test_a_method_that_raises_stop_iteration(echo: Echo, heard: Heard) -> None:
    """It is an error like any other outside a generator."""
    with pytest.raises(StopIteration, match="early"):
        echo.stops()

    assert heard.brief() == [("call", "stops"), ("error", "stops")]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    """Hide what kind of function *function* is."""
    return lambda *args, **kwargs: function(*args, **kwargs)


async def test_what_runs_later_succeeds_later(heard: Heard) -> None:
    """A decorator hides an async method or a generator behind a plain function."""

    @audited
    class Hidden:
        @decorated
        async def fetch(self) -> int:
            return 3

        @decorated
        def pages(self) -> Iterator[int]:
            yield 1
            raise ValueError("broken")

        @decorated
        async def stream(self) -> AsyncIterator[int]:
            yield 1

    hidden = Hidden()
    coroutine, pages, stream = hidden.fetch(), hidden.pages(), hidden.stream()
    before = {event for event, _ in heard.brief()}
    fetched = await coroutine
    with pytest.raises(ValueError, match="broken"):
        list(pages)
    items = [item async for item in stream]

    assert (before, fetched, items) == ({"call"}, 3, [1])
    assert heard.brief()[3:] == [("success", "fetch"), ("error", "pages"), ("success", "stream")]


def test_only_public_methods_are_audited(ledger: Ledger, heard: Heard) -> None:
    """Neither properties nor static, class or private methods; all of them work."""
    ledger.entries.append(3)

    assert (ledger.balance, ledger.currency(), ledger._sum()) == (3, "EUR", 3)
    assert isinstance(ledger.empty(), Ledger)
    assert heard == []


def test_nothing_about_the_service_looks_different(ledger: Ledger) -> None:
    """Type, attributes, signatures, kinds and docstrings."""

    assert isinstance(ledger, Ledger)
    assert not isinstance(ledger, Echo)
    assert str(inspect.signature(ledger.add)) == (
        "(account_id: str, amount: int, *, note: str = '') -> dict[str, typing.Any]"
    )
    assert ledger.add.__doc__ == "Add an entry."
    assert ledger.add.__name__ == "add"
    assert inspect.iscoroutinefunction(ledger.fetch)
    assert asyncio.iscoroutinefunction(ledger.fetch)
    assert inspect.isgeneratorfunction(ledger.pages)
    assert inspect.isasyncgenfunction(ledger.stream)
    assert not inspect.iscoroutinefunction(ledger.add)
    assert "entries" in dir(ledger)
    assert vars(ledger) == {"entries": []}


def test_attributes_are_the_services_own() -> None:
    """Read, written and deleted through a stand-in."""
    plain = Ledger()
    ledger = audited(plain)
    ledger.entries = [1]
    ledger.extra = 2  # type: ignore[attr-defined]
    seen = (plain.entries, plain.extra)  # type: ignore[attr-defined]
    del ledger.extra  # type: ignore[attr-defined]

    assert seen == ([1], 2)
    assert not hasattr(plain, "extra")
    with pytest.raises(AttributeError, match="missing"):
        _ = ledger.missing  # type: ignore[attr-defined]


def test_the_instance_stays_as_it_is(heard: Heard) -> None:
    """Whoever holds it is not audited by surprise; what returns it returns the stand-in."""
    plain = Ledger()
    ledger = audited(plain)
    plain.add("acc", 1)

    assert heard == []
    assert type(plain) is Ledger
    assert ledger.touch() is ledger
    assert ledger == plain
    assert plain.touch() is plain


def test_a_stand_in_has_its_targets_special_methods() -> None:
    """Those that Python looks up on the type."""

    class Box:
        """A box."""

        def __init__(self) -> None:
            self.items = [1, 2]
            self.open = False

        def __len__(self) -> int:
            return len(self.items)

        def __iter__(self) -> Iterator[int]:
            return iter(self.items)

        def __getitem__(self, index: int) -> int:
            return self.items[index]

        def __call__(self, number: int) -> int:
            return number + 1

        def __enter__(self) -> "Box":
            self.open = True
            return self

        def __exit__(self, *exc: object) -> None:
            self.open = False

        async def __aenter__(self) -> "Box":
            return self

        async def __aexit__(self, *exc: object) -> None:
            pass

        def __iadd__(self, other: list[int]) -> "Box":
            self.items += other
            return self

        def __repr__(self) -> str:
            return "Box()"

        __hash__ = None  # type: ignore[assignment]

    box = audited(Box())
    with box as entered_box:
        assert entered_box is box
        assert box.open
    box += [3]

    async def enter() -> bool:
        async with box as inside:
            return inside is box

    assert (len(box), list(box), box[0], box(1), repr(box), str(box)) == (
        3,
        [1, 2, 3],
        1,
        2,
        "Box()",
        "Box()",
    )
    assert asyncio.run(enter())
    assert box.__doc__ == "A box."
    with pytest.raises(TypeError, match="unhashable"):
        hash(box)


def test_a_copy_of_a_stand_in_is_a_copy_of_its_target() -> None:
    """As copying goes."""
    ledger = audited(Ledger())
    ledger.add("acc", 1)
    twin = copy.deepcopy(ledger)
    ledger.add("acc", 2)

    assert (twin.entries, ledger.entries) == ([1], [1, 2])


def test_a_method_replaced_on_the_instance_is_the_one_called(heard: Heard) -> None:
    """As tests do."""
    plain = Ledger()
    ledger = audited(plain)
    plain.touch = lambda: "replaced"  # type: ignore[method-assign,assignment,return-value]

    assert ledger.touch() == "replaced"  # type: ignore[comparison-overlap]
    assert heard.brief() == [("call", "touch"), ("success", "touch")]


def test_auditing_twice_is_auditing_once(heard: Heard) -> None:
    """A stand-in, an instance of an audited class, a class, and a class and its base."""

    @audited
    class Base:
        def ping(self) -> str:
            """Answer."""
            return "pong"

    @audited
    @audited
    class Child(Base):
        def ping(self) -> str:
            """Answer twice."""
            return super().ping() * 2

        def pong(self) -> None:
            """Do nothing."""

    audited(audited(Child())).ping()
    audited(audited(Ledger())).touch()
    Base().ping()

    assert heard.brief() == [
        ("call", "ping"),
        ("success", "ping"),
        ("call", "touch"),
        ("success", "touch"),
        ("call", "ping"),
        ("success", "ping"),
    ]
    assert [line["service"] for line in heard[::2]] == ["Child", "Ledger", "Base"]


def test_inherited_methods_are_audited_and_the_base_is_not(heard: Heard) -> None:
    """A class is changed in place, what it inherits from stays."""

    @audited
    class Child(Ledger):
        pass

    Child().touch()
    Ledger().touch()

    assert heard.brief() == [("call", "touch"), ("success", "touch")]


def test_one_service_that_calls_another(heard: Heard) -> None:
    """Each call from outside, the one back included."""

    @audited
    class Front:
        def __init__(self) -> None:
            self.back = Back()

        def ask(self) -> str:
            return self.back.answer(self)

        def detail(self) -> str:
            return "why"

    @audited
    class Back:
        def answer(self, front: Front) -> str:
            return front.detail()

    answer = Front().ask()

    assert answer == "why"
    assert heard.brief() == [
        ("call", "ask"),
        ("call", "answer"),
        ("call", "detail"),
        ("success", "detail"),
        ("success", "answer"),
        ("success", "ask"),
    ]


def test_a_service_may_have_another_name(heard: Heard) -> None:
    """As a decorator, and for an instance."""

    @audited("billing")
    class Anything:
        def pay(self) -> None:
            """Pay."""

    Anything().pay()
    audited("ledger")(Ledger()).touch()

    assert [line["service"] for line in heard] == ["billing"] * 2 + ["ledger"] * 2
    assert {line["service_name"] for line in heard} == {"api"}


def test_abstract_methods_and_protocols(heard: Heard) -> None:
    """What is abstract stays abstract, and a protocol is still met."""

    @audited
    class Port(ABC):
        @abstractmethod
        def send(self) -> None: ...

        def twice(self) -> None:
            self.send()
            self.send()

    @runtime_checkable
    class Sends(Protocol):
        def send(self) -> None: ...

    class Adapter(Port):
        def send(self) -> None:
            pass

    with pytest.raises(TypeError, match="abstract"):
        Port()  # type: ignore[abstract]
    Adapter().twice()

    assert heard.brief() == [("call", "twice"), ("success", "twice")]
    assert isinstance(audited(Adapter()), Sends)


@pytest.mark.parametrize("service", [lambda: None, Ledger().touch])
def test_a_function_is_refused(service: Any) -> None:
    """With a sentence."""
    with pytest.raises(TypeError, match="class or an instance"):
        audited(service)


def test_a_class_that_cannot_be_changed_is_refused() -> None:
    """An enumeration of the standard library's C code, say; an instance of it can be audited."""

    class Frozen(type):
        def __setattr__(cls, name: str, value: object) -> None:
            raise TypeError("immutable")

    class Service(metaclass=Frozen):
        def ping(self) -> str:
            return "pong"

    with pytest.raises(TypeError, match="Service cannot be changed"):
        audited(Service)
    assert audited(Service()).ping() == "pong"


def test_wrong_arguments_are_the_callers_error(ledger: Ledger, heard: Heard) -> None:
    """As they would be without us, and told."""
    with pytest.raises(TypeError, match="amount"):
        ledger.add("acc")  # type: ignore[call-arg]

    assert heard.brief() == [("call", "add"), ("error", "add")]


def test_where_nobody_listens_only_errors_are_told(ledger: Ledger, heard: Heard) -> None:
    """At level warning, outside a recording span, a call costs next to nothing."""
    logging.getLogger("tracebaton.audit").setLevel(logging.WARNING)
    ledger.touch()
    with pytest.raises(ValueError, match="x"):
        ledger.fail("x")

    assert heard.brief() == [("error", "fail")]


class Hostile:
    """Counts whoever looks at it."""

    looks = 0

    def _look(self, *args: object) -> Any:
        Hostile.looks += 1
        raise AssertionError("foreign code ran")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __eq__ = __getitem__ = _look  # type: ignore[assignment]
    __class__ = property(_look)  # type: ignore[assignment]
    __hash__ = _look  # type: ignore[assignment]
    __getattr__ = _look


class HostileList(list[int]):
    """A list that lies about itself."""

    __len__ = __iter__ = __repr__ = Hostile._look  # type: ignore[assignment]


class HostileDict(dict[str, int]):
    """A mapping that lies about itself."""

    __len__ = __iter__ = __repr__ = keys = items = Hostile._look  # type: ignore[assignment]


class HostileText(str):
    """A string that lies about itself."""

    __len__ = __repr__ = __str__ = Hostile._look  # type: ignore[assignment]


def test_foreign_code_is_never_run() -> None:
    """Not to measure, not to show, not to compare."""
    shown = [
        summary("x", Hostile()),
        summary("x", HostileList([1, 2])),
        summary("x", HostileDict(a=1)),
        summary("x_id", HostileText("abc")),
    ]

    assert shown == [
        "Hostile",
        "HostileList of 2",
        "HostileDict of 1: a",
        "HostileText of 3",
    ]
    assert Hostile.looks == 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 3, 3),
        ("count", True, True),
        ("count", None, None),
        ("ratio", 0.5, 0.5),
        ("ratio", float("nan"), "nan"),
        ("big", 10**400, "<int of 1329 bits>"),
        ("price", Decimal("1.50"), "1.50"),
        ("price", Decimal("1" * 100), "Decimal"),
        ("at", datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ("id", UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("user_id", "u-7", "u-7"),
        ("user_id", "two words", "str of 9"),
        ("user_id", "x" * 65, "str of 65"),
        ("user_id", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc", "[redacted]"),
        ("status", "open", "open"),
        ("message", "hello", "str of 5"),
        ("body", b"abc", "bytes of 3"),
        ("password", SECRET, "[redacted]"),
        ("token", b"abc", "[redacted]"),
        ("tokens", [SECRET], "[redacted]"),
        ("max_tokens", 100, 100),
        ("pin", 1234, "[redacted]"),
        ("items", [1, 2, 3], "list of 3"),
        ("items", (1,), "tuple of 1"),
        ("items", {1}, "set of 1"),
        ("items", collections.deque([1]), "deque of 1"),
        ("options", {}, "dict of 0"),
        ("options", {"a": 1, 2: 3, "password": SECRET}, "dict of 3: a, password"),
        (
            "options",
            {f"k{n}": n for n in range(30)},
            "dict of 30: " + ", ".join(f"k{n}" for n in range(10)),
        ),
        ("options", {"k" * 100: 1}, "dict of 1: " + "k" * 40),
        ("service", Ledger(), "Ledger"),
        ("kind", Ledger, "type"),
    ],
)
def test_what_is_said_of_a_value(name: str, value: Any, expected: Any) -> None:
    """Scalars as they are, of the rest type, length and first keys; strings only under ids."""

    assert summary(name, value) == expected


def test_the_summary_does_not_depend_on_the_size(ledger: Ledger, heard: Heard) -> None:
    """A result is cheap to describe however large it is, and so is a dataclass."""

    @dataclass
    class Report:
        rows: list[int]

    class Reports:
        def make(self, rows: list[int], **options: int) -> Report:
            return Report(rows)

    audited(Reports()).make([0] * 1_000_000, **{f"o{n}": n for n in range(100)})

    assert heard[0]["arguments"]["rows"] == "list of 1000000"
    assert len(heard[0]["arguments"]) == 11
    assert heard[1]["result"] == "Report"


def test_secrets_are_in_no_event(
    heard: Heard, spans: Callable[[], list[tuple[str, dict[str, Any]]]]
) -> None:
    """Under sensitive names, as results of sensitive methods, in messages of errors."""

    @audited
    class Vault:
        def unlock(self, password: str, *, headers: dict[str, str]) -> str:
            return password

        def get_token(self, user_id: str) -> str:
            return SECRET

        def leak(self, note: str) -> None:
            raise RuntimeError(f"refused: api_key={note}")

    vault = Vault()
    vault.unlock(SECRET, headers={"authorization": SECRET})
    vault.get_token("u-1")
    with pytest.raises(RuntimeError):
        vault.leak(SECRET)
    events = spans()

    assert len(events) == len(heard) == 6
    assert SECRET not in json.dumps([heard, events])
    assert heard[1]["result"] == f"str of {len(SECRET)}"
    assert heard[3]["result"] == "[redacted]"
    assert heard[0]["arguments"] == {
        "password": "[redacted]",
        "headers": "dict of 1: authorization",
    }


def test_a_function_without_a_signature_is_audited_by_number(heard: Heard) -> None:
    """Arguments that have no name are counted."""

    class Odd:
        def call(self, *args: object) -> int:
            return len(args)

    Odd.call.__signature__ = "none"  # type: ignore[attr-defined]

    assert audited(Odd()).call(1, 2) == 2
    assert heard[0]["arguments"] == {"arguments": "2 more"}
