"""What our own meter provider measures is what the SDK's does."""

from collections.abc import Iterable
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import Counter, Histogram, Meter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider

from tracebaton.telemetry import measuring
from tracebaton.telemetry.adoption import OwnMeterProvider

VIEWS = [
    View(instrument_name="dropped", aggregation=DropAggregation()),
    View(instrument_name="narrow", attribute_keys={"queue"}),
    View(instrument_name="twice", name="first"),
    View(instrument_name="twice", name="second", attribute_keys={"queue"}),
    View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation()),
]
NAMES = ("plain", "dropped", "narrow", "twice", "exponential")
#: Amounts and attributes, odd ones too.
MEASURED: list[tuple[float, Any]] = [
    (1, {"queue": "jobs", "type": "a"}),
    (2, {"type": "a", "queue": "jobs"}),
    (3, {"queue": "jobs", "type": "b"}),
    (0.5, {"queue": "jobs", "type": 1}),
    (4, {"queue": "jobs", "type": True}),
    (5, {"queue": "jobs", "type": 1.0}),
    (6, {"queue": ["jobs"], "type": None}),
    (7, {}),
    (8, None),
    (-1, {"queue": "jobs", "type": "a"}),
    (float("inf"), {"queue": "jobs", "type": "a"}),
    (9, (("queue", "jobs"),)),
]


def instruments(meter: Meter) -> Iterable[Counter | Histogram]:
    """Return an instrument for each view; asked again, the same ones."""
    for name in NAMES:
        kind = meter.create_histogram if name == "exponential" else meter.create_counter
        yield kind(name)
    yield meter.create_histogram("bounds", explicit_bucket_boundaries_advisory=(1, 5))


def measure(instrument: Counter | Histogram, amount: float, attributes: Any) -> None:
    """Measure as the instrument does."""
    call = instrument.add if isinstance(instrument, Counter) else instrument.record
    call(amount, attributes)


def told(data: MetricsData | None) -> list[Any]:
    """Return the series without their times and their exemplars."""
    assert data is not None
    kept = []
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            values = {
                name: value
                for name, value in vars(point).items()
                if "time" not in name and name not in {"attributes", "exemplars"}
            }
            types = {key: type(value) for key, value in (point.attributes or {}).items()}
            kept.append((metric.name, point.attributes, types, values))
    return kept


def collected(provider: type[MeterProvider]) -> list[Any]:
    """Measure twice with a collection in between and return what two readers saw."""
    readers = [InMemoryMetricReader(), InMemoryMetricReader()]
    made = provider(metric_readers=readers, views=VIEWS, shutdown_on_exit=False)
    seen = []
    for _ in range(2):
        for _ in range(3):
            for instrument in instruments(made.get_meter("test")):
                for amount, attributes in MEASURED:
                    measure(instrument, amount, attributes)
        seen += [told(reader.get_metrics_data()) for reader in readers]
    made.shutdown()
    return seen


def test_a_reader_sees_what_it_sees_of_the_sdks() -> None:
    """Whatever the attributes, the amounts and the views are."""
    assert collected(OwnMeterProvider) == collected(MeterProvider)


def test_more_series_than_are_remembered_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others go the SDK's way."""
    monkeypatch.setattr(measuring, "_SERIES", 2)
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("many")
    for _ in range(3):
        for number in range(4):
            counter.add(1, {"number": number})

    points = [
        (attributes, values["value"])
        for _, attributes, _, values in told(reader.get_metrics_data())
    ]

    assert points == [({"number": number}, 3) for number in range(4)]


def test_a_reader_that_comes_later_sees_what_comes_after_it() -> None:
    """The first one sees all of it; a forked child's readers start anew by the same way."""
    first, later = InMemoryMetricReader(), InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[first], shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("sent")
    for _ in range(3):
        counter.add(1, {"queue": "jobs"})
    consumer: Any = provider._measurement_consumer
    later._set_collect_callback(consumer.collect)
    consumer.add_metric_reader(later)
    for _ in range(3):
        counter.add(1, {"queue": "jobs"})

    seen = [told(reader.get_metrics_data())[0][3]["value"] for reader in (first, later)]

    assert seen == [6, 3]


def test_a_sampled_span_is_the_exemplar_of_its_measurement() -> None:
    """One in each bucket after each collection, however fast measurements follow one another."""
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    histogram = provider.get_meter("test").create_histogram(
        "took", explicit_bucket_boundaries_advisory=(1,)
    )
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    histogram.record(0.5, {"queue": "jobs"})
    for _ in range(2):
        with tracer.start_as_current_span("span") as span:
            for amount in (0.1, 0.2, 2.0):
                histogram.record(amount, {"queue": "jobs"})
        data = reader.get_metrics_data()
        assert data is not None
        (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
        seen = [(one.value, one.span_id) for one in point.exemplars]
        here = span.get_span_context().span_id

        assert seen == [(0.1, here), (2.0, here)]


def test_a_series_that_the_sdk_has_dropped_is_found_again() -> None:
    """This SDK keeps each for ever; one that does not would lose what goes to the old one."""
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    counter: Any = provider.get_meter("test").create_counter("many")
    for _ in range(2):
        counter.add(1, {"queue": "jobs"})
    reader.get_metrics_data()
    for storage in counter._measurement_consumer._reader_storages.values():
        for match in storage._instrument_view_instrument_matches[counter]:
            match._attributes_aggregation.clear()
    for _ in range(3):
        counter.add(1, {"queue": "jobs"})

    assert [values["value"] for *_, values in told(reader.get_metrics_data())] == [3]


def test_a_given_context_is_the_one_that_counts() -> None:
    """A send's measurement is made outside its span."""
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("sent")
    counter.add(1, {"queue": "jobs"})
    span = TracerProvider(shutdown_on_exit=False).get_tracer("test").start_span("send")
    counter.add(1, {"queue": "jobs"}, trace.set_span_in_context(span))

    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points

    assert [one.trace_id for one in point.exemplars] == [span.get_span_context().trace_id]


def test_without_readers_nothing_is_remembered() -> None:
    """And nothing fails."""
    provider = OwnMeterProvider(shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("nobody")
    for _ in range(2):
        counter.add(1, {"queue": "jobs"})

    assert provider.get_meter("test").create_counter("nobody") is counter


def test_an_sdk_that_we_do_not_know_measures_by_itself() -> None:
    """Whether an instrument of it is another, or a series."""
    reader = InMemoryMetricReader()
    provider = OwnMeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    consumer: Any = provider._measurement_consumer
    known = provider.get_meter("test").create_counter("known")
    known.add(1, {"queue": "jobs", "type": "a"})
    (storage,) = consumer._reader_storages.values()
    (match,) = storage._instrument_view_instrument_matches[known]
    (series,) = match._attributes_aggregation.values()
    held = vars(series).pop("_attributes")
    known.add(1, {"type": "a", "queue": "jobs"})
    vars(series)["_attributes"] = held
    config = vars(consumer).pop("_sdk_config")
    other = provider.get_meter("test").create_counter("other")
    vars(consumer)["_sdk_config"] = config
    other.add(1, {"queue": "jobs"})

    values = [(name, values["value"]) for name, _, _, values in told(reader.get_metrics_data())]

    assert values == [("known", 2), ("other", 1)]
