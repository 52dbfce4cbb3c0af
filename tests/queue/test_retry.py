"""Exponential back-off with full jitter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebaton.queue.retry import RetryPolicy


def longest(low: float, high: float) -> float:
    """Draw the upper end."""
    return high


def shortest(low: float, high: float) -> float:
    """Draw the lower end."""
    return low


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 1), (2, 2), (3, 4), (8, 128), (9, 256), (10, 300), (1000, 300)]
)
def test_the_upper_end_doubles_up_to_the_cap(attempt: int, seconds: int) -> None:
    """With the contract's base of 1 s and cap of 300 s."""

    assert RetryPolicy(uniform=longest).delay(attempt) == seconds


def test_the_lower_end_is_one_second() -> None:
    """Full jitter draws from zero; zero whole seconds would come back at once."""

    assert [RetryPolicy(uniform=shortest).delay(attempt) for attempt in (1, 5, 50)] == [1, 1, 1]


def test_the_draw_is_between_zero_and_the_upper_end() -> None:
    """The whole range, not a part around the middle."""
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 2.2

    policy = RetryPolicy(base_seconds=0.5, cap_seconds=3, uniform=uniform)

    assert [policy.delay(attempt) for attempt in (1, 2, 3, 4)] == [3] * 4
    assert drawn == [(0, 0.5), (0, 1.0), (0, 2.0), (0, 3)]


@given(
    attempt=st.integers(1, 10**6),
    base=st.floats(0.001, 43_200),
    cap=st.floats(0.001, 43_200),
)
def test_a_delay_is_one_that_sqs_takes(attempt: int, base: float, cap: float) -> None:
    """Whole seconds from 1 to 12 hours, whatever the policy, without an overflow."""
    delay = RetryPolicy(base_seconds=base, cap_seconds=cap).delay(attempt)

    assert 1 <= delay <= max(1, cap + 1) <= 43_201


@pytest.mark.parametrize(("attempt", "last"), [(1, False), (4, False), (5, True), (6, True)])
def test_the_last_attempt_is_the_queues_last(attempt: int, *, last: bool) -> None:
    """And one past it, where the policy was tightened meanwhile."""

    assert RetryPolicy(max_attempts=5).is_last(attempt) is last
