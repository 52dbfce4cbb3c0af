"""
Ask for a chat from many connections: ``python chat_load.py PORT CONNECTIONS SECONDS``.

Tells, beside the times, how many answers were 202, to be compared with what the queue got.
"""

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "layers"))

import load

BODY = json.dumps({"message": "lorem ipsum dolor sit amet " * 10}).encode()
accepted = 0


def check(answer: bytes) -> None:
    """Count an answer."""
    global accepted
    if not answer.startswith(b"HTTP/1.1 202"):
        raise SystemExit(f"an answer that was not expected: {answer[:200]!r}")
    accepted += 1


if __name__ == "__main__":
    load.REQUEST = (
        b"POST /v1/ai/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    )
    load.check = check
    told = asyncio.run(load.closed(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
    print(json.dumps({**told, "accepted": accepted}))
