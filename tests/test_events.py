"""Events are the log records that ``logging`` itself would make, as far as anybody reads them."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

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
