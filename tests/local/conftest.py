"""What the tests of the local SQS share."""

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

        sys.setprofile(profile)
        try:
            work()
        finally:
            sys.setprofile(None)
        return count

    return measure
