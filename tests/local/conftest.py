"""What the tests of the local SQS share."""

import gc
import sys

import pytest

from tracebaton.local.clock import ManualClock


@pytest.fixture
def clock():
    """A clock that the test moves."""
    return ManualClock()


@pytest.fixture
def calls():
    """Return a function that counts the Python and C functions which some work calls."""

    def measure(work):
        count = 0

        def profile(frame, event, argument):
            nonlocal count
            count += event in ("call", "c_call")

        # A collection that happens to fall into the work would count finalizers of its own.
        gc.disable()
        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)
            gc.enable()
        return count

    return measure
