"""An instrumented botocore does not say again what the queue spans say."""

import subprocess
import sys

_SCRIPT = """
import asyncio, json, tempfile
from pathlib import Path
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from pydantic import BaseModel
from tracebaton import Tracebaton
from tracebaton.testing import Stage

class Nothing(BaseModel):
    pass

app = Tracebaton()

@app.task("nothing", model=Nothing)
async def nothing(data: Nothing) -> None:
    pass

async def main() -> None:
    async with Stage(app) as stage:
        BotocoreInstrumentor().instrument()
        URLLib3Instrumentor().instrument()
        await stage.http.post("/v1/tasks/nothing", json={})
        await stage.run_until_idle()
        print(json.dumps(sorted(span.name for span in stage.spans)))

asyncio.run(main())
"""


def test_our_own_calls_have_no_client_spans() -> None:
    """Three spans for one task: request, send, process."""
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )

    assert run.stdout.splitlines()[-1:] == [
        '["POST /v1/tasks/{type}", "process tasks", "send tasks"]'
    ], run.stderr
