"""Kinds of values that variables have, and what is said where a text is none of its kind."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

__all__ = [
    "Contradiction",
    "HttpUrl",
    "Names",
    "QueueNames",
    "QueueSetting",
    "QueueUrls",
    "Rate",
    "Rates",
    "http_url",
    "names_in",
    "on_loopback",
]

#: Variables that do not fit each other, and the line about it.
Contradiction = tuple[set[str], str]
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


def names_in(value: object) -> object:
    """Return the set of what stands between the commas."""
    return (
        frozenset(filter(None, map(str.strip, value.split(","))))
        if isinstance(value, str)
        else value
    )


Names = Annotated[frozenset[str], BeforeValidator(names_in)]
Rate = Annotated[float, Field(ge=0, le=1)]


def _rates(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in map(str.strip, value.split(",")) if part]
    if not all(name.strip() and rate.strip() for name, _, rate in pairs):
        raise ValueError("has to be NAME=RATE, separated by commas")
    return {" ".join(name.split()): rate.strip() for name, _, rate in pairs}


Rates = Annotated[Mapping[str, Rate], BeforeValidator(_rates)]


def http_url(value: str) -> str:
    """Return *value*, which has to be an http(s) URL."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("has to be an http(s) URL")
    _ = parts.port  # raises where it is not one
    return value


HttpUrl = Annotated[str | None, BeforeValidator(http_url)]


@dataclass(frozen=True, slots=True)
class QueueSetting:
    """
    One of the queues a process works on.

    Attributes:
        queue: Its URL or its name.
        weight: Its share of the handlers where several queues have messages.
    """

    queue: str
    weight: int = 1


def _queue_list(value: object) -> object:
    """Read ``QUEUE``, or several separated by commas, each with ``*WEIGHT`` where it is not 1."""
    if not isinstance(value, str):
        return value
    queues = []
    for part in filter(None, map(str.strip, value.split(","))):
        queue, star, weight = part.rpartition("*")
        if star and not re.fullmatch("[1-9][0-9]{0,3}", weight.strip()):
            raise ValueError("has a weight that is not a number from 1 to 9999")
        queues.append(QueueSetting(queue.strip(), int(weight)) if star else QueueSetting(part))
    if not queues or len({one.queue for one in queues}) < len(queues):
        raise ValueError("names no queue, or one twice")
    return tuple(queues)


def _queue_urls(value: object) -> object:
    queues = _queue_list(value)
    if (
        isinstance(queues, tuple)
        and len({urlsplit(http_url(one.queue)).netloc for one in queues}) > 1
    ):
        raise ValueError("names queues of different endpoints")
    return queues


QueueNames = Annotated[tuple[QueueSetting, ...], BeforeValidator(_queue_list)]
QueueUrls = Annotated[tuple[QueueSetting, ...], BeforeValidator(_queue_urls)]


def on_loopback(url: str | None) -> bool:
    """Tell whether *url* names this machine."""
    return bool(_LOOPBACK.fullmatch(urlsplit(url or "").hostname or ""))
