"""
The page's files, held in memory, its modules and its styles each joined into one.

A browser has six connections: as a dozen files the page took three rounds of requests before the
first one for data, which was 100 ms on a busy machine.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tracebaton.errors import NotFound

__all__ = ["PageFile", "answer", "page", "page_files"]

MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


#: How our modules import and export; a browser test fails on any other way.
IMPORT: Final = re.compile(r'^import \{ (.+) \} from "\./(\w+)\.js";$', re.MULTILINE)
#: Where the page has its first answer, `page()` says which.
FIRST: Final = b"null"
EXPORT: Final = re.compile(r"^export (?=(?:function|class|const) (\w+))", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, with the headers of its answer."""

    body: bytes
    headers: Mapping[str, str]


def page_files(folder: Path) -> dict[str, PageFile]:
    """Return the files of *folder* by name, with ``page.js`` and ``page.css`` made of them."""
    sources = {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted(folder.iterdir())
        if path.suffix in MEDIA_TYPES
    }
    styles = ("viewer.css", "tasks.css")
    sources["page.css"] = "".join(sources[name] for name in styles)
    sources["page.js"] = joined(sources, "viewer")
    return {name: _file(name, text.encode()) for name, text in sources.items()}


def joined(sources: Mapping[str, str], entry: str) -> str:
    """Return the module *entry* with all that it imports as one, each still with its own names."""
    done: dict[str, str] = {}

    def add(name: str) -> None:
        source = sources[f"{name}.js"]
        for _, other in IMPORT.findall(source):
            if other not in done:
                add(other)
        told = ", ".join(EXPORT.findall(source))
        body = EXPORT.sub("", IMPORT.sub(r"const { \1 } = $\2;", source))
        done[name] = f"const ${name} = (() => {{\n{body}return {{ {told} }};\n}})();\n"

    add(entry)
    return "".join(done.values())


def _file(name: str, body: bytes) -> PageFile:
    headers = {
        "content-type": f"{MEDIA_TYPES[Path(name).suffix]}; charset=utf-8",
        # The next version's page must not run with this one's modules.
        "cache-control": "no-cache",
        "etag": f'"{hashlib.sha256(body).hexdigest()[:20]}"',
    }
    return PageFile(body, headers)


def answer(request: Request, files: Mapping[str, PageFile], name: str) -> Response:
    """Return the file *name*, or that it is the one that the browser has."""
    if (file := files.get(name)) is None:
        raise NotFound("the page has no such file")
    return _answered(request, file)


def _answered(request: Request, file: PageFile) -> Response:
    if request.headers.get("if-none-match") == file.headers["etag"]:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=file.headers)
    return Response(file.body, headers=file.headers)


def page(request: Request, files: Mapping[str, PageFile], first: bytes) -> Response:
    """
    Return the page with *first* in it, a JSON document.

    Args:
        first: What the page shows before it has asked. A ``<`` in it is written so that no text
            from outside can end the element that it stands in.
    """
    before, _, after = files["index.html"].body.partition(FIRST)
    body = b"".join((before, first.replace(b"<", rb"\u003c"), after))
    return _answered(request, _file("index.html", body))
