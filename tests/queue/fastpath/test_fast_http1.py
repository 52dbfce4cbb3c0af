"""Answers are read whole whatever pieces they come in, and what is no answer is refused."""

import pytest

from tracebaton.queue.fastpath.http1 import BadAnswer, Reply, ReplyReader

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-One: a\r\nx-one: b\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nhel\r\n2\r\nlo\r\n0\r\nTrailer: x\r\n\r\n"
)
BARE_CHUNKED = CHUNKED.replace(b"Trailer: x\r\n", b"")
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN
EMPTY = b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n"


def read(*pieces: bytes) -> Reply | None:
    """Feed the pieces to a fresh reader and return the last outcome."""
    reader, reply = ReplyReader(), None
    for piece in pieces:
        assert reply is None
        reply = reader.feed(piece)
    return reply


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED, BARE_CHUNKED, INTERIM])
def test_any_pieces_make_the_same_answer(whole: bytes) -> None:
    """Cut anywhere, and byte by byte, the body is the same and the connection lives on."""
    cuts = [read(whole[:at], whole[at:]) for at in range(1, len(whole))]
    bytewise = read(*(whole[at : at + 1] for at in range(len(whole))))

    assert {reply.body for reply in [*cuts, bytewise] if reply} == {b"hello"}
    assert None not in [*cuts, bytewise]
    assert all(reply.reusable for reply in [*cuts, bytewise] if reply)


def test_headers_are_found_in_lower_case() -> None:
    """A repeated header is joined as HTTP says."""
    reply = read(PLAIN)

    assert reply is not None
    assert reply.headers == {"content-length": "5", "x-one": "a, b"}


def test_an_answer_without_a_body_ends_with_its_headers() -> None:
    """204 has no body, whatever its content length says."""
    reply = read(EMPTY)

    assert reply is not None
    assert (reply.status, reply.body, reply.reusable) == (204, b"", True)


@pytest.mark.parametrize(
    ("head", "reusable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_who_keeps_the_connection(head: bytes, reusable: bool) -> None:
    """HTTP/1.1 does unless told, HTTP/1.0 if told."""
    reply = read(head + b"Content-Length: 0\r\n\r\n")

    assert reply is not None
    assert reply.reusable is reusable


@pytest.mark.parametrize("whole", [PLAIN, BARE_CHUNKED])
def test_more_than_was_asked_for_ends_the_connection(whole: bytes) -> None:
    """Bytes behind the answer belong to nobody."""
    reply = read(whole + b"HTTP/1.1")

    assert reply is not None
    assert (reply.body, reply.reusable) == (b"hello", False)


def test_the_end_of_the_connection_ends_a_body_of_unknown_length() -> None:
    """An answer without a length lasts until the end; one with a length is cut by it."""
    reader = ReplyReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    whole = reader.end()
    cut = ReplyReader()
    cut.feed(PLAIN[:-1])
    nothing = ReplyReader()

    assert whole is not None
    assert (whole.body, whole.reusable) == (b"hello", False)
    assert cut.end() is None
    assert nothing.end() is None


@pytest.mark.parametrize(
    "bad",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"x" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(bad: bytes) -> None:
    """Nothing is guessed from an answer that cannot be framed."""
    with pytest.raises(BadAnswer):
        read(bad)
