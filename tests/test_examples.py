"""Every example in examples/ does what its README says."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import httpx
import pytest

from tracebaton.testing import Stage, assert_one_trace

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def load() -> Iterator[object]:
    """Import an example from its folder, and forget it afterwards."""
    loaded: list[str] = []

    def by_name(folder: str) -> ModuleType:
        name = f"example_{folder}"
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / folder / "app.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # pydantic looks annotations up there
        loaded.append(name)
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in loaded:
        del sys.modules[name]


async def test_fastapi_and_its_worker_are_one_trace(load) -> None:  # type: ignore[no-untyped-def]
    """The FastAPI app's own route and the task it sends share trace and correlation id."""
    module = load("fastapi")
    transport = httpx.ASGITransport(module.app)
    async with (
        Stage(module.tasks) as stage,
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        answer = await http.post(
            "/orders", json={"item": "book"}, headers={"X-Correlation-ID": "adopted"}
        )
        await stage.run_until_idle()
        task = await stage.task(answer.json()["task_id"])

    assert_one_trace(stage.spans)
    assert (answer.status_code, answer.headers["x-correlation-id"]) == (202, "adopted")
    assert task.result == {"packed": "book", "for_request": "adopted"}


def test_every_example_has_a_readme_and_a_test() -> None:
    """A folder without a README, or one that nothing here loads, is no example."""
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    here = Path(__file__).read_text()

    assert folders == {"fastapi"}
    for folder in folders:
        assert (EXAMPLES / folder / "README.md").is_file()
        assert f'load("{folder}")' in here
