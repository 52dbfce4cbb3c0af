"""One line an event, the same for ours and for any library's logger."""

import io
import json
import logging
import logging.handlers
import os
import queue
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from tracebaton.context import RequestStore, entered
from tracebaton.logs import JsonFormatter, PrettyFormatter, configure_logging, log_fields
from tracebaton.semconv import LOG_FIELDS

SECRET = "c4n4ry-Hunter2"
QUIET = ("botocore", "urllib3", "httpx", "httpcore", "asyncio")


class Ids(IdGenerator):
    """Ids that a literal can name."""

    def generate_trace_id(self) -> int:
        """Return a trace id."""
        return 0x0AF7651916CD43DD8448EB211C80319C

    def generate_span_id(self) -> int:
        """Return a span id."""
        return 0xB7AD6B7169203331


class Stream(io.StringIO):
    """What stdout is for a process: a pipe, or a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        """Tell whether people watch."""
        return self._terminal

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines written so far."""
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def stream() -> Iterator[Stream]:
    """A stream with everything logged to it, and the process's logging as it was afterwards."""
    root, uvicorn = logging.getLogger(), logging.getLogger("uvicorn.access")
    handlers, level, disabled = list(root.handlers), root.level, uvicorn.disabled
    levels = {name: logging.getLogger(name).level for name in QUIET}
    stream = Stream()
    configure_logging(service="api", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    uvicorn.disabled = disabled
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)
    logging.captureWarnings(False)


def record(message: Any, *args: Any, **extra: Any) -> logging.LogRecord:
    """Return a record as ``logger.info()`` makes it, at a fixed moment."""
    made = logging.getLogger("lib").makeRecord("lib", 20, "f", 1, message, args, None, extra=extra)
    made.created = 1_795_467_600.25
    return made


def fields_of(message: Any, *args: Any, **extra: Any) -> dict[str, Any]:
    """Return the JSON document of such a record, after checking that no key stands twice."""
    line = JsonFormatter(service="api").format(record(message, *args, **extra))
    assert "\n" not in line

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), line
        return dict(pairs)

    document: dict[str, Any] = json.loads(line, object_pairs_hook=unique)
    return document


def failure(message: object) -> BaseException:
    """Return an exception that was raised."""
    try:
        raise ValueError(message)
    except ValueError as exc:
        return exc


def test_a_structured_event_of_ours() -> None:
    """The whole line, byte for byte: fixed fields in their order, then the event's own."""
    tracer = TracerProvider(id_generator=Ids()).get_tracer("test")
    store = RequestStore(correlation_id="order-7", user_id="ada", task_id="t-1", attempt=2)
    with entered(store), tracer.start_as_current_span("work"):
        line = JsonFormatter(service="worker").format(
            record("task.succeeded", fields={"task_type": "ai.chat", "duration_ms": 1.5})
        )

    assert line == (
        '{"timestamp":"2026-11-23T21:00:00.250000Z","level":"info","event":"task.succeeded",'
        '"logger":"lib","service":"worker","trace_id":"0af7651916cd43dd8448eb211c80319c",'
        '"span_id":"b7ad6b7169203331","correlation_id":"order-7","user_id":"ada",'
        '"task_id":"t-1","attempt":2,"task_type":"ai.chat","duration_ms":1.5}'
    )


def test_what_is_unset_is_null() -> None:
    """Every fixed field is there, in its order."""
    fields = fields_of("started")

    assert tuple(fields) == LOG_FIELDS
    assert [name for name, value in fields.items() if value is None] == [
        "trace_id",
        "span_id",
        "correlation_id",
        "user_id",
        "task_id",
        "attempt",
    ]


@pytest.mark.parametrize(
    ("created", "timestamp"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_795_467_600.0, "2026-11-23T21:00:00.000000Z"),
        (1_795_467_599.9999998, "2026-11-23T20:59:59.999999Z"),
        (1_795_467_599.5, "2026-11-23T20:59:59.500000Z"),
        (1_795_467_600.000001, "2026-11-23T21:00:00.000001Z"),
    ],
)
def test_timestamps_are_rfc_3339_in_utc(created: float, timestamp: str) -> None:
    """With microseconds, whatever the local time zone."""
    made = record("x")
    made.created = created

    assert log_fields(made, service="api")["timestamp"] == timestamp


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (10, "debug"),
        (20, "info"),
        (30, "warning"),
        (40, "error"),
        (50, "critical"),
        (25, "level 25"),
    ],
)
def test_levels_are_lower_case(level: int, name: str) -> None:
    """Those of others too."""
    made = logging.getLogger("lib").makeRecord("lib", level, "f", 1, "x", (), None)

    assert log_fields(made, service="api")["level"] == name


def test_a_librarys_record_keeps_message_and_extra() -> None:
    """Its message is the event, its extra fields follow."""
    fields = fields_of("took %d ms for %s", 7, "x", shard=3, host="h")

    assert fields["event"] == "took 7 ms for x"
    assert list(fields)[len(LOG_FIELDS) :] == ["shard", "host"]


def test_extra_beside_our_fields_is_kept() -> None:
    """And a library's own ``fields`` that is no mapping."""

    assert fields_of("x", fields={"a": 1}, b=2)["b"] == 2
    assert fields_of("x", fields={"a": 1}, b=2)["a"] == 1
    assert fields_of("x", fields="many")["fields"] == "many"


def test_a_field_never_overwrites_a_fixed_one() -> None:
    """It moves aside; an id that the store does not have is filled in."""
    with entered(RequestStore(correlation_id="order-7")):
        fields = fields_of("x", fields={"event": "y", "correlation_id": "z", "task_id": "t-1"})

    assert (fields["event"], fields["event_event"]) == ("x", "y")
    assert (fields["correlation_id"], fields["event_correlation_id"]) == ("order-7", "z")
    assert fields["task_id"] == "t-1"


def test_the_same_value_is_not_said_twice() -> None:
    """An event may name the id that the store has too."""
    with entered(RequestStore(task_id="t-1")):
        fields = fields_of("x", fields={"task_id": "t-1"})

    assert tuple(fields) == LOG_FIELDS


@pytest.mark.parametrize(
    ("message", "args", "event"),
    [
        ("%d items", ("many",), "%d items"),
        ("%s and %s", ("one",), "%s and %s"),
        ("no arguments", ("one",), "no arguments"),
        (ValueError("x"), (), "x"),
        ({"a": 1}, (), "{'a': 1}"),
        ("100%", (), "100%"),
    ],
)
def test_wrong_format_arguments_do_not_cost_the_line(
    message: Any, args: tuple[Any, ...], event: str
) -> None:
    """The message is there as it was written."""

    assert fields_of(message, *args)["event"] == event


def test_a_message_that_cannot_be_shown_is_named() -> None:
    """By its type."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    assert fields_of(Hostile())["event"] == "<Hostile>"


def test_values_that_json_does_not_know() -> None:
    """Each becomes something, and the line stays strict JSON on one line."""
    fields = fields_of(
        "a\nb\u2028c", fields={"set": {1}, "nan": float("nan"), "odd": "\ud800", 7: b"ab"}
    )

    assert fields["event"] == "a\nb\u2028c"
    assert {name: fields[name] for name in ("set", "nan", "odd", "7")} == {
        "set": [1],
        "nan": "nan",
        "odd": "\ufffd",
        "7": "<2 bytes>",
    }


def test_secrets_are_masked_everywhere() -> None:
    """In the message, in fields, in extra, in the exception and in a stack."""
    made = record(
        "login password=%s", SECRET, fields={"token": SECRET, "url": f"/x?api_key={SECRET}"}
    )
    made.cookie = SECRET
    exc = failure(f"secret: {SECRET}")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    made.stack_info = f'Stack:\n  File "x"\n    f(password="{SECRET}")'
    line = JsonFormatter(service="api").format(made)
    fields = json.loads(line)

    assert SECRET not in line
    assert fields["event"] == "login password=[redacted]"
    assert fields["url"] == "/x?api_key=[redacted]"
    assert fields["exception"].endswith("ValueError: secret: [redacted]")
    assert "f(password" in fields["stack"]


def test_an_exception_is_one_field() -> None:
    """The traceback, at the end of the line."""
    made = record("failed", fields={"a": 1})
    exc = failure("x")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    fields = log_fields(made, service="api")

    assert list(fields)[-2:] == ["a", "exception"]
    assert fields["exception"].startswith("Traceback (most recent call last):\n")
    assert fields["exception"].endswith("\nValueError: x")


def test_a_field_called_exception_moves_aside() -> None:
    """The stack wins neither silently nor twice."""
    made = record("failed", fields={"exception": "mine"})
    exc = failure("x")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    fields = log_fields(made, service="api")

    assert fields["exception"] == "mine"
    assert fields["event_exception"].endswith("ValueError: x")


def test_no_exception_is_no_field() -> None:
    """``exc_info=True`` outside an except block."""
    made = record("failed")
    made.exc_info = (None, None, None)

    assert "exception" not in log_fields(made, service="api")


def test_a_huge_exception_keeps_its_ends() -> None:
    """A message of megabytes, and a chain of hundreds, fit into a line."""
    exc: BaseException = failure("first cause")
    for number in range(300):
        exc = _after(exc, number)
    made = record("failed")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    chain = log_fields(made, service="api")["exception"]
    huge = failure("password=" + SECRET + " " + "x" * 5_000_000 + SECRET)
    made.exc_info = (type(huge), huge, huge.__traceback__)
    message = log_fields(made, service="api")["exception"]

    assert len(chain) <= 8192
    assert "first cause" in chain
    assert chain.endswith("KeyError: 299")
    assert " entries left out\n" in chain
    assert len(message) <= 8192
    assert SECRET not in message


def _after(cause: BaseException, number: int) -> BaseException:
    try:
        raise KeyError(number) from cause
    except KeyError as exc:
        return exc


def test_a_runaway_recursion_keeps_its_innermost_frames() -> None:
    """Two functions that call each other a thousand times."""

    def ping(depth: int) -> int:
        return pong(depth + 1)

    def pong(depth: int) -> int:
        return ping(depth + 1)

    made = record("failed")
    try:
        ping(0)
    except RecursionError as exc:
        made.exc_info = (type(exc), exc, exc.__traceback__)
    text = log_fields(made, service="api")["exception"]

    assert len(text) <= 8192
    assert "RecursionError" in text


def test_a_record_through_a_queue_handler_keeps_its_exception() -> None:
    """It arrives rendered, on another thread."""
    handed: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(handed)  # type: ignore[arg-type]  # any put_nowait() do
    made = record("failed")
    exc = failure(f"token={SECRET}")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    handler.emit(made)
    arrived = handed.get_nowait()
    arrived.exc_text = arrived.exc_text or "Traceback: token=" + SECRET
    fields = log_fields(arrived, service="api")

    assert SECRET not in json.dumps(fields)
    assert "exception" in fields


def pretty(made: logging.LogRecord, *, colour: bool = False) -> str:
    """Return the line that people see."""
    return PrettyFormatter(service="api", colour=colour).format(made)


def test_a_pretty_line() -> None:
    """Time, level, service, event, then what is set."""
    with entered(RequestStore(correlation_id="order-7")):
        line = pretty(record("http.request", fields={"status": 202, "route": None}))

    assert line == "21:00:00.250 info    api http.request correlation_id=order-7 status=202"


def test_a_pretty_line_in_colour_says_the_same() -> None:
    """With escapes of ours only, each of them closed."""
    made = record("http.request", fields={"status": 202})
    plain, coloured = pretty(made), pretty(made, colour=True)

    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert coloured.count("\x1b[0m") == 4


@pytest.mark.parametrize("colour", [False, True])
def test_text_from_outside_does_not_drive_the_terminal(*, colour: bool) -> None:
    """Not in the event, a field, its name, an exception, a stack or the service."""
    evil = "\x1b[2J\r\x07\x9b31m\u202e\x00"
    made = record(f"x{evil}", fields={f"a{evil}": f"b{evil}", "list": [evil]})
    exc = failure(f"first\n\tsecond{evil}")
    made.exc_info = (type(exc), exc, exc.__traceback__)
    made.stack_info = f"Stack{evil}"
    text = PrettyFormatter(service=f"api{evil}", colour=colour).format(made)
    ours = re.sub(r"\x1b\[[0-9;]*m", "", text)

    assert [c for c in ours if not c.isprintable() and c != "\n"] == []
    assert "\\x1b[2J" in ours
    assert "ValueError: first\n    second" in ours


def test_pretty_only_where_people_watch(stream: Stream) -> None:
    """A pipe gets JSON, a terminal gets colours, and either can be asked for."""
    outputs = {}
    for terminal in (False, True):
        for asked in (None, True, False):
            out = Stream(terminal=terminal)
            configure_logging(service="api", stream=out, pretty=asked)
            logging.getLogger("x").info("hello")
            line = out.getvalue()
            kind = "json" if line.startswith("{") else "colour" if "\x1b" in line else "plain"
            outputs[terminal, asked] = kind

    assert outputs == {
        (False, None): "json",
        (False, True): "plain",
        (False, False): "json",
        (True, None): "colour",
        (True, True): "colour",
        (True, False): "json",
    }


def test_every_logger_writes_the_schema(stream: Stream) -> None:
    """Ours, a library's, uvicorn's from warning up and a warning: one line each, nothing twice."""
    logging.getLogger("tracebaton.http").info("http.request", extra={"fields": {"status": 200}})
    logging.getLogger("some.library").warning("took %s", "long")
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    logging.getLogger("uvicorn.error").warning(
        "Started [%d]", 7, extra={"color_message": "Started [\x1b[36m%d\x1b[0m]"}
    )
    logging.getLogger("uvicorn.access").info("GET / 200")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    lines = stream.lines()

    assert [(line["logger"], line["level"]) for line in lines] == [
        ("tracebaton.http", "info"),
        ("some.library", "warning"),
        ("uvicorn.error", "warning"),
        ("py.warnings", "warning"),
    ]
    assert (lines[0]["status"], lines[2]["event"]) == (200, "Started [7]")
    assert "color_message" not in lines[2]
    assert "DeprecationWarning: old way" in lines[3]["event"]


def test_chatty_libraries_are_quiet_below_warning(stream: Stream) -> None:
    """At debug too: their debug lines carry whole requests."""
    configure_logging(service="api", level="debug", stream=stream)
    for name in QUIET:
        logging.getLogger(name).debug("request headers")
        logging.getLogger(name).info("found credentials")
    logging.getLogger("botocore").warning("retrying")
    logging.getLogger("mine").debug("detail")

    assert [line["event"] for line in stream.lines()] == ["retrying", "detail"]


def test_levels_below_the_chosen_one_are_not_written(stream: Stream) -> None:
    """Nor are those of libraries quieter at a higher level."""
    configure_logging(service="api", level="error", stream=stream)
    logging.getLogger("mine").warning("no")
    logging.getLogger("botocore").warning("no")
    logging.getLogger("mine").error("yes")

    assert [line["event"] for line in stream.lines()] == ["yes"]


def test_configuring_twice_replaces_ours_and_nobody_elses(stream: Stream) -> None:
    """One line an event, and a handler of the app's own keeps getting records."""

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    seen: list[str] = []
    first, second, other = Other(), Other(), Other()
    logging.getLogger().addHandler(other)
    configure_logging(service="api", stream=stream, also=first)
    configure_logging(service="api", stream=stream, also=second)
    logging.getLogger("x").info("once")

    assert len(stream.lines()) == 1
    assert seen == ["once", "once"]  # second's and other's
    assert first not in logging.getLogger().handlers


@dataclass
class Broken(io.StringIO):
    """A stream whose every write fails."""

    error: BaseException
    writes: int = field(default=0)

    def isatty(self) -> bool:
        """Tell that nobody watches."""
        return False

    def write(self, text: str) -> int:
        """Fail."""
        self.writes += 1
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError("gone"),
        OSError(28, "No space left on device"),
        BlockingIOError("full"),
        ValueError("I/O operation on closed file."),
        RecursionError("too deep"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_broken_stream_never_raises(
    stream: Stream, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    """Lines are lost, said so once on stderr, and the next one is tried again."""
    broken = Broken(error)
    configure_logging(service="api", stream=broken)
    for _ in range(3):
        logging.getLogger("x").info("hello")

    assert broken.writes == 3
    assert capsys.readouterr().err.count("log lines are lost") == 1


def test_a_closed_stream_never_raises(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where stderr is closed as well."""
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    configure_logging(service="api", stream=stream)
    stream.close()
    logging.getLogger("x").info("hello")

    assert stream.closed


def test_a_stream_that_knows_ascii_only_gets_escapes(stream: Stream) -> None:
    """A pretty line on a terminal of another age."""
    raw = io.BytesIO()
    configure_logging(service="api", stream=io.TextIOWrapper(raw, "ascii"), pretty=True)
    logging.getLogger("x").info("hellö")

    assert b"hell\\xf6" in raw.getvalue()


SCRIPT = """
import logging, sys
from tracebaton.logs import configure_logging
configure_logging(service="api")
logging.getLogger("x").info("first")
sys.stdin.readline()
for _ in range(3):
    logging.getLogger("x").info("nobody reads this")
"""


def test_a_reader_that_leaves_does_not_change_the_exit_code() -> None:
    """``tracebaton api | head -1``: the process ends as if its output had been read."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate("go\n", timeout=30)

    assert first["event"] == "first"
    assert (process.returncode, stderr.count("log lines are lost: BrokenPipeError")) == (0, 1)
    assert len(stderr.splitlines()) == 1


def test_stdout_swallows_what_it_held_once_its_reader_is_gone(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the flush at exit does not fail."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        configure_logging(service="api")
        logging.getLogger("x").info("hello")
        out.write("more")
        out.flush()

        assert os.path.samestat(os.fstat(out.fileno()), os.stat(os.devnull))


def test_another_stream_of_the_apps_own_is_left_as_it_is(stream: Stream) -> None:
    """Only stdout is given up when its reader is gone."""
    broken = Broken(BrokenPipeError("gone"))
    broken.fileno = _must_not_be_asked  # type: ignore[method-assign]  # a descriptor of the app's
    configure_logging(service="api", stream=broken)
    logging.getLogger("x").info("hello")

    assert broken.writes == 1


def _must_not_be_asked() -> int:
    raise AssertionError("the descriptor was touched")


@pytest.mark.parametrize("make", [JsonFormatter, PrettyFormatter])
def test_a_formatter_is_the_standard_librarys(make: Callable[..., logging.Formatter]) -> None:
    """Any handler of any app can use it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(make(service="api"))
    handler.handle(record("hello"))

    assert "hello" in out.getvalue()
