"""Events are the log records that ``logging`` itself would make, as far as anybody reads them."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest

from tracebaton.context import RequestStore, authenticate, entered
from tracebaton.events import say
from tracebaton.logs import configure_logging


@pytest.fixture
def out() -> Iterator[io.StringIO]:
    """The process's log."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    stream = io.StringIO()
    configure_logging(service="shop", pretty=False, stream=stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_the_line_is_that_of_the_standard_library(out: io.StringIO) -> None:
    """But for the moment."""
    log, fields = logging.getLogger("shop.test"), {"amount": 3, "password": "x", "deep": {"a": [1]}}
    log.warning("order.placed", extra={"fields": fields})
    say(log, "order.placed", fields, level=logging.WARNING)

    stock, ours = ({**json.loads(line), "timestamp": ""} for line in out.getvalue().splitlines())

    assert ours == stock
    assert ours["password"] == "[redacted]"


def test_a_formatter_of_somebody_elses_finds_every_attribute() -> None:
    """With another one's format the record is as good as any."""
    seen: list[logging.LogRecord] = []
    log = logging.Logger("shop.own")
    log.addHandler(handler := logging.Handler())
    handler.emit = seen.append  # type: ignore[method-assign]
    say(log, "order.placed", {"amount": 3})
    log.info("order.placed", extra={"fields": {"amount": 3}})
    ours, stock = seen
    names = "%(name)s %(levelno)s %(levelname)s %(message)s %(thread)d %(threadName)s %(fields)s"

    assert vars(ours).keys() >= vars(stock).keys() - {"message"}
    assert logging.Formatter(names).format(ours) == logging.Formatter(names).format(stock)
    assert 0 <= ours.msecs < 1000
    assert logging.Formatter("%(asctime)s %(pathname)s %(lineno)d").format(ours)


def test_each_line_has_the_ids_of_its_own_request(out: io.StringIO) -> None:
    """In turns, after somebody was recognised, and in several threads at once."""
    log = logging.getLogger("shop.test")
    contexts = {}
    for number in range(4):
        with entered(RequestStore(correlation_id=f"c-{number}", attempt=number)):
            contexts[number] = copy_context()

    def work(number: int) -> None:
        for turn in range(200):
            contexts[number].run(say, log, "order.placed", {"number": number, "turn": turn})

    contexts[0].run(say, log, "order.seen", {})
    contexts[0].run(authenticate, "ann")
    threads = [threading.Thread(target=work, args=(number,)) for number in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *rest = map(json.loads, out.getvalue().splitlines())

    assert first["user_id"] is None
    assert len(rest) == 800
    for line in rest:
        number = line["number"]
        user = "ann" if number == 0 else None
        ids = (line["correlation_id"], line["attempt"], line["user_id"])
        assert ids == (f"c-{number}", number, user)


def test_a_level_that_is_off_and_a_disabled_logger_are_silent(out: io.StringIO) -> None:
    """As they are for every record."""
    log = logging.getLogger("shop.quiet")
    say(log, "order.seen", {}, level=logging.DEBUG)
    log.disabled = True
    say(log, "order.placed", {})
    log.disabled = False

    assert out.getvalue() == ""


def test_a_record_factory_is_asked(out: io.StringIO) -> None:
    """OpenTelemetry's logging instrumentation adds the trace that way."""

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        record.tenant = "t-1"
        return record

    logging.setLogRecordFactory(factory)
    try:
        say(logging.getLogger("shop.test"), "order.placed", {"amount": 3})
    finally:
        logging.setLogRecordFactory(logging.LogRecord)

    line = json.loads(out.getvalue())
    assert (line["tenant"], line["amount"]) == ("t-1", 3)


@pytest.fixture
def nobody_else(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """
    Our handler is the only one, as in a process of its own.

    pytest adds handlers of its own to the root before each phase of a test, after all fixtures.
    """
    root = logging.getLogger()
    ours = [one for one in root.handlers if one.get_name() == "tracebaton"]
    monkeypatch.setattr(root, "addHandler", lambda handler: None)
    root.handlers[:] = ours
    yield
    monkeypatch.undo()


class _Seen(logging.Handler):
    """A second handler, for which there has to be a record."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep *record*."""
        self.records.append(record)


AWKWARD: list[dict[str, Any]] = [
    {},
    {"amount": 3, "ratio": float("nan"), "big": 10**400, "deep": {"a": [1, {"token": "x"}]}},
    {"service": "Prices", "method": "quote"},
    {"user_id": "u-2", "trace_id": "t", "task_id": None, "level": "none"},
    {"path": "/café?token=x", "note": 'password=hunter2 \x1b[31m \u2028 "quoted" \\'},
    {"half": "\ud800", "password": "x"},
]


@pytest.mark.usefixtures("nobody_else")
@pytest.mark.parametrize("event", ["order.placed", "audit.call", 'café "x" token=abc\n'])
@pytest.mark.parametrize("fields", AWKWARD)
def test_without_a_record_the_line_is_the_same(
    out: io.StringIO, event: str, fields: dict[str, Any]
) -> None:
    """Whatever it says, and whoever else listens."""
    log, seen = logging.getLogger("shop.test"), _Seen()
    with entered(RequestStore(correlation_id='c "1"', user_id="ü", attempt=2)):
        say(log, event, fields)
        log.addHandler(seen)
        try:
            say(log, event, fields)
        finally:
            log.removeHandler(seen)

    direct, recorded = out.getvalue().splitlines()

    assert len(seen.records) == 1
    assert direct[45:] == recorded[45:]
    assert list(json.loads(direct)) == list(json.loads(recorded))


@pytest.mark.usefixtures("nobody_else")
def test_whoever_wants_records_gets_them(out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters, a handler on the way, one that patched the logger: nobody is passed by."""
    log, seen = logging.getLogger("shop.listened"), _Seen()
    handle = logging.Logger.callHandlers

    def told(self: logging.Logger, record: logging.LogRecord) -> None:
        seen.emit(record)
        handle(self, record)

    log.addFilter(seen.emit)  # type: ignore[arg-type]  # returns None: the record goes no further
    say(log, "one", {})
    log.filters.clear()
    root = logging.getLogger()
    root.handlers[0].addFilter(lambda record: bool(seen.emit(record)))
    say(log, "two", {})
    root.handlers[0].filters.clear()
    with monkeypatch.context() as patch:
        patch.setattr(logging.Logger, "callHandlers", told)
        say(log, "three", {})
    root.handlers[0].setLevel(logging.ERROR)
    say(log, "four", {})
    root.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    say(log, "five", {}, level=logging.ERROR)

    assert [record.msg for record in seen.records] == ["one", "two", "three"]
    three, five = out.getvalue().splitlines()
    assert (json.loads(three)["event"], five) == ("three", "five")
