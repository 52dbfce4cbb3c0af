"""Fixtures that every test may ask for."""

from backends import jaeger, sentry

__all__ = ["jaeger", "sentry"]
