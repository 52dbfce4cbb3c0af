"""Messages of OpenTelemetry's own SQS instrumentations, sent by the real programs."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from opentelemetry import trace

from tracebaton.tasks import TaskStatus

from .conftest import Bench, Note, working

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".tools" / "stock-producers"
SOURCES = Path(__file__).parent / "stock"
JAVA = ("java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

#: How each language's program is run, up to its arguments.
COMMANDS = {
    "Node": ("node", "--no-warnings", str(SOURCES / "send.js")),
    "Python": (str(HOME / "python" / "bin" / "python"), str(SOURCES / "send.py")),
    "Java": (*JAVA, "-cp", f"{HOME / 'java'}/*", str(SOURCES / "Send.java")),
}


def command(language: str) -> tuple[str, ...]:
    """Return how to run the program, or skip where something is missing; CI has everything."""
    line = COMMANDS[language]
    if shutil.which(line[0]) and (HOME / language.lower() / "version").exists():
        return line
    missing = f"{language}'s stock producer is missing: run scripts/stock-producers"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.mark.parametrize("language", COMMANDS)
async def test_a_stock_producers_message_joins_its_trace(bench: Bench, language: str) -> None:
    """Its traceparent attribute is all there is: one trace over both languages, one task."""
    texts: list[str] = []

    async def handler(note: Note) -> None:
        texts.append(note.text)

    bench.handle(handler)
    sender = await asyncio.create_subprocess_exec(
        *command(language),
        bench.local.url,
        bench.local.queue_url("tasks"),
        env=os.environ | {"NODE_PATH": str(HOME / "node" / "node_modules")},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(sender.communicate(), 60)
    async with working(bench.worker(foreign=[lambda message: "note"])):
        await bench.holds(0)

    process = bench.spans()["process tasks"]
    assert process.attributes is not None
    task = await bench.store.get(str(process.attributes["tracebaton.task.id"]))
    assert sender.returncode == 0
    assert texts == [f"from {language}"]
    assert trace.format_trace_id(process.context.trace_id) == out.decode().strip()
    assert process.parent is not None
    assert task is not None
    assert (task.status, task.trace_id) == (TaskStatus.SUCCEEDED, out.decode().strip())
