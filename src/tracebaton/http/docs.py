"""
``/openapi.json``, and ``/docs``: the same for people, in plain HTML that loads nothing of others.
"""

import json
from html import escape
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from tracebaton.http.answers import JsonResponse
from tracebaton.http.openapi import openapi
from tracebaton.http.service import Service

__all__ = ["docs_routes"]

#: Nothing runs and nothing comes from another place; no other page may frame this one.
_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}
_STYLE: Final = """\
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 0; }
code, pre { font-family: ui-monospace, monospace; }
pre { overflow-x: auto; padding: 1rem; border: 1px solid; border-radius: .3rem; font-size: .85rem; }
"""
_METHODS: Final = ("get", "post", "put", "patch", "delete")


def docs_routes(service: Service, *, title: str, version: str) -> list[BaseRoute]:
    """Return the routes of the document, of the page and of its style."""

    def document() -> dict[str, Any]:
        return openapi(service.registry, service.routes, title=title, version=version)

    async def described(request: Request) -> Response:
        return JsonResponse(document(), headers={"cache-control": "no-cache"})

    async def page(request: Request) -> Response:
        return HTMLResponse(_page(document()), headers=_HEADERS)

    async def style(request: Request) -> Response:
        return Response(_STYLE, media_type="text/css", headers=_HEADERS)

    return [
        Route("/openapi.json", described),
        Route("/docs", page),
        Route("/docs/docs.css", style),
    ]


def _page(document: dict[str, Any]) -> str:
    title = escape(document["info"]["title"])
    operations = "".join(
        _operation(path, method, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    )
    schemas = _block("Schemas", document["components"]["schemas"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="stylesheet"'
        f' href="docs/docs.css"></head><body><h1>{title}</h1>'
        '<p>The same for machines: <a href="openapi.json">openapi.json</a></p>'
        f"{operations}<h2>Schemas</h2>{schemas}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    shown = {name: operation[name] for name in ("parameters", "requestBody") if operation.get(name)}
    answers = {status: answer["description"] for status, answer in operation["responses"].items()}
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>"
        f"<p>{escape(operation.get('summary', ''))}</p>"
        f"{_block('Request', shown) if shown else ''}{_block('Answers', answers)}"
    )


def _block(title: str, content: Any) -> str:
    text = escape(json.dumps(content, indent=2))
    return f"<details><summary>{title}</summary><pre>{text}</pre></details>"
