"""Secrets among the attributes of metrics: gone, and the series still add up."""

import json
from typing import Any

import pytest
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.metrics.view import (
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider

from tracebaton.telemetry.masked_metrics import mask_metrics
from tracebaton.telemetry.prometheus import Exposition

SECRET = "c4n4ry-Hunter2"
#: Two series that are one without their secrets, and one that has none.
SERIES: list[dict[str, Any]] = [
    {"password": SECRET, "kind": "a"},
    {"password": f"{SECRET}-2", "kind": "a"},
    {"kind": "b", "tags": ["x", "y"]},
]
MASKED = {"password": "[redacted]", "kind": "a"}


def masked(meter_of: Any) -> dict[str, list[Any]]:
    """Return the points of every metric, by its name, after masking."""
    reader = InMemoryMetricReader()
    exponential = View(
        instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation()
    )
    provider = MeterProvider(
        metric_readers=[reader],
        views=[exponential, View(instrument_name="narrow", attribute_keys={"kind"})],
        exemplar_filter=AlwaysOnExemplarFilter(),
        shutdown_on_exit=False,
    )
    meter_of(provider.get_meter("test"))
    data = reader.get_metrics_data()
    provider.shutdown()
    assert data is not None
    clean = mask_metrics(data)
    assert SECRET not in clean.to_json()
    (resource,) = clean.resource_metrics
    return {
        metric.name: list(metric.data.data_points)
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_what_is_the_same_without_its_secret_is_added_up() -> None:
    """Counters and histograms keep their totals; the attributes that are none stay."""

    def measure(meter: Meter) -> None:
        counter, histogram = meter.create_counter("opened"), meter.create_histogram("took")
        for number, attributes in enumerate(SERIES):
            counter.add(number + 1, attributes)
            histogram.record(number + 1, attributes)

    points = masked(measure)
    (first, other), (both, _) = points["opened"], points["took"]

    assert [(dict(point.attributes), point.value) for point in (first, other)] == [
        (MASKED, 3),
        ({"kind": "b", "tags": ("x", "y")}, 3),
    ]
    assert (both.count, both.sum, both.min, both.max) == (2, 3, 1, 2)
    assert sum(both.bucket_counts) == 2


@pytest.mark.parametrize("name", ["gauge", "exponential"])
def test_what_cannot_be_added_up_is_one_of_them(name: str) -> None:
    """Never two series of one name, which a backend takes for a mistake."""

    def measure(meter: Meter) -> None:
        gauge, exponential = meter.create_gauge("gauge"), meter.create_histogram("exponential")
        for number, attributes in enumerate(SERIES[:2]):
            gauge.set(number, attributes)
            exponential.record(number + 1, attributes)

    (point,) = masked(measure)[name]

    assert dict(point.attributes) == MASKED


def test_an_exemplar_has_no_secret_either() -> None:
    """What a view leaves out of the series is kept there."""

    def measure(meter: Meter) -> None:
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        with tracer.start_as_current_span("x"):
            meter.create_histogram("narrow").record(1, SERIES[0])

    (point,) = masked(measure)["narrow"]

    assert [dict(one.filtered_attributes) for one in point.exemplars] == [
        {"password": "[redacted]"}
    ]


def test_without_secrets_nothing_is_touched() -> None:
    """The very object goes on."""
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("test").create_counter("opened").add(1, SERIES[2])
    data = reader.get_metrics_data()
    provider.shutdown()

    assert isinstance(data, MetricsData)
    assert mask_metrics(data) is data
    assert json.loads(data.to_json())


def test_a_scrape_gets_no_secret() -> None:
    """Prometheus would refuse all of it for one series that stands twice."""
    exposition = Exposition()
    provider = MeterProvider(metric_readers=[exposition.reader], shutdown_on_exit=False)
    counter = provider.get_meter("test").create_counter("opened")
    for attributes in SERIES:
        counter.add(1, attributes)
    _, text = exposition("text/plain")
    provider.shutdown()

    assert SECRET not in text.decode()
    assert text.decode().count('password="[redacted]"') == 1
