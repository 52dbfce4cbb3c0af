"""JSON bodies within bounds: what is refused, with which problem, and what is never repeated."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tracebaton.errors import RequestError
from tracebaton.http.body import MAX_DEPTH, body, read_json
from tracebaton.http.middleware import instrument


async def echo(request: Request) -> Response:
    return JSONResponse(await read_json(request, limit=1000, timeout=0.2))


APP = instrument(Starlette(routes=[Route("/", echo, methods=["POST"])]))
JSON = {"content-type": "application/json"}


async def post(ask: Any, content: Any, **headers: str) -> Any:
    async with ask(APP) as client:
        return await client.post("/", content=content, headers=JSON | headers)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b'{"a": 1}', {"a": 1}),
        (b"[1.5]", [1.5]),
        (b"\xef\xbb\xbf[1]", [1]),
        (b' "\\ud83d\\ude00" ', "😀"),
        ('"ü"'.encode(), "ü"),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, None),
        (b"[" + b"[]," * 90 + b"[]]", [[]] * 91),
    ],
)
async def test_a_document_is_read(ask: Any, content: bytes, value: Any) -> None:
    """One byte-order mark, a surrogate pair and 64 levels are all JSON."""
    answer = await post(ask, content)

    assert answer.status_code == 200
    assert value is None or answer.json() == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"  \n",
        b"{",
        b"{'a': 1}",
        b"[1] 2",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b"\xef\xbb\xbf\xef\xbb\xbf[1]",
        b"\xff\xfe[\x001\x00]\x00",
        b'"\t"',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * 80 + b"1" + b"}" * 80,
        b"[" * 900,
    ],
)
async def test_what_is_no_sound_json_is_malformed(ask: Any, content: bytes) -> None:
    """400, whatever is wrong with it; nothing of the text comes back."""
    answer = await post(ask, content)

    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


async def test_depth_never_overruns_the_stack(ask: Any) -> None:
    """Deeper than the interpreter's own limit is the same 400."""

    async def deep(request: Request) -> Response:
        return JSONResponse(await read_json(request))

    app = instrument(Starlette(routes=[Route("/", deep, methods=["POST"])]))
    async with ask(app) as client:
        answers = [
            await client.post("/", content=opening * 200_000, headers=JSON)
            for opening in (b"[", b'{"a":')
        ]

    assert [answer.status_code for answer in answers] == [400, 400]
    assert [answer.json()["code"] for answer in answers] == ["malformed_body"] * 2


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ('application/json; charset="utf-8"', 200),
        ("application/cloudevents+json", 200),
        ("application/json; charset=latin-1", 415),
        ("application/x-www-form-urlencoded", 415),
        ("text/json", 415),
        ("application/jsonp", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_the_content_type_is_json(ask: Any, content_type: str, status: int) -> None:
    """``application/json`` or ``+json``, in UTF-8; anything else is 415."""
    answer = await post(ask, b"[1]", **{"content-type": content_type})

    assert answer.status_code == status


async def test_a_body_without_a_content_type(ask: Any) -> None:
    """Nothing at all is an empty body; something unnamed is another type."""
    async with ask(APP) as client:
        empty = await client.post("/")
        unnamed = await client.post("/", content=b"[1]")

    assert (empty.status_code, unnamed.status_code) == (400, 415)


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("gzip", 415), ("br", 415), ("identity", 200), ("Identity", 200)],
)
async def test_a_compressed_body_is_not_read(ask: Any, encoding: str, status: int) -> None:
    """A body in a content coding is 415, which names what is taken; identity is none."""
    answer = await post(ask, b"[1]", **{"content-encoding": encoding})

    assert answer.status_code == status
    assert answer.headers.get("accept-encoding") == ("identity" if status == 415 else None)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_has_a_limit(ask: Any) -> None:
    """By what it says of itself, else by what came."""
    whole = b'"' + b"x" * 998 + b'"'
    at_limit = await post(ask, whole)
    announced = await post(ask, whole + b" ")
    chunked = await post(ask, chunks(whole, b" "))

    assert [a.status_code for a in (at_limit, announced, chunked)] == [200, 413, 413]
    assert chunked.json()["code"] == "payload_too_large"


async def test_an_announced_body_is_refused_unread(ask: Any) -> None:
    """Nothing is read of what is too long anyway."""
    read: list[bytes] = []

    async def spying() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    async with ask(APP) as client:
        request = client.build_request("POST", "/", content=spying(), headers=JSON)
        del request.headers["transfer-encoding"]
        request.headers["content-length"] = "99999999999999999999999"
        answer = await client.send(request)

    assert (answer.status_code, read) == (413, [])


async def test_a_slow_body_is_given_up(ask: Any) -> None:
    """408, retryable, and the connection is over."""

    async def slow() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.wait_for(asyncio.Event().wait(), 5)

    answer = await post(ask, slow())

    assert (answer.status_code, answer.json()["code"]) == (408, "request_timeout")
    assert answer.json()["retryable"] is True
    assert answer.headers["connection"] == "close"


@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_no_body_fails_the_service(content: bytes) -> None:
    """Whatever the bytes, the caller is answered or told what is wrong with them."""

    async def read() -> int:
        messages = iter([{"type": "http.request", "body": content, "more_body": False}])

        async def receive() -> Any:
            return next(messages)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "headers": [(b"content-type", b"application/json")],
        }
        try:
            await read_json(Request(scope, receive))
        except RequestError as exc:
            return exc.status
        return 200

    status = asyncio.run(read())

    assert status in (200, 400)


JSONISH = st.text('{}[]",:0123456789eE.+-NaInfityrul\\ud8 ', max_size=40)
NUMBERS = st.from_regex(r"-?[0-9]{1,60}(\.[0-9]{1,60})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
NESTED = st.tuples(st.integers(60, 70), st.sampled_from(["[]", '{"":""}'])).map(
    lambda one: (one[1][:-1] * one[0]).replace('""}', "") + "1" + one[1][-1] * one[0]
)


@given(content=(JSONISH | NUMBERS | NESTED).map(str.encode))
def test_a_model_takes_the_json_that_is_sound_and_no_other(content: bytes) -> None:
    """Its own parser is trusted only as far as it is as strict as ours."""

    async def outcome(read: Any) -> str:
        async def receive() -> Any:
            return {"type": "http.request", "body": content, "more_body": False}

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "http_version": "1.1", "headers": headers}
        try:
            await read(Request(scope, receive))
        except RequestError as exc:
            return exc.code
        return "read"

    async def outcomes() -> tuple[str, str]:
        whole = await outcome(read_json)
        return whole, await outcome(lambda request: body(request, RootModel[Any]))

    alone, with_model = asyncio.run(outcomes())

    assert with_model == alone


class Colour(Enum):
    RED = "red"


def refuse(value: str) -> str:
    raise ValueError(f"{value} will not do")


def refuse_all(values: list[str | None]) -> list[str | None]:
    raise ValueError(f"not {values[0]}")


def explain(value: str) -> str:
    raise ValueError("choose another one")


def custom(value: str) -> str:
    raise PydanticCustomError("own_type", "not {value}", {"value": value})


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]
    age: int


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")

    a_b: int = Field(0, alias="a/b~c")
    items: list[int] = []
    colour: Colour = Colour.RED
    choice: int | list[int] = 0
    pet: Annotated[Cat | Dog, Discriminator("kind")] = Cat(kind="cat")
    refused: Annotated[str, AfterValidator(refuse)] = ""
    explained: Annotated[str, AfterValidator(explain)] = ""
    owned: Annotated[str, AfterValidator(custom)] = ""
    many: Annotated[list[str | None], AfterValidator(refuse_all)] = []
    identifier: UUID | None = None
    password: SecretStr | None = None
    scores: dict[str, int] = {}

    @model_validator(mode="after")
    def _whole(self) -> "Everything":
        if self.password is not None:
            raise ValueError(f"{self.password.get_secret_value()} is too short")
        return self


async def validate(ask: Any, document: Any, model: type[BaseModel] = Everything) -> Any:
    async def endpoint(request: Request) -> Response:
        return JSONResponse((await body(request, model)).model_dump(mode="json"))

    app = instrument(Starlette(routes=[Route("/", endpoint, methods=["POST"])]))
    async with ask(app) as client:
        return await client.post("/", json=document)


@pytest.mark.parametrize(
    ("document", "pointer", "detail"),
    [
        ({"a/b~c": "hunter2"}, "/a~1b~0c", "Input should be a valid integer, unable to parse"),
        ({"items": [1, "hunter2"]}, "/items/1", "Input should be a valid integer, unable to"),
        ({"colour": "hunter2"}, "/colour", "Input should be 'red'"),
        ({"choice": ["hunter2"]}, "/choice/0", "Input should be a valid integer"),
        ({"pet": {"kind": "hunter2"}}, "/pet", "The value is not valid."),
        ({"pet": {"kind": "dog"}}, "/pet/age", "Field required"),
        ({"pet": {"kind": "dog", "age": "hunter2"}}, "/pet/age", "Input should be a valid"),
        ({"refused": "hunter2"}, "/refused", "The value is not valid."),
        ({"explained": "hunter2"}, "/explained", "choose another one"),
        ({"owned": "hunter2"}, "/owned", "The value is not valid."),
        ({"password": "hunter2"}, "", "The value is not valid."),
        ({"many": ["hunter2", "", None]}, "/many", "The value is not valid."),
        ({"scores": {"a": "hunter2"}}, "/scores/a", "Input should be a valid integer"),
        ({"hunter": "hunter2"}, "/hunter", "Extra inputs are not permitted"),
        ("hunter2", "", "Input should be an object"),
    ],
)
async def test_each_wrong_field_is_pointed_at(
    ask: Any, document: Any, pointer: str, detail: str
) -> None:
    """RFC 6901 pointers into what was sent, pydantic's rule, and never the value."""
    answer = await validate(ask, document)

    errors = answer.json()["errors"]
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert pointer in [error["pointer"] for error in errors]
    assert any(error["detail"].startswith(detail) for error in errors)
    assert all(set(error) == {"pointer", "detail"} for error in errors)
    assert "hunter2" not in answer.text


async def test_many_errors_are_not_sent_back_one_by_one(ask: Any) -> None:
    """A hundred are listed; of thousands only that there are."""
    hundreds = await validate(ask, {"items": ["x"] * 500})
    thousands = await validate(ask, {"items": ["x"] * 5000})
    long_key = await validate(ask, {"k" * 5000: 1})

    assert len(hundreds.json()["errors"]) == 100
    assert thousands.json()["errors"] == [
        {"pointer": "", "detail": "There are more than 1000 errors."}
    ]
    assert len(long_key.json()["errors"][0]["pointer"]) == 256


async def test_a_strict_model_reads_json_as_json(ask: Any) -> None:
    """A date is text in JSON, strict or not."""

    class Strict(BaseModel):
        model_config = ConfigDict(strict=True)
        day: date

    answer = await validate(ask, {"day": "2026-11-23"}, Strict)

    assert answer.json() == {"day": "2026-11-23"}
