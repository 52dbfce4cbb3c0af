"""Options and fixtures that every test may ask for."""

import pytest
from hypothesis import settings

from backends import jaeger, sentry
from tracebaton.settings import prefer_stable_http_conventions

__all__ = ["jaeger", "sentry"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that turns the property tests from a check into a search."""
    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help="random cases of each suite in tests/hostile, from a new seed each run;"
        " by default a few hundred, the same in every run",
    )
    parser.addoption(
        "--minutes",
        type=float,
        default=8.0,
        metavar="M",
        help="minutes after which a suite of --cases leaves off (%(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """
    Keep no database and no deadline: the first makes runs differ, the second fails on a busy box.

    Keep one order of tests from differing from another, too.
    """
    # OpenTelemetry reads them at the first app of a process, which may be any test's.
    prefer_stable_http_conventions()
    bounded = config.getoption("--cases") is None
    settings.register_profile("tracebaton", deadline=None, database=None, derandomize=bounded)
    settings.load_profile("tracebaton")
