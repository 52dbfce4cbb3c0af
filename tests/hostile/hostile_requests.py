"""Requests as nobody should send them, and as a server's parser may still let them through."""

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st

Pairs = tuple[tuple[bytes, bytes], ...]
Example = TypeVar("Example")


def weighted(*choices: tuple[int, st.SearchStrategy[Example]]) -> st.SearchStrategy[Example]:
    """Return what is drawn from one of *choices*, each as often as its number says."""
    table = [strategy for weight, strategy in choices for _ in range(weight)]
    return st.sampled_from(range(len(table))).flatmap(table.__getitem__)  # one_of() drops doubles


@dataclass(frozen=True)
class Hostile:
    """
    One request.

    Attributes:
        target: As it stands in the request line: printable ASCII.
        chunks: The body as it arrives.
        cut: The client leaves before the body's end.
        version: Of HTTP.
    """

    method: str
    target: bytes
    headers: Pairs
    chunks: tuple[bytes, ...]
    cut: bool
    version: str

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the header *name*."""
        return [value for key, value in self.headers if key == name]


TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"

#: Any bytes that an HTTP/1.1 parser might pass: h11 refuses NUL, CR and LF only.
_anything = st.binary(max_size=40)
_long = st.sampled_from((b"a" * 129, b"9" * 5_000, b"%" * 9_000, b"\xff" * 20_000, b"=," * 50_000))

_traceparents = st.sampled_from(
    tuple(
        text.encode("latin-1")
        for text in (
            f"00-{TRACE}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}-00",
            f"00-{TRACE.upper()}-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"ff-{TRACE}-{SPAN}-01",
            f"cc-{TRACE}-{SPAN}-01-what-comes-later",
            f"cc-{TRACE}-{SPAN}-01.what",
            f"00-{TRACE}-{SPAN}-01-",
            f"00-{TRACE}-{SPAN}-1",
            f"00-{TRACE[:-1]}-{SPAN}-01",
            f"00-{TRACE}0-{SPAN}-01",
            f"00-{TRACE[:-1]}g-{SPAN}-01",
            f"00_{TRACE}_{SPAN}_01",
            f" 00-{TRACE}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}-01,00-{TRACE}-{SPAN}-01",
            f"0-{TRACE}-{SPAN}-01",
            f"00-{TRACE}-{SPAN}-zz",
            f"00-{TRACE}-{SPAN}-01\x00",
            f"00-{TRACE}-{SPAN}-01\x85",
            "00-００af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".encode().decode("latin-1"),
            "",
            "-",
            "00---01",
        )
    )
)
_tracestates = st.sampled_from(
    (b"", b"a=1", b"a=1,a=2", b"=", b",,,", b"a=" + b"x" * 300, b"A=1", b"a=\xff", b"k=v," * 60)
)
_baggages = st.sampled_from(
    (
        b"tracebaton.user_id=victim",
        b"tracebaton.user_id=victim,tracebaton.correlation_id=taken,tracebaton.task_id=t",
        b"user_id=victim;p=1",
        b"a=%zz,b=%ff,c=%",
        b"=" * 100,
        b"," * 9_000,
        b"sentry-trace_id=" + TRACE.encode() + b",sentry-public_key=other,sentry-sampled=true",
        b",".join(b"k%d=v" % n for n in range(200)),
        b"k=" + b"v" * 5_000,
        b"k=\x80\xff",
        b"\x01=\x02",
    )
)
_sentry_traces = st.sampled_from(
    (
        f"{TRACE}-{SPAN}-1".encode(),
        f"{TRACE}-{SPAN}".encode(),
        f"{TRACE}".encode(),
        f"{'0' * 32}-{SPAN}-1".encode(),
        f"{TRACE}-{SPAN}-2".encode(),
        f"{TRACE.upper()}-{SPAN}-1".encode(),
        b"-",
        b"\xff",
    )
)
_ids = st.sampled_from(
    (
        b"order-7",
        b"A.b:c_d-9",
        b"x" * 128,
        b"x" * 129,
        b"",
        b" ",
        b"a b",
        b" order-7",
        b"order-7\x00",
        b"order-7\n",
        b"order-7\x85",
        b"\xc3\xa9",
        b"../../etc/passwd",
        b"<script>",
        b"%61",
        b"a,b",
        "１２３".encode(),
        TRACE.encode(),
    )
)
_hosts = st.sampled_from(
    (
        b"localhost",
        b"LOCALHOST:8000",
        b"127.0.0.1:1",
        b"[::1]:8000",
        b"",
        b"evil.example",
        b"localhost.evil.example",
        b"localhost@evil.example",
        b"127.0.0.1.nip.io",
        b"127.1",
        b"0.0.0.0",
        b"localhost:99999999",
        b"localhost:abc",
        b"localhost\x00",
        b"\xff\xfe",
        b"[",
        b"[::1",
        b"a:b:c",
    )
)
_origins = st.sampled_from(
    (
        b"http://localhost:3000",
        b"https://127.0.0.1",
        b"null",
        b"https://evil.example",
        b"http://localhost.evil.example",
        b"file://",
        b"http://localhost\t",
        b"\xff",
    )
)
_lengths = st.sampled_from(
    (
        b"0",
        b"-1",
        b"1",
        b"5",
        b"+5",
        b" 5",
        b"5_0",
        b"0x10",
        b"9" * 400,
        b"1e3",
        b"abc",
        b"",
        b"1,1",
    )
)
_types = st.sampled_from(
    (
        b"application/json",
        b"application/json; charset=utf-8",
        b"application/json; charset=utf-16",
        b"application/json; charset=\xff",
        b"application/json;;;charset",
        b"APPLICATION/JSON",
        b"application/cloudevents+json",
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"",
        b"\xff",
        b"json",
    )
)

_OTHER = (
    (b"content-encoding", st.sampled_from((b"gzip", b"br", b"identity", b"\xff"))),
    (
        b"transfer-encoding",
        st.sampled_from((b"chunked", b"gzip, chunked", b"identity", b"xchunked")),
    ),
    (b"expect", st.sampled_from((b"100-continue", b"200-ok"))),
    (b"if-none-match", st.sampled_from((b"*", b'"', b'W/"a","b"', b"," * 500, b"\xff"))),
    (b"idempotency-key", st.sampled_from((b"k", b"", b"k" * 300, b"\xff", b'"k"', b"k\x01"))),
    (b"last-event-id", st.sampled_from((b"0", b"-1", b"9" * 30, b"\xff"))),
    (b"accept", st.sampled_from((b"text/event-stream", b"*/*;q=x", b"\xff"))),
    (b"cookie", st.sampled_from((b"a=b; a=b", b"=;=;", b"\xff"))),
    (b"x-forwarded-for", st.sampled_from((b"victim", b"1.2.3.4, \xff"))),
    (b"user-agent", st.sampled_from((b"", b"\xff\xfe", b"%s%n{}${jndi:ldap://x}"))),
    (b"range", st.sampled_from((b"bytes=0-", b"bytes=-9999999999999999999"))),
    (b"upgrade", st.sampled_from((b"websocket", b"h2c"))),
    (b"x-tracebaton-user", st.sampled_from((b"victim",))),
)
_NAMED = (
    (b"traceparent", _traceparents),
    (b"tracestate", _tracestates),
    (b"baggage", _baggages),
    (b"sentry-trace", _sentry_traces),
    (b"x-correlation-id", _ids),
    (b"x-request-id", _ids),
    (b"host", _hosts),
    (b"origin", _origins),
    *_OTHER,
)
#: Weighted by the order of the tuple: mostly values made for the header, now and then anything.
_header = st.one_of(
    *(
        st.tuples(st.just(name), weighted((6, made), (1, _anything), (1, _long)))
        for name, made in _NAMED
    ),
    st.tuples(st.just(b"content-length"), _lengths),  # a parser admits digits alone
    st.tuples(st.text("!#$%&'*+-.^_`|~09az", min_size=1, max_size=8).map(str.encode), _anything),
)

_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=8),
)
_json_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
VALID = {"text": "hello", "number": 3}


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


_documents = st.one_of(
    st.just(VALID),
    st.fixed_dictionaries(
        {"text": st.text(min_size=1, max_size=10)},
        optional={"number": st.integers(), "when": st.text(max_size=10), "tags": _json_values},
    ),
    st.fixed_dictionaries(
        {}, optional={"text": _scalars, "number": _json_values, "more": _json_values}
    ),
    _json_values,
)
#: Bodies that broke somebody's parser.
_known = st.sampled_from(
    (
        b"",
        b" \r\n\t",
        b"null",
        b"[" * 100_000,
        b'{"text":' * 2_000 + b"1" + b"}" * 2_000,
        b"[" * 65 + b"]" * 65,
        b'{"text": NaN}',
        b'{"text": "a", "number": Infinity}',
        b'{"text": "a", "number": 1e999}',
        b'{"text": "a", "number": ' + b"9" * 5_000 + b"}",
        b'{"text": "a", "number": -0}',
        b'{"text": "a", "number": 1e-999}',
        b'{"text": "\\ud800"}',
        b'{"text": "\\udc00\\ud800"}',
        b'{"\\ud800": 1, "text": "a"}',
        b'{"text": "a", "text": 1}',
        b'{"text": 1, "text": "a"}',
        b'{"text": "\x00"}',
        b'{"text": "\\u0000"}',
        b'{"text": "\xff"}',
        b'{"text": "\xed\xa0\x80"}',
        b'{"text": "a"}{"text": "b"}',
        b"{'text': 'a'}",
        b'{"text": "a",}',
        b'{"text": "a"} // comment',
        b'{"__proto__": {"text": "a"}}',
        b'{"text": "' + b"a" * 70_000 + b'"}',
        b'{"text": "a", "more": "' + b"a" * (1024 * 1024) + b'"}',
        b'{"text": "a", "user_id": "victim", "correlation_id": "taken"}',
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03",
        b"text=a&number=3",
    )
)
_bodies = weighted(
    (3, _known),
    (2, _documents.map(_encoded)),
    (1, _documents.map(lambda value: b"\xef\xbb\xbf" + _encoded(value))),
    (1, _documents.map(lambda value: json.dumps(value).encode("utf-16"))),
    (1, st.tuples(_documents.map(_encoded), st.integers(1, 20)).map(lambda two: two[0][: -two[1]])),
    (1, st.binary(max_size=60)),
)

_SEGMENTS = (
    "",
    "v1",
    "v1",
    "tasks",
    "tasks",
    "note",
    "note",
    "ai",
    "chat",
    "echo",
    "sync",
    "stream",
    "fail",
    "livez",
    "readyz",
    "metrics",
    "events",
    "openapi.json",
    "docs",
    "..",
    ".",
    "%2e%2e",
    "%2f",
    "%00",
    "%",
    "%zz",
    "%ff%fe",
    "%c3%28",
    "%ed%a0%80",
    "%0d%0aX-Injected:%201",
    "%F0%9F%98%80",
    "'",
    '"><script>',
    "{id}",
    "{0.__class__}",
    "%s%n",
    "a" * 300,
    "%61" * 3_000,
    "00000000-0000-0000-0000-000000000000",
    ";a=b",
    ":80",
    "@evil",
    "\\",
    "~",
    "*",
)
_WHOLE = (
    b"*",
    b"http://evil.example/v1/tasks/note",
    b"//evil.example/v1/tasks/note",
    b"/" * 5_000,
    b"?",
    b"/?" + b"a=b&" * 3_000,
    b"evil.example:443",
    b"",
)
_queries = st.sampled_from(
    (
        *[b""] * 8,
        b"?",
        b"?limit=-1",
        b"?limit=" + b"9" * 50,
        b"?cursor=%ff",
        b"?status=x&status=y",
        b"?%zz",
        b"?a#b",
    )
)
_METHODS = ("GET", "POST", "POST", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE")
_methods = st.sampled_from((*_METHODS, *_METHODS, "CONNECT", "get", "X" * 300, "!#$%", "PROPFIND"))


#: How a body comes: in how many pieces, whether to its end, and over which HTTP.
_ways = st.sampled_from(
    (
        *((pieces, False, version) for pieces in (1, 1, 1, 2, 3) for version in ("1.1", "1.0")),
        (3, True, "1.1"),
    )
)


def _path(parts: list[str]) -> bytes:
    return ("/" + "/".join(parts)).encode("ascii")


_paths = st.lists(st.sampled_from(_SEGMENTS), max_size=5).map(_path)


def requests(
    targets: st.SearchStrategy[bytes], headers: st.SearchStrategy[tuple[bytes, bytes]]
) -> st.SearchStrategy[Hostile]:
    """
    Return requests of which about half go where a request of its kind belongs.

    Args:
        targets: Further targets, those of the application.
        headers: Further headers, those that an answer depends on.
    """

    where = weighted((2, targets), (1, _paths), (1, st.sampled_from(_WHOLE)))
    few = st.lists(weighted((2, headers), (1, _header)), max_size=2)
    some = st.lists(weighted((1, headers), (2, _header)), max_size=4)

    @st.composite
    def build(draw: Any) -> Hostile:
        proper = draw(st.booleans())
        given: list[tuple[bytes, bytes]] = []
        if proper:  # so that much of it gets past the first door
            given = [(b"host", b"localhost"), (b"content-type", b"application/json")]
        elif draw(st.booleans()):
            given.append((b"content-type", draw(_types)))
        given += draw(few if proper else some)
        pieces, cut, version = draw(_ways)
        return Hostile(
            method="POST" if proper else draw(_methods),
            target=draw(targets if proper else where) + draw(_queries),
            headers=tuple(given),
            chunks=_split(draw(_bodies), pieces),
            cut=cut,
            version=version,
        )

    return build()


def _split(body: bytes, pieces: int) -> tuple[bytes, ...]:
    if pieces < 2 or not body:
        return (body,)
    size = -(-len(body) // pieces)
    return (b"", *(body[start : start + size] for start in range(0, len(body), size)))
