"""
An SQS on loopback, for home and for tests: part of the base install, nothing to set up.

``queues`` holds the semantics as pure code on a clock that a test can move, ``wire`` speaks the
AWS JSON protocol, ``server`` listens, ``faults`` break calls on request. Where emulators differ,
AWS's documentation decides.
"""

from tracebaton.local.clock import Clock, ManualClock, SystemClock
from tracebaton.local.fault import Fault
from tracebaton.local.faults import Faults
from tracebaton.local.server import LocalSqs, LocalSqsThread

__all__ = ["Clock", "Fault", "Faults", "LocalSqs", "LocalSqsThread", "ManualClock", "SystemClock"]
