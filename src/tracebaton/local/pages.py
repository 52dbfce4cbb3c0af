"""What the local SQS shows and takes beside SQS itself: counters and faults."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tracebaton.local.fault import Fault
from tracebaton.local.faults import Faults
from tracebaton.local.http1 import Request, Response

__all__ = ["is_page", "page"]

_FAULTS = "/faults"


def is_page(request: Request) -> bool:
    """Return whether *request* is for a page; any other POST is one of an SQS client."""
    return request.method != "POST" or request.path == _FAULTS


def page(request: Request, faults: Faults, stats: Callable[[], Mapping[str, Any]]) -> Response:
    """
    Answer a request for a page.

    ``GET /stats``, ``GET /faults``, ``POST /faults`` with the fields of a ``Fault``,
    ``DELETE /faults`` for all and ``DELETE /faults/{id}`` for one.
    """
    method, path = request.method, request.path
    if method in ("GET", "HEAD") and path == "/stats":
        return Response.of_json(200, stats())
    if method in ("GET", "HEAD") and path == _FAULTS:
        return Response.of_json(200, {"faults": faults.list()})
    if method == "POST" and path == _FAULTS:
        return _add(request, faults)
    if method == "DELETE" and path == _FAULTS:
        faults.clear()
        return Response.of_json(200, {})
    if method == "DELETE" and path.startswith(f"{_FAULTS}/"):
        found = faults.remove(path.removeprefix(f"{_FAULTS}/"))
        return Response.of_json(200 if found else 404, {})
    text = "POST an SQS request, GET /stats, or GET, POST or DELETE /faults."
    return Response.of_json(404, {"message": text})


def _add(request: Request, faults: Faults) -> Response:
    try:
        given = json.loads(request.body)
        if not isinstance(given, dict):
            raise ValueError("A fault is an object.")
        return Response.of_json(201, {"id": faults.add(Fault.parse(given))})
    except (ValueError, RecursionError) as exc:
        return Response.of_json(400, {"message": str(exc)})
