"""Who decides about a trace, and that the decision is one."""

from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState
from pydantic import BaseModel
from sentry_sdk.tracing_utils import _generate_sample_rand

from tracebaton import Tracebaton
from tracebaton.errors import ConfigurationError
from tracebaton.propagation import Propagator
from tracebaton.telemetry.sampling import HeadRates, HeadSampler, sample_rand

IDS = [Random(n).getrandbits(128) for n in range(400)]
HTTP = "00-{:032x}-1234567890123456-0{}"


def keeps(
    sampler: HeadSampler,
    context: Context,
    trace_id: int = IDS[0],
    attributes: Mapping[str, Any] | None = None,
) -> bool:
    result = sampler.should_sample(context, trace_id, "x", SpanKind.SERVER, attributes)
    return result.decision is Decision.RECORD_AND_SAMPLE


def local_parent(flags: int) -> Context:
    span = SpanContext(IDS[0], 1, False, TraceFlags(flags))
    return trace.set_span_in_context(NonRecordingSpan(span), Context())


def test_the_number_is_sentrys_own() -> None:
    """So that its server reads sample_rand < sample_rate for each kept trace."""
    ours = [sample_rand(trace_id) for trace_id in IDS]

    assert ours == [_generate_sample_rand(f"{trace_id:032x}") for trace_id in IDS]


def test_the_rate_is_met_and_is_the_same_everywhere() -> None:
    """Two processes with one rate agree on each trace without talking."""
    first, second = HeadSampler(0.3), HeadSampler(0.3)
    kept = [keeps(first, Context(), trace_id) for trace_id in IDS]

    assert kept == [keeps(second, Context(), trace_id) for trace_id in IDS]
    assert kept == [sample_rand(trace_id) < 0.3 for trace_id in IDS]
    assert 80 < sum(kept) < 160


@pytest.mark.parametrize("flag", [0, 1])
def test_a_local_parent_is_followed(flag: int) -> None:
    """Whatever the rate is, a trace is not cut in two."""
    for rate in (0, 1):
        assert keeps(HeadSampler(rate), local_parent(flag)) == bool(flag)


@pytest.mark.parametrize("flag", [0, 1])
def test_a_message_is_followed(flag: int) -> None:
    """The head has decided, the worker's rate does not matter."""
    found = Propagator().extract_message({"traceparent": HTTP.format(IDS[0], flag)})

    for rate in (0, 1):
        assert keeps(HeadSampler(rate), found.context) == bool(flag)


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("rate", [0, 1])
def test_an_http_caller_is_followed_where_trusted(flag: int, rate: int) -> None:
    """By default an outsider can neither switch his trace off nor on."""
    context = Propagator().extract({"traceparent": HTTP.format(IDS[0], flag)}, Context())

    assert keeps(HeadSampler(rate), context) == bool(rate)
    assert keeps(HeadSampler(rate, trust_sampling=True), context) == bool(flag)


@pytest.mark.parametrize("rate", [0, 1])
def test_an_open_decision_is_ours(rate: int) -> None:
    """A sentry-trace without a flag, trusted or not, and AWS's header."""
    headers = {"sentry-trace": f"{IDS[0]:032x}-1234567890123456"}
    aws = f"Root=1-{IDS[0]:032x}"[:15] + f"-{f'{IDS[0]:032x}'[8:]};Parent={'1' * 16};Sampled=1"
    browser = Propagator().extract(headers, Context())
    queue = Propagator().extract_message({}, aws_trace_header=aws)

    assert queue.parent.is_valid
    for context in (browser, queue.context):
        assert keeps(HeadSampler(rate, trust_sampling=True), context) == bool(rate)


def test_a_poll_is_sampled_out() -> None:
    """A receive span belongs to no request; inside one it follows its parent."""
    receive = {"messaging.operation.type": "receive"}

    assert not keeps(HeadSampler(1), Context(), attributes=receive)
    assert keeps(HeadSampler(1), local_parent(1), attributes=receive)


@pytest.mark.parametrize("rate", [0, 1])
def test_the_tracestate_goes_on(rate: int) -> None:
    """Kept or dropped, vendors find their entries again."""
    headers = {"traceparent": HTTP.format(IDS[0], 1), "tracestate": "a=1"}
    context = Propagator().extract(headers, Context())

    result = HeadSampler(rate).should_sample(context, IDS[0], "x")

    assert result.trace_state.to_header() == "a=1"


def test_without_a_parent_the_given_state_is_kept() -> None:
    """The API may hand one in."""
    state = TraceState([("a", "1")])

    result = HeadSampler(1).should_sample(Context(), IDS[0], "x", trace_state=state)

    assert result.trace_state is state


def test_a_call_is_recorded_where_its_host_decides() -> None:
    """Unsampled all the same; without the need for it, and for other kinds, nothing is recorded."""
    sampler = HeadSampler(0, record_calls=True)
    decisions = [
        sampler.should_sample(Context(), IDS[0], "x", kind).decision
        for kind in (SpanKind.CLIENT, SpanKind.SERVER)
    ]

    assert decisions == [Decision.RECORD_ONLY, Decision.DROP]


def test_its_description_names_the_rate() -> None:
    """Shown by the SDK in its own telemetry."""
    assert HeadSampler(0.5).get_description() == "HeadSampler{0.5}"


def server(method: str, route: str | None) -> dict[str, str]:
    return {"http.request.method": method} | ({"http.route": route} if route else {})


@pytest.mark.parametrize(
    ("kind", "attributes", "rate"),
    [
        (SpanKind.SERVER, server("GET", "/feed"), 0.1),
        (SpanKind.SERVER, server("POST", "/feed"), 0.2),
        (SpanKind.SERVER, {"http.method": "POST", "http.route": "/feed"}, 0.2),
        (SpanKind.SERVER, server("GET", "/jobs"), 0.3),
        (SpanKind.SERVER, server("GET", "/other"), 1.0),
        (SpanKind.SERVER, server("GET", None), 1.0),
        (SpanKind.SERVER, {"http.route": "/feed"}, 0.1),
        # A request that enqueues a task is still a request.
        (SpanKind.SERVER, server("GET", "/other") | {"tracebaton.task.type": "chat"}, 1.0),
        (SpanKind.CONSUMER, {"tracebaton.task.type": "chat"}, 0.4),
        (SpanKind.PRODUCER, {"tracebaton.task.type": "chat"}, 0.4),
        (SpanKind.CONSUMER, {"tracebaton.task.type": "other"}, 1.0),
        (SpanKind.INTERNAL, None, 1.0),
    ],
)
def test_a_head_may_have_a_rate_of_its_own(
    kind: SpanKind, attributes: dict[str, str] | None, rate: float
) -> None:
    """By method and template, by template, by task type; what is set first wins whole."""
    settings = {"/feed": 0.1, "POST /feed": 0.2}
    rates = HeadRates(1.0, settings, {"GET /feed": 0.9, "GET /jobs": 0.3, "chat": 0.4})
    sampler = HeadSampler(rates)
    kept = [
        sampler.should_sample(Context(), n, "x", kind, attributes).decision
        is Decision.RECORD_AND_SAMPLE
        for n in IDS
    ]

    assert rates.of(kind, attributes) == rate
    assert kept == [sample_rand(n) < rate for n in IDS]


@pytest.mark.parametrize("flag", [0, 1])
def test_a_follower_has_no_rate(flag: int) -> None:
    """The worker does what the head decided, whatever its task's rate is."""
    found = Propagator().extract_message({"traceparent": HTTP.format(IDS[0], flag)})
    task = {"tracebaton.task.type": "chat"}
    for rate in (0.0, 1.0):
        sampler = HeadSampler(HeadRates(rate, {"chat": 1 - rate}))

        assert keeps(sampler, found.context, attributes=task) == bool(flag)


def test_what_was_dropped_is_remembered_with_its_rate() -> None:
    """As many as may still fail; a rate that all have needs no memory."""
    rates = HeadRates(0.5, {"/feed": 0.0})
    sampler = HeadSampler(rates)
    for number in range(1500):
        sampler.should_sample(Context(), number, "x", SpanKind.SERVER, server("GET", "/feed"))
    sampler.should_sample(Context(), IDS[0], "x", SpanKind.SERVER, server("GET", "/other"))

    assert [rates.of_dropped(n) for n in (499, 500, 1499, IDS[0])] == [0.5, 0.0, 0.0, 0.5]


def test_an_application_names_its_rates() -> None:
    """HEAD is answered by GET's handler; a rate that is none stops the import."""
    app = Tracebaton()
    app.route("/feed", sample_rate=0.1)(print)
    app.route("/jobs", methods=["post"], sample_rate=0)(print)
    app.route("/other")(print)
    app.task("chat", model=BaseModel, sample_rate=1)(print)

    assert app.sample_rates == {"GET /feed": 0.1, "HEAD /feed": 0.1, "POST /jobs": 0, "chat": 1}
    for register in (
        lambda: app.route("/wrong", sample_rate=1.5),
        lambda: app.task("wrong", model=BaseModel, sample_rate=float("nan")),
    ):
        with pytest.raises(ConfigurationError, match="sample_rate"):
            register()
