"""
Read a request's JSON body within bounds: of size, of time, of depth.
"""

import asyncio
import json
import math
import re
from functools import lru_cache
from typing import Any, Final, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from tracebaton.errors import (
    MalformedBody,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
    ValidationFailed,
)
from tracebaton.http.validation import LIMIT as MAX_ERRORS
from tracebaton.http.validation import field_errors

__all__ = ["BODY_LIMIT", "BODY_TIMEOUT", "body", "read_bytes", "read_json"]

#: Bytes of a body (SPEC 8).
BODY_LIMIT: Final = 1024 * 1024
#: Seconds a body may take to arrive (SPEC 6).
BODY_TIMEOUT: Final = 30.0
#: Levels of arrays and objects; real documents have a dozen.
MAX_DEPTH: Final = 64

_JSON: Final = re.compile(r"application/([\w.!#$&^-]+\+)?json", re.IGNORECASE)
#: An escaped half of a surrogate pair, alone or not.
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")
#: What may be a number that is none, or one out of range; in a string it costs time only.
_ODD_NUMBER: Final = re.compile(r"NaN|Infinity|[0-9.][eE]\+?[0-9]{3}|[0-9]{40}")

Model = TypeVar("Model", bound=BaseModel)


async def read_json(
    request: Request,
    *,
    limit: int = BODY_LIMIT,
    timeout: float = BODY_TIMEOUT,  # noqa: ASYNC109  the answer to it is a problem of its own
) -> Any:
    """
    Return the JSON document in the body of *request*.

    Args:
        limit: Bytes; a body that says it is longer is refused unread.
        timeout: Seconds until the last byte has to be here.

    Raises:
        UnsupportedMediaType: The content type is another one, or the body is compressed.
        PayloadTooLarge: The body is over *limit*.
        RequestTimeout: The body is slower than *timeout*.
        MalformedBody: The body is empty, no JSON, no UTF-8, or nested too deep.
    """
    return _document(await _text(request, limit, timeout))


async def body(
    request: Request,
    model: type[Model],
    *,
    limit: int = BODY_LIMIT,
    timeout: float = BODY_TIMEOUT,  # noqa: ASYNC109  see read_json()
) -> Model:
    """
    Return the body of *request* as a *model*; see `read_json()` for the bounds.

    Raises:
        ValidationFailed: The document does not fit *model*; each field that does not is named.
    """
    text = await _text(request, limit, timeout)
    document = None if _is_plain(text) else _document(text)
    try:
        # Not the parsed document: a strict model takes a date from JSON text, and not from a str.
        return model.model_validate_json(text)
    except ValidationError as exc:
        document = _document(text) if document is None else document
        raise ValidationFailed(errors=_entries(exc, document)) from None


async def _text(request: Request, limit: int, seconds: float) -> str:
    content_type = request.headers.get("content-type")
    if content_type is not None and not _is_json(content_type):
        raise UnsupportedMediaType
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType(
            "The request body is compressed. Send it without a Content-Encoding.",
            headers={"accept-encoding": "identity"},  # RFC 9110, 15.5.16
        )
    raw = await read_bytes(request, limit=limit, timeout=seconds)
    if not raw.strip():
        raise MalformedBody("The request body is empty; it has to be a JSON document.")
    if content_type is None:
        raise UnsupportedMediaType
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise MalformedBody("The request body is not valid UTF-8.") from None


@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    media_type, *parameters = (part.strip() for part in content_type.split(";"))
    charsets = [p[8:].strip('"').lower() for p in parameters if p.lower().startswith("charset=")]
    return bool(_JSON.fullmatch(media_type)) and all(c in ("utf-8", "utf8") for c in charsets)


async def read_bytes(
    request: Request,
    *,
    limit: int = BODY_LIMIT,
    timeout: float = BODY_TIMEOUT,  # noqa: ASYNC109  see read_json()
) -> bytes:
    """
    Return the body of *request*, whatever it is.

    Raises:
        PayloadTooLarge: The body is over *limit*.
        RequestTimeout: The body is slower than *timeout*.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        _refuse(limit)
    try:
        async with asyncio.timeout(timeout):  # half of what anyio's costs
            return await _collect(request, limit)
    except TimeoutError:
        # The rest of the body would be read as the next request: this connection is over.
        close = {"connection": "close"} if request.scope["http_version"] < "2" else {}
        raise RequestTimeout(
            f"The request body did not arrive within {timeout:g} seconds. Send it again.",
            headers=close,
        ) from None


async def _collect(request: Request, limit: int) -> bytes:
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            _refuse(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def _refuse(limit: int) -> NoReturn:
    raise PayloadTooLarge(f"The request body is over the limit of {limit} bytes.")


def _is_plain(text: str) -> bool:
    """
    Tell whether the model's own parser refuses all of *text* that `_document()` would.

    It takes numbers that are none and those out of range, and 200 levels.
    """
    return text.count("[") + text.count("{") <= MAX_DEPTH and not _ODD_NUMBER.search(text)


def _document(text: str) -> Any:
    try:
        document = json.loads(text, parse_constant=_no_number, parse_float=_finite)
        if _SURROGATE.search(text):
            json.dumps(document, ensure_ascii=False).encode()  # fails on half a pair
    except UnicodeEncodeError:
        raise MalformedBody("The request body holds half of a surrogate pair.") from None
    except ValueError:
        raise MalformedBody("The request body is not valid JSON.") from None
    except RecursionError:
        raise MalformedBody(_TOO_DEEP) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(document):
        raise MalformedBody(_TOO_DEEP)
    return document


_TOO_DEEP: Final = f"The request body is nested deeper than {MAX_DEPTH} levels."


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("out of range")
    return number


def _is_deep(document: Any) -> bool:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return any(isinstance(node, dict | list) for node in level)


def _entries(exc: ValidationError, document: Any) -> list[dict[str, str]]:
    if exc.error_count() > MAX_ERRORS * 10:
        return [{"pointer": "", "detail": f"There are more than {MAX_ERRORS * 10} errors."}]
    return field_errors(exc.errors(include_url=False), document)
