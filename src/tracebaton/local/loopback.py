"""What keeps the local SQS, which has no authentication, to this machine."""

import ipaddress
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["loopback", "stranger"]

_LOCAL: Final = r"(?:localhost|127\.0\.0\.1|\[::1\])(?::[0-9]{1,5})?"
_LOCAL_HOST: Final = re.compile(_LOCAL, re.I | re.A)
_LOCAL_ORIGIN: Final = re.compile(f"https?://{_LOCAL}", re.I | re.A)


def loopback(host: str) -> str:
    """Return the address to listen on, or raise ``ValueError`` if it is not of loopback."""
    # A name would be looked up: "localhost" may be two addresses, of which port 0 makes two ports.
    if host == "localhost":
        return "127.0.0.1"
    try:
        if ipaddress.ip_address(host).is_loopback:
            return host
    except ValueError:
        pass  # a name: refused below
    raise ValueError(
        f"The local SQS has no authentication and listens on loopback only, not on {host!r}: "
        "use 127.0.0.1, ::1 or localhost."
    )


def stranger(headers: Mapping[str, str]) -> str | None:
    """Return why a request may not pass: a web page of elsewhere could have sent it."""
    if not _LOCAL_HOST.fullmatch(headers.get("host", "")):
        return "Host must be localhost, 127.0.0.1 or [::1]."
    origin = headers.get("origin")
    if origin is not None and not _LOCAL_ORIGIN.fullmatch(origin):
        return "Requests of other sites are refused."
    return None
