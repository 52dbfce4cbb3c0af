"""
The one propagator, and the border it guards.

Two carriers, two rules. HTTP headers come from outsiders: the trace is joined, baggage and sampling
are not believed unless the settings say so. Messages come from a queue that only our producers may
write to: they carry the request store, and the head's sampling decision is followed.

`extract()` and `inject()` are what OpenTelemetry's HTTP instrumentations call; `extract_message()`
and `inject_message()` are for the queue.
"""

from tracebaton.propagation.parents import trusted_parent, undecided_parent
from tracebaton.propagation.propagator import (
    MessageContext,
    Propagator,
    SentryMembers,
    installed,
)

__all__ = [
    "MessageContext",
    "Propagator",
    "SentryMembers",
    "installed",
    "trusted_parent",
    "undecided_parent",
]
