"""Command lines that cannot be meant: exit code 2, and no traceback."""

from pathlib import Path

import pytest
from command import running

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize(
    "command",
    [
        ("api", "--port", "65536"),
        ("worker", "--port", "-1"),
        ("worker", "--host", "a" * 64),
        ("viewer", "--port", "65536"),
        ("dev", "--port", "65536"),
        ("dev", "--sqs-port", "65536"),
        ("dev", "--viewer-port", "65536"),
    ],
    ids=lambda command: " ".join(command),
)
def test_an_address_that_cannot_be(tmp_path: Path, command: tuple[str, ...]) -> None:
    """There are 65,535 ports, and no name has a part of over 63 characters."""
    env = {
        "TRACEBATON_QUEUE_URL": "http://127.0.0.1:9/000000000000/tasks",
        "TRACEBATON_DATA": str(tmp_path),
    }
    with running(*command, env=env, cwd=tmp_path) as process:
        code = process.wait()

    assert code == 2
    assert "Traceback" not in "\n".join(process.errors)
