"""
Serve a subject by uvicorn, with one worker: ``python served.py SUBJECT`` prints its port.

``GET /_cpu``, outside all layers, tells the process's CPU seconds.
"""

import signal
import socket
import sys
import time
from typing import Any

import uvicorn
from subjects import SUBJECTS


def main(name: str) -> None:
    """Serve until SIGTERM."""
    app, flush = SUBJECTS[name]()

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/_cpu":
            body = str(time.process_time()).encode()
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        await app(scope, receive, send)

    # Without an access log of uvicorn's own: ours has one line, the others none.
    config = uvicorn.Config(outer, log_level="warning", access_log=False, lifespan="off")
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    # uvicorn raises its SIGTERM once more when it has stopped: what is left to send is sent then.
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(listener.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listener])
    flush()


if __name__ == "__main__":
    main(sys.argv[1])
