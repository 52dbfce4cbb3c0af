"""
HTTP/1.1 as a client of SQS needs it: one request out, one answer in, no sockets.
"""

from dataclasses import dataclass, field

__all__ = ["BadAnswer", "Reply", "ReplyReader"]

#: Bytes of status line and headers before an answer is refused.
_HEAD_LIMIT = 64 * 1024
#: Answers without a body, whatever their headers say.
_BODILESS = frozenset({204, 304})


class BadAnswer(ValueError):
    """What came is not an HTTP/1.1 answer."""


@dataclass(slots=True)
class Reply:
    """
    A whole answer.

    Attributes:
        headers: By lower-case name; a repeated one is joined by commas.
        reusable: The connection may carry another request.
    """

    status: int
    headers: dict[str, str]
    body: bytes = b""
    reusable: bool = True


@dataclass(slots=True)
class ReplyReader:
    """Reads one answer from what the socket brings, piece by piece."""

    _buffer: bytearray = field(default_factory=bytearray)
    _reply: Reply | None = None
    #: Bytes that the body has; None: until the end of the connection.
    _length: int | None = None
    _chunked: bool = False
    #: Of a chunked body: what has come of it, and whether its last chunk has.
    _body: bytearray = field(default_factory=bytearray)
    _last: bool = False

    @property
    def empty(self) -> bool:
        """Tell whether nothing has come yet."""
        return self._reply is None and not self._buffer

    def feed(self, data: bytes) -> Reply | None:
        """
        Take *data* and return the answer when it is whole.

        Raises:
            BadAnswer: It is no HTTP/1.1.
        """
        self._buffer += data
        while self._reply is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _HEAD_LIMIT:
                    raise BadAnswer("The headers of the answer do not end.")
                return None
            self._begin(bytes(self._buffer[:end]).decode("latin-1"))
            del self._buffer[: end + 4]
        if self._chunked:
            return self._dechunked(self._reply)
        if self._length is None or len(self._buffer) < self._length:
            return None
        return self._finished(self._reply, self._length)

    def end(self) -> Reply | None:
        """Return the answer that the end of the connection completes, None where it cuts one."""
        if self._reply is None or self._chunked or self._length is not None:
            return None
        return self._finished(self._reply, len(self._buffer))

    def _begin(self, head: str) -> None:
        status_line, *lines = head.split("\r\n")
        version, _, rest = status_line.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise BadAnswer("The answer is no HTTP/1.1.")
        status = int(rest[:3])
        if 100 <= status < 200:
            return  # an interim answer; the one we want follows
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise BadAnswer("A header of the answer has no colon.")
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        self._reply = Reply(status, headers)
        self._frame(version, self._reply)

    def _frame(self, version: str, reply: Reply) -> None:
        """Find out where the body ends and whether the connection lives on."""
        headers = reply.headers
        connection = headers.get("connection", "").lower()
        reply.reusable = connection != "close" and (
            version == "HTTP/1.1" or connection == "keep-alive"
        )
        if reply.status in _BODILESS:
            self._length = 0
        elif "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise BadAnswer("The answer has an unknown transfer encoding.")
            self._chunked = True
        elif "content-length" in headers:
            length = headers["content-length"]
            if not (length.isascii() and length.isdecimal()):
                raise BadAnswer("The answer has no usable content length.")
            self._length = int(length)
        else:
            reply.reusable = False

    def _finished(self, reply: Reply, length: int) -> Reply:
        reply.body = bytes(self._buffer[:length])
        if len(self._buffer) > length:
            reply.reusable = False  # more than was asked for: nothing after it can be trusted
        return reply

    def _dechunked(self, reply: Reply) -> Reply | None:
        """Take what chunks are whole and return the answer once the last one is."""
        buffer = self._buffer
        while not self._last and (end := buffer.find(b"\r\n")) >= 0:
            size = _chunk_size(buffer[:end])
            if size == 0:
                self._last = True  # the empty line that ends the trailer may be the next two bytes
                del buffer[:end]
                break
            if len(buffer) < end + 2 + size + 2:
                return None
            self._body += buffer[end + 2 : end + 2 + size]
            del buffer[: end + 2 + size + 2]
        trailer = buffer.find(b"\r\n\r\n") if self._last else -1
        if trailer < 0:
            return None
        reply.body = bytes(self._body)
        reply.reusable = reply.reusable and trailer + 4 == len(buffer)
        return reply


def _chunk_size(line: bytes | bytearray) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or digits.strip(b"0123456789abcdefABCDEF"):
        raise BadAnswer("A chunk of the answer has no size.")
    return int(digits, 16)
