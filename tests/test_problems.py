"""One mapping: what each exception means to the caller, the span, the log, Sentry and the retry."""

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, Tracer

from tracebaton import errors
from tracebaton.errors import (
    ConfigurationError,
    LeaseLost,
    QueueUnavailable,
    Reject,
    RetryLater,
    TracebatonError,
    ValidationFailed,
)
from tracebaton.problems import NO_REPORTER, outcome_of, problem, record

GENERIC = "Something went wrong inside the service. Report the correlation id if it stays."


@pytest.mark.parametrize(
    ("exc", "row"),
    [
        (KeyError("x"), ("internal", 500, True, "error", True, False)),
        (TracebatonError("x"), ("internal", 500, False, "error", True, False)),
        (errors.NotFound(), ("not_found", 404, False, "warning", False, False)),
        (errors.TooManyRequests(), ("too_many_requests", 429, True, "warning", False, False)),
        (QueueUnavailable(), ("queue_unavailable", 503, True, "error", True, True)),
        (errors.DependencyTimeout(), ("dependency_timeout", 504, True, "error", True, True)),
        (errors.HandlerTimeout(), ("handler_timeout", 504, True, "error", True, False)),
        (RetryLater(), ("retry_later", 503, True, "warning", False, False)),
        (LeaseLost(), ("lease_lost", 503, True, "warning", False, False)),
        (Reject("no"), ("rejected", 422, False, "warning", False, False)),
        (Reject("no", code="credit"), ("credit", 422, False, "warning", False, False)),
    ],
)
def test_the_mapping(exc: BaseException, row: tuple[object, ...]) -> None:
    """Code, status, retryable, level, reported and outage of what stands for its kind."""
    found = outcome_of(exc)

    assert row == (
        found.code,
        found.status,
        found.retryable,
        found.level,
        found.reported,
        found.outage,
    )


@pytest.mark.parametrize(
    "exc", [KeyError("/srv/secret.py"), TracebatonError("disk sda1 full"), ConfigurationError("/x")]
)
def test_internal_text_is_not_shown(exc: BaseException) -> None:
    """Whatever an unexpected failure says, the caller reads the generic sentence."""

    assert outcome_of(exc).detail == GENERIC


def test_a_chosen_5xx_says_what_its_author_wrote() -> None:
    """An exception of the tree with a code of its own was written for the caller."""

    class ModelDown(errors.DependencyError):
        """The model is away."""

        code = "model_down"

    assert outcome_of(ModelDown()).detail == "The model is away."


def test_the_problem_of_a_validation_error() -> None:
    """RFC 9457 with the extensions of the contract."""
    entry = {"pointer": "/message", "detail": "Field required"}
    document = problem(
        outcome_of(ValidationFailed(errors=[entry])),
        instance="/v1/ai/chat",
        correlation_id="abc",
        trace_id="0" * 31 + "1",
    )

    assert document == {
        "type": "https://tracebaton.dev/errors#validation_failed",
        "title": "Validation Failed",
        "status": 422,
        "detail": "The request body does not fit the schema. See errors for each field.",
        "instance": "/v1/ai/chat",
        "code": "validation_failed",
        "retryable": False,
        "correlation_id": "abc",
        "trace_id": "0" * 31 + "1",
        "errors": [entry],
    }


def test_a_problem_without_errors_has_no_such_field() -> None:
    """And null where nothing is known."""
    document = problem(outcome_of(KeyError()), instance=None, correlation_id=None, trace_id=None)

    assert "errors" not in document
    assert document["trace_id"] is None


@pytest.fixture
def spans() -> tuple[Tracer, InMemorySpanExporter]:
    """Return a tracer and what it recorded."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test"), exporter


def failures(span: ReadableSpan) -> list[object]:
    """Return the types of the exceptions recorded on *span*."""
    return [(event.attributes or {})["exception.type"] for event in span.events]


def test_a_failure_marks_its_span(spans: tuple[Tracer, InMemorySpanExporter]) -> None:
    """Status, error.type and the exception."""
    tracer, exporter = spans
    exc = QueueUnavailable()
    with tracer.start_as_current_span("work"):
        record(exc, outcome_of(exc))
    (span,) = exporter.get_finished_spans()

    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        "queue_unavailable",
    )
    assert dict(span.attributes or {}) == {"error.type": "QueueUnavailable"}
    assert failures(span) == ["tracebaton.errors.QueueUnavailable"]


def test_nested_spans_all_fail_and_record_once(spans: tuple[Tracer, InMemorySpanExporter]) -> None:
    """The innermost has the exception."""
    tracer, exporter = spans
    exc = KeyError("x")
    with tracer.start_as_current_span("outer") as outer:
        with tracer.start_as_current_span("inner"):
            record(exc, outcome_of(exc))
        record(exc, outcome_of(exc), outer)
    inner_span, outer_span = exporter.get_finished_spans()

    assert failures(inner_span) == ["KeyError"]
    assert failures(outer_span) == []
    assert outer_span.status.status_code is StatusCode.ERROR


def test_a_cached_exception_is_recorded_in_each_trace(
    spans: tuple[Tracer, InMemorySpanExporter],
) -> None:
    """An exception object that is raised again is a new failure."""
    tracer, exporter = spans
    exc = KeyError("cached")
    for name in ("one", "two"):
        with tracer.start_as_current_span(name):
            record(exc, outcome_of(exc))

    assert [failures(span) for span in exporter.get_finished_spans()] == [["KeyError"]] * 2


def test_an_exception_that_cannot_be_marked_is_recorded(
    spans: tuple[Tracer, InMemorySpanExporter],
) -> None:
    """One that refuses attributes costs nothing but a second record."""
    tracer, exporter = spans

    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    exc = Closed()
    with tracer.start_as_current_span("work"):
        record(exc, outcome_of(exc))

    assert len(failures(exporter.get_finished_spans()[0])) == 1


def test_a_recorded_exception_has_no_secret_and_a_size(
    spans: tuple[Tracer, InMemorySpanExporter],
) -> None:
    """In its message and in its stack, where the source line repeats it."""
    tracer, exporter = spans
    with tracer.start_as_current_span("work"):
        try:
            raise ValueError("password=hunter2 " + "x" * 100_000)
        except ValueError as exc:
            record(exc, outcome_of(exc))
    (event,) = exporter.get_finished_spans()[0].events
    attributes = dict(event.attributes or {})

    assert (event.name, set(attributes)) == (
        "exception",
        {"exception.type", "exception.message", "exception.stacktrace"},
    )
    assert str(attributes["exception.message"]).startswith("password=[redacted]")
    assert str(attributes["exception.stacktrace"]).startswith("Traceback (most recent call last):")
    assert "hunter2" not in str(attributes)
    assert max(len(str(value)) for value in attributes.values()) <= 8192


def test_an_exception_that_cannot_be_shown_is_recorded(
    spans: tuple[Tracer, InMemorySpanExporter],
) -> None:
    """Telemetry never fails a request, whatever an exception's ``__str__`` does."""
    tracer, exporter = spans

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    exc = Mute()
    with tracer.start_as_current_span("work"):
        record(exc, outcome_of(exc))
    (event,) = exporter.get_finished_spans()[0].events

    assert (event.attributes or {})["exception.message"] == "<Mute that raises RuntimeError>"


def test_without_a_recording_span_nothing_happens() -> None:
    """Outside a span, and in an unsampled trace."""
    exc = KeyError("x")
    record(exc, outcome_of(exc))

    assert not hasattr(exc, "_tracebaton_recorded_in")


def test_without_sentry_nothing_is_sent() -> None:
    """The reporter that stands in for none isolates nothing and has no event id."""
    exc = KeyError("x")
    with NO_REPORTER.isolated():
        event_id = NO_REPORTER.report(exc, outcome_of(exc), mechanism="asgi", tags={})

    assert event_id is None


def test_a_long_path_stays_a_uri_reference() -> None:
    """It is cut between two segments, without a mark and without half a secret."""
    outcome = outcome_of(errors.NotFound())

    def instance(path: str) -> str:
        document = problem(outcome, instance=path, correlation_id=None, trace_id=None)
        return str(document["instance"])

    assert instance("/a/" + "b" * 3_000) == "/a/"
    assert instance("/" + "c/" * 2_000) == "/" + "c/" * 1_023
    assert instance("/" + "d" * 2_047) == "/" + "d" * 2_047
