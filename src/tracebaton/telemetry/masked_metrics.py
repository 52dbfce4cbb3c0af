"""
What metrics lose before a backend or a scrape sees them: secrets among their attributes.

Two series whose attributes are the same without their secrets become one, because a backend takes
the second of two equal ones for a mistake, and Prometheus refuses the whole scrape.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    Sum,
)

from tracebaton.telemetry.masking import mask_attributes

__all__ = ["mask_metrics"]


def mask_metrics(data: MetricsData) -> MetricsData:
    """Return *data* without secrets, itself where there are none."""
    changed = False
    resources = []
    for resource in data.resource_metrics:
        scopes = []
        for scope in resource.scope_metrics:
            metrics = [_metric(metric) for metric in scope.metrics]
            changed |= any(new is not old for new, old in zip(metrics, scope.metrics, strict=True))
            scopes.append(replace(scope, metrics=metrics))
        resources.append(replace(resource, scope_metrics=scopes))
    return replace(data, resource_metrics=resources) if changed else data


def _metric(metric: Metric) -> Metric:
    data: Any = metric.data  # one of four kinds, each with points of its own
    points: Sequence[Any] = data.data_points
    clean = [_point(point) for point in points]
    if all(new is old for new, old in zip(clean, points, strict=True)):
        return metric
    series: dict[Any, Any] = {}
    for point in clean:
        key = frozenset((point.attributes or {}).items())
        known = series.get(key)
        series[key] = point if known is None else _together(known, point, data)
    return replace(metric, data=replace(data, data_points=list(series.values())))


def _point(point: Any) -> Any:
    attributes = mask_attributes(point.attributes)
    filtered = [mask_attributes(exemplar.filtered_attributes) for exemplar in point.exemplars]
    if attributes is None and not any(filtered):
        return point
    exemplars = [
        exemplar if clean is None else replace(exemplar, filtered_attributes=clean)
        for exemplar, clean in zip(point.exemplars, filtered, strict=True)
    ]
    # An attribute that is a list is a tuple to the SDK, so that a series has a key.
    named = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (attributes or dict(point.attributes or {})).items()
    }
    return replace(point, attributes=named, exemplars=exemplars)


def _together(first: Any, second: Any, data: Any) -> Any:
    """Return one point for two: added where they can be, else the later one."""
    exemplars = [*first.exemplars, *second.exemplars]
    if isinstance(first, NumberDataPoint) and isinstance(data, Sum):
        return replace(second, value=first.value + second.value, exemplars=exemplars)
    if isinstance(first, HistogramDataPoint) and first.explicit_bounds == second.explicit_bounds:
        counts = zip(first.bucket_counts, second.bucket_counts, strict=True)
        return replace(
            second,
            count=first.count + second.count,
            sum=first.sum + second.sum,
            bucket_counts=[one + other for one, other in counts],
            min=min(first.min, second.min),
            max=max(first.max, second.max),
            exemplars=exemplars,
        )
    return max(first, second, key=lambda point: point.time_unix_nano)
