"""The worker as the command runs it: from settings to messages handled, with its probes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tracebaton import RetryPolicy, Tracebaton
from tracebaton.errors import ConfigurationError
from tracebaton.local import LocalSqs
from tracebaton.settings import Settings

from .conftest import until


class Note(BaseModel):
    """Data of the test's task."""

    text: str = ""


def queue(local: LocalSqs, name: str, *, attempts: int = 5) -> str:
    """Make a queue with a DLQ and return its URL."""
    local.create_queue(f"{name}-dlq")
    target = f"arn:aws:sqs:us-east-1:000000000000:{name}-dlq"
    policy = {"deadLetterTargetArn": target, "maxReceiveCount": str(attempts)}
    return local.create_queue(name, {"RedrivePolicy": json.dumps(policy)})


def settings(local: LocalSqs, urls: str, folder: Path) -> Settings:
    """Return the settings of a process that works on *urls*."""
    return Settings.load(
        {
            "AWS_ENDPOINT_URL_SQS": local.url,
            "TRACEBATON_QUEUE_URL": urls,
            "TRACEBATON_STORE": f"sqlite:///{folder / 'tasks.db'}",
            "TRACEBATON_PREFETCH": "2",
            "OTEL_SDK_DISABLED": "true",
        }
    )


async def test_a_list_of_queues_is_served_by_one_worker(tmp_path: Path) -> None:
    """Each is checked before the start; the probes say what has been reached."""
    async with LocalSqs() as local:
        first, second = queue(local, "first"), queue(local, "second")
        app = Tracebaton(settings=settings(local, f"{first}*3,{second}", tmp_path))
        seen: list[str] = []

        @app.task("note", model=Note)
        async def note(data: Note) -> None:
            seen.append(data.text)

        runtime = app.runtime("worker")
        weights = {one.name: weight for one, weight in runtime.queues.items()}
        worker = app.worker(wait_seconds=0)
        before = (await worker.started(), await worker.ready(), await worker.alive())
        await worker.prepare()
        started = await worker.started()
        running = asyncio.create_task(worker.run())
        await app.enqueue("note", Note(text="first"))
        await until(_deleted(local, "first"), lambda count: count == 1)
        await until(_ready(worker), lambda now: all(now.values()))
        worker.stop()
        await asyncio.wait_for(running, 10)
        stopping = await worker.ready()
        await runtime.close()

    assert weights == {"first": 3, "second": 1}
    assert before == ({"queue": False}, {"queue": False}, {"pollers": True})
    assert started == {"queue": True}
    assert seen == ["first"]
    assert stopping["running"] is False


def _deleted(local: LocalSqs, name: str) -> Any:
    async def ask() -> int:
        return local.stats()[name]["deleted"]

    return ask


def _ready(worker: Any) -> Any:
    async def ask() -> dict[str, bool]:
        return dict(await worker.ready())

    return ask


async def test_each_queue_of_a_list_has_to_fit(tmp_path: Path) -> None:
    """The one that does not is named."""
    async with LocalSqs() as local:
        urls = f"{queue(local, 'good')},{queue(local, 'bad', attempts=3)}"
        app = Tracebaton(settings=settings(local, urls, tmp_path))
        with pytest.raises(ConfigurationError, match="the queue bad is 3"):
            await app.worker().prepare()
        await app.runtime("worker").close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"retry": RetryPolicy(max_attempts=3)}, "maxReceiveCount"),
        ({"batch": 0}, "has to be 1 or more"),
    ],
)
def test_what_a_task_type_cannot_have(options: dict[str, Any], said: str) -> None:
    """Refused where it is registered."""
    with pytest.raises(ConfigurationError, match=said):
        Tracebaton().task("note", model=Note, **options)
