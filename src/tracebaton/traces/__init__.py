"""
Traces read back: from the viewer, from Jaeger or from a file, as one tree in order.
"""

from tracebaton.traces.model import Row, Trace, TraceSpan, read_trace
from tracebaton.traces.sources import FileSource, JaegerSource, Source, ViewerSource

__all__ = [
    "FileSource",
    "JaegerSource",
    "Row",
    "Source",
    "Trace",
    "TraceSpan",
    "ViewerSource",
    "read_trace",
]
