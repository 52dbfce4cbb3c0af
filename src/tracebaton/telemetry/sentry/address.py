"""Where a DSN leads, for who talks to Sentry without the SDK's client."""

from typing import NamedTuple

from sentry_sdk.utils import Dsn

__all__ = ["Address", "address"]


class Address(NamedTuple):
    """
    The place that takes envelopes.

    Attributes:
        host: Its host, with the port where that is not the usual one.
        headers: What an envelope is sent with.
    """

    host: str
    project: str
    url: str
    headers: dict[str, str]


def address(dsn: str, *, client: str) -> Address:
    """Return where *dsn* leads; *client* is who says that it sends."""
    parsed = Dsn(dsn)
    auth = parsed.to_auth(client)
    headers = {"content-type": "application/x-sentry-envelope", "x-sentry-auth": auth.to_header()}
    return Address(parsed.netloc, parsed.project_id, auth.get_api_url(), headers)
