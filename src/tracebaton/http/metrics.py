"""
``/metrics``: what this process measured, for Prometheus, or what several did.

Answered where ``OTEL_METRICS_EXPORTER`` names ``prometheus``, to whom the API answers too: numbers
by route and queue are nobody else's business. It leaves no span, no metric and no line.
"""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from tracebaton.errors import NotFound
from tracebaton.http.auth import Authenticator
from tracebaton.semconv import X_API_KEY

__all__ = ["Exposition", "Scrape", "merged", "merged_metrics_route", "metrics_route"]

#: Returns the content type that an ``Accept`` header asks for, and the text.
Exposition = Callable[[str], tuple[str, bytes]]
#: Returns the text of each process that has one, by its name; it gets the caller's credentials.
Scrape = Callable[[Mapping[str, str]], Awaitable[Mapping[str, str]]]

#: The text format that every scraper reads, and the one that is merged.
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_UNCACHED: Final = {"cache-control": "no-store"}
#: What a caller may show to say who it is.
_CREDENTIALS: Final = ("authorization", X_API_KEY)
_NONE: Final = "No metrics here: OTEL_METRICS_EXPORTER does not name prometheus."
#: What the lines that name a family begin with.
_HEAD: Final = ("# HELP ", "# TYPE ")
#: A sample's name, its labels where it has any, and the rest of its line.
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?( .*)")


def metrics_route(
    exposition: Callable[[], Exposition | None],
    authenticator: Callable[[], Authenticator] | None = None,
) -> BaseRoute:
    """
    Return the route.

    Args:
        exposition: Looked up at each request, since an app knows its settings when it runs; None
            where nobody asked for Prometheus.
        authenticator: Tells who may ask, where no `AuthLayer` stands in front.
    """

    async def answer(request: Request) -> Response:
        if authenticator is not None:
            await authenticator().user_of(request.scope["headers"])
        found = exposition()
        if found is None:
            raise NotFound(_NONE)
        # Thousands of series take milliseconds, which requests need not wait for.
        content_type, text = await run_in_threadpool(found, request.headers.get("accept", ""))
        return Response(text, media_type=content_type, headers=_UNCACHED)

    return Route("/metrics", answer)


def merged_metrics_route(scrape: Scrape, authenticator: Callable[[], Authenticator]) -> BaseRoute:
    """
    Return the route of a process that answers for others, each sample with its process's name.

    Args:
        authenticator: Tells who may ask.
    """

    async def answer(request: Request) -> Response:
        await authenticator().user_of(request.scope["headers"])
        shown = {
            name: value for name in _CREDENTIALS if (value := request.headers.get(name)) is not None
        }
        texts = await scrape(shown)
        if not texts:
            raise NotFound(_NONE)
        return Response(merged(texts), media_type=_TEXT, headers=_UNCACHED)

    return Route("/metrics", answer)


def merged(texts: Mapping[str, str]) -> str:
    """
    Return *texts* as one, a family of samples in one place, each with the label ``process``.

    Args:
        texts: In Prometheus's text format, by the name of the process.
    """
    heads: dict[str, dict[str, None]] = {}
    samples: dict[str, list[str]] = {}
    for process, text in texts.items():
        for family, line in _by_family(text):
            if line.startswith(_HEAD):
                heads.setdefault(family, {})[line] = None  # in order, each once
            elif found := _SAMPLE.fullmatch(line):
                name, labels, value = found.groups()
                label = f'process="{process}"' + (f",{labels}" if labels else "")
                samples.setdefault(family, []).append(f"{name}{{{label}}}{value}")
    families = [*heads, *(family for family in samples if family not in heads)]
    lines = [line for one in families for line in (*heads.get(one, ()), *samples.get(one, ()))]
    return "\n".join(lines) + "\n"


def _by_family(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line with the family that it belongs to: the last one named before it."""
    family = ""
    for line in text.splitlines():
        if line.startswith(_HEAD):
            family = line.split(" ", 3)[2]
        yield family, line
