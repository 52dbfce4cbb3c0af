"""``tracebaton api`` on uvloop, where it is installed, and on asyncio's own loop."""

import os
import signal
from pathlib import Path

import httpx
import pytest
from command import running
from stage import Broker

pytestmark = pytest.mark.acceptance

APP = """
import asyncio, os, socket
from starlette.responses import StreamingResponse
from tracebaton import Tracebaton

app = Tracebaton()


@app.route("/loop")
async def loop(request):
    return {"loop": type(asyncio.get_running_loop()).__module__, "at_once": sends_at_once(request)}


def sends_at_once(request):
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as one:
                if one.getpeername() == tuple(request.client):
                    return bool(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        except OSError:
            pass


@app.route("/long")
async def long(request):
    async def said():
        yield b"begun "
        await asyncio.sleep(1)
        yield b"ended"
    return StreamingResponse(said())
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio.unix_events"])
def test_the_api_runs_on_the_faster_loop_that_there_is(
    broker: Broker, tmp_path: Path, loop: str
) -> None:
    """On both it sends at once, takes signals, and finishes what is under way at a stop."""
    (tmp_path / "service.py").write_text(APP)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    if loop != "uvloop":
        (hidden / "uvloop.py").write_text("raise ImportError('as without the extra')")
    env = broker.env | {"PYTHONPATH": str(hidden)}
    with running("api", "service:app", "--port", "0", env=env, cwd=tmp_path) as api:
        url = api.ready()["api"]
        told = httpx.get(f"{url}/loop").json()
        with httpx.stream("GET", f"{url}/long") as answer:
            parts = answer.iter_raw()
            heard = next(parts)
            os.kill(api.process.pid, signal.SIGTERM)
            heard += b"".join(parts)
        code = api.wait()

    assert told == {"loop": loop, "at_once": True}
    assert heard == b"begun ended"
    assert (code, api.errors) == (0, [])
