"""The request store: one cell under one key of OpenTelemetry's context."""

import asyncio
import contextvars
import threading
from dataclasses import FrozenInstanceError, dataclass

import pytest
from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.context import Context

from tracebaton.context import (
    RequestStore,
    attach,
    authenticate,
    bind_trace,
    current,
    custom_fields,
    detach,
    entered,
    in_context,
    span_attributes,
    valid_correlation_id,
)

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantStore(RequestStore):
    """A store with custom fields."""

    tenant: str | None = None
    plan: str | None = None


def test_outside_a_request_the_store_is_empty() -> None:
    """Reading it there is no error, and neither is binding or authenticating."""

    assert current() == RequestStore()
    assert bind_trace(TRACE_ID) == RequestStore()
    assert authenticate("ada") == RequestStore()
    assert current() == RequestStore()


def test_the_store_is_frozen_and_slotted() -> None:
    """Nobody changes it on the way."""
    with pytest.raises(FrozenInstanceError):
        RequestStore().user_id = "eve"  # type: ignore[misc]  # the point of the test

    assert not hasattr(RequestStore(), "__dict__")


def test_attach_and_detach_enclose_a_unit_of_work() -> None:
    """What was attached is gone after the detach."""
    token = attach(RequestStore(correlation_id="abc"))
    inside = current()
    detach(token)

    assert inside == RequestStore(correlation_id="abc")
    assert current() == RequestStore()


def test_a_unit_of_work_starts_from_an_empty_context() -> None:
    """Nothing that an earlier request left on the connection is seen."""
    leftover = otel.attach(otel.set_value("leftover", "yes"))
    try:
        with entered(RequestStore()):
            seen = otel.get_value("leftover")
    finally:
        otel.detach(leftover)

    assert seen is None


def test_a_unit_of_work_starts_from_the_context_it_is_given() -> None:
    """The remote parent of an extracted context is there."""
    span = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))
    with entered(RequestStore(), trace.set_span_in_context(span, Context())):
        parent = trace.get_current_span().get_span_context()

    assert parent.trace_id == 1


def test_a_failing_block_leaves_nothing_behind() -> None:
    """The store is detached whatever happens."""
    with pytest.raises(ZeroDivisionError), entered(RequestStore(user_id="ada")):
        raise ZeroDivisionError

    assert current() == RequestStore()


def test_the_trace_id_becomes_the_correlation_id_where_none_came_in() -> None:
    """At span start; the second span start changes nothing."""
    with entered(RequestStore()):
        bind_trace(TRACE_ID)
        bind_trace("f" * 32)

        assert current().correlation_id == TRACE_ID


def test_the_callers_correlation_id_stays() -> None:
    """What came in is kept at span start."""
    with entered(RequestStore(correlation_id="order-7")):
        bind_trace(TRACE_ID)

        assert current().correlation_id == "order-7"


def test_without_tracing_each_request_gets_a_fresh_id() -> None:
    """Two requests never share it."""
    with entered(RequestStore()):
        first = bind_trace(None).correlation_id
    with entered(RequestStore()):
        second = bind_trace(None).correlation_id

    assert first is not None
    assert second is not None
    assert first != second
    assert valid_correlation_id(first)


def test_bind_trace_reaches_a_context_that_is_not_current() -> None:
    """A span processor is told the context and stands outside it."""
    with entered(RequestStore()):
        context = otel.get_current()
    bind_trace(TRACE_ID, context)

    assert in_context(context).correlation_id == TRACE_ID
    assert in_context(None) == RequestStore()


def test_authentication_is_seen_by_code_that_copied_the_context_before() -> None:
    """The access log, an executor and a child task hold the cell and not the value."""
    with entered(RequestStore(correlation_id="abc")):
        before = contextvars.copy_context()
        contextvars.copy_context().run(authenticate, "ada")

        assert before.run(current) == RequestStore(correlation_id="abc", user_id="ada")


def test_authentication_sets_declared_custom_fields() -> None:
    """Next to the user."""
    with entered(TenantStore(correlation_id="abc")):
        store = authenticate("ada", tenant="acme")

        assert store == TenantStore(correlation_id="abc", user_id="ada", tenant="acme")


@pytest.mark.parametrize("name", ["correlation_id", "task_id", "attempt", "shoe_size"])
def test_authentication_sets_nothing_else(name: str) -> None:
    """Neither the store's own fields nor what it does not declare."""
    with entered(TenantStore(correlation_id="abc")):
        with pytest.raises(TypeError, match=name):
            authenticate("ada", **{name: "x"})

        assert current() == TenantStore(correlation_id="abc")


async def test_a_thousand_requests_never_see_each_other() -> None:
    """Each has its own ids before and after every await."""
    barrier = asyncio.Barrier(1000)

    async def request(number: int) -> RequestStore:
        with entered(RequestStore()):
            bind_trace(f"{number:032x}")
            await barrier.wait()
            authenticate(f"user-{number}")
            await barrier.wait()
            return current()

    stores = await asyncio.gather(*(request(number) for number in range(1000)))

    assert stores == [
        RequestStore(correlation_id=f"{number:032x}", user_id=f"user-{number}")
        for number in range(1000)
    ]


async def test_the_store_follows_the_async_path_and_its_threads() -> None:
    """A child task and `asyncio.to_thread()` read it with nothing passed."""
    with entered(RequestStore(correlation_id="abc")):
        in_task = await asyncio.create_task(_read())
        in_thread = await asyncio.to_thread(current)

    assert (in_task.correlation_id, in_thread.correlation_id) == ("abc", "abc")


async def _read() -> RequestStore:
    return current()


def test_a_foreign_thread_starts_empty() -> None:
    """Threads that were not given the context have no store."""
    seen: list[RequestStore] = []
    with entered(RequestStore(user_id="ada")):
        thread = threading.Thread(target=lambda: seen.append(current()))
        thread.start()
        thread.join()

    assert seen == [RequestStore()]


def test_span_attributes_are_what_is_set() -> None:
    """Under their names, custom fields behind the prefix."""
    store = TenantStore(correlation_id="abc", task_id="t1", attempt=2, tenant="acme")

    assert span_attributes(store) == {
        "tracebaton.correlation_id": "abc",
        "tracebaton.task.id": "t1",
        "tracebaton.task.attempt": 2,
        "tracebaton.tenant": "acme",
    }
    assert span_attributes(RequestStore(user_id="ada")) == {"tracebaton.user_id": "ada"}


def test_custom_fields_are_what_a_subclass_declares() -> None:
    """The store's own are not among them."""

    assert custom_fields(TenantStore(user_id="ada", plan="pro")) == {"plan": "pro"}
    assert custom_fields(RequestStore(user_id="ada")) == {}


@pytest.mark.parametrize("value", ["a", "order-7", "A.b_c:d-e", "x" * 128, TRACE_ID])
def test_a_valid_correlation_id_is_kept(value: str) -> None:
    """1 to 128 of the allowed characters."""

    assert valid_correlation_id(value) == value


@pytest.mark.parametrize(
    "value", [None, "", " ", "x" * 129, "a b", "a\n", "a/b", "é", "<script>", "a,b", "٣"]
)
def test_anything_else_is_not(value: str | None) -> None:
    """A line feed at the end and a digit of another script included."""

    assert valid_correlation_id(value) is None
