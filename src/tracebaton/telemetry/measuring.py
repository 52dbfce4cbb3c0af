"""
Counters and histograms of our own meter provider, at a third of what a measurement costs there.

The SDK makes an object of each measurement, cleans and hashes its attributes, and asks for the
current span three times. Here an instrument remembers which series its attributes lead to, and
goes there. The series, their sums and buckets are the SDK's; what is odd goes its way as a whole.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from math import inf
from time import time_ns
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.metrics import Meter as ApiMeter
from opentelemetry.sdk.metrics import Meter

__all__ = ["OwnMeter", "quickened"]

Attributes = Mapping[str, Any] | None
#: Values of which none is equal to one of another type: a 1 that is True is another series.
_PLAIN: Final = frozenset({str, int})
#: Series of one instrument that are remembered.
_SERIES: Final = 1000
#: Nanoseconds between two exemplars of one bucket, which keeps the last one only.
_PAUSE: Final = 100_000_000


class OwnMeter(Meter):
    """The SDK's meter, whose counters and histograms know their series."""

    def create_counter(self, name: str, unit: str = "", description: str = "") -> Counter:
        """Return a counter."""
        counter = super().create_counter(name, unit, description)
        _remember(counter, "add")
        return counter

    def create_histogram(
        self,
        name: str,
        unit: str = "",
        description: str = "",
        *,
        explicit_bucket_boundaries_advisory: Sequence[float] | None = None,
    ) -> Histogram:
        """Return a histogram."""
        histogram = super().create_histogram(
            name,
            unit,
            description,
            explicit_bucket_boundaries_advisory=explicit_bucket_boundaries_advisory,
        )
        _remember(histogram, "record")
        return histogram


def quickened(meter: ApiMeter) -> ApiMeter:
    """Return *meter*, by now one of ours if it is the SDK's; its provider knows it as the same."""
    if type(meter) is Meter:
        meter.__class__ = OwnMeter
    return meter


def _remember(instrument: Counter | Histogram, method: str) -> None:
    """
    Have *instrument* remember its series, in an SDK whose insides are known.

    Its class stays: the SDK looks up by it how an instrument is aggregated.
    """
    if method in vars(instrument):
        return
    try:
        memory = _Memory(instrument, getattr(instrument, method))
    except AttributeError:  # an SDK that we do not know measures as it does
        return
    vars(instrument)[method] = memory.measure


def _are_plain(attributes: Mapping[str, Any]) -> bool:
    return _PLAIN.issuperset(map(type, attributes.values()))


class _Measured:
    """What the SDK's aggregations read of a measurement."""

    __slots__ = ("attributes", "context", "time_unix_nano", "value")

    def __init__(
        self, value: float, time_unix_nano: int, attributes: Attributes, context: Context | None
    ) -> None:
        self.value = value
        self.time_unix_nano = time_unix_nano
        self.attributes = attributes
        self.context = context


class _Series:
    """Where the measurements with certain attributes go, in each reader."""

    __slots__ = ("aggregations", "bounds", "due", "homes")

    def __init__(self, homes: Sequence[tuple[Mapping[Any, Any], Any]]) -> None:
        """Take what the SDK has in its *homes*: mappings and keys in them."""
        self.homes = homes
        self.aggregations = tuple(home[key] for home, key in homes)
        self.bounds: Sequence[float] = getattr(self.aggregations[0], "_boundaries", ())
        #: When the next exemplar of each bucket may be taken.
        self.due: dict[int, int] = {}

    @property
    def collected(self) -> bool:
        """Tell whether there was a collection since the last measurement."""
        return self.aggregations[0]._value is None

    @property
    def dropped(self) -> bool:
        """Tell whether the SDK has it no longer: at a collection, a later SDK may drop some."""
        pairs = zip(self.homes, self.aggregations, strict=True)
        return any(home.get(key) is not held for (home, key), held in pairs)


class _Memory:
    """The series of one instrument."""

    def __init__(self, instrument: Any, whole: Callable[..., None]) -> None:
        self._instrument = instrument
        self._whole = whole
        self._is_enabled: Callable[[], bool] = instrument._is_enabled
        self._consumer = instrument._measurement_consumer
        self._exemplars = self._consumer._sdk_config.exemplar_filter
        self._storages = self._consumer._reader_storages
        self._room = _SERIES
        self._known: dict[tuple[tuple[str, Any], ...], _Series] = {}

    def measure(
        self, amount: float, attributes: Attributes = None, context: Context | None = None
    ) -> None:
        """Measure *amount*."""
        if attributes is None:
            attributes = {}
        if type(attributes) is not dict or not _are_plain(attributes):
            self._whole(amount, attributes, context)
            return
        if not 0 <= amount < inf or not self._is_enabled():
            self._whole(amount, attributes, context)  # which says what is wrong with it
            return
        key = tuple(attributes.items())
        series = self._known.get(key)
        if series is not None and series.collected and series.dropped:
            self._known.pop(key, None)
            series = None
        # The storages of the readers are replaced as a whole, in a forked child for one.
        if series is None or self._consumer._reader_storages is not self._storages:
            self._whole(amount, attributes, context)
            self._learn(key, attributes)
            return
        measured, samples = self._sampled(series, amount, attributes, context)
        for aggregation in series.aggregations:
            aggregation.aggregate(measured, samples)

    def _sampled(
        self, series: _Series, amount: float, attributes: dict[str, Any], context: Context | None
    ) -> tuple[_Measured, bool]:
        """Return the measurement, and whether it may become an exemplar."""
        now, bucket = time_ns(), bisect_left(series.bounds, amount)
        if series.collected:  # exemplars too
            series.due.clear()
        if now < series.due.get(bucket, 0):
            return _Measured(amount, now, None, None), False
        here = context or get_current()
        if not self._exemplars.should_sample(amount, now, attributes, here):
            return _Measured(amount, now, None, None), False
        series.due[bucket] = now + _PAUSE
        return _Measured(amount, now, attributes.copy(), here), True

    def _learn(self, key: tuple[tuple[str, Any], ...], attributes: dict[str, Any]) -> None:
        """Note where the SDK has put what was measured."""
        if self._consumer._reader_storages is not self._storages:
            self._known, self._storages = {}, self._consumer._reader_storages
        if len(self._known) >= self._room:
            return
        try:
            found = [
                _home(match, attributes)
                for storage in self._storages.values()
                for match in storage._instrument_view_instrument_matches[self._instrument]
            ]
        except (AttributeError, KeyError):  # see `_remember()`
            found = []
        homes = [one for one in found if one is not None]
        if homes and len(homes) == len(found):
            self._known[key] = _Series(homes)
        else:
            self._room = 0  # a view drops them, or nobody reads: nothing is to be remembered


def _home(match: Any, attributes: dict[str, Any]) -> tuple[Mapping[Any, Any], Any] | None:
    """Return where the aggregation of a series behind one view is; None where nothing is kept."""
    names = match._view._attribute_keys
    kept = attributes if names is None else {k: v for k, v in attributes.items() if k in names}
    home: Mapping[Any, Any] = match._attributes_aggregation
    for key, aggregation in tuple(home.items()):
        held = aggregation._attributes
        if held == kept and hasattr(aggregation, "_value") and _are_plain(held):
            return home, key
    return None
