"""``schema`` in a process of its own: for a person, for CI, for a client generator."""

import json
from pathlib import Path

import pytest
from command import running

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent


def run(*arguments: str) -> tuple[int, list[str], list[str]]:
    """Run the command; return its exit code and what it printed."""
    with running("schema", "shop:app", *arguments, env={}, cwd=HERE) as command:
        code = command.wait()
    return code, command.lines, command.errors


def test_a_contract_is_printed_and_held(tmp_path: Path) -> None:
    """It needs no settings; what would break a producer fails the build and is named."""
    code, lines, _ = run()
    path = tmp_path / "schemas.json"
    path.write_text("\n".join(lines))
    schemas = json.loads(path.read_text())
    same = run("--check", str(path))
    schemas["order"]["properties"]["seconds"]["type"] = ["number", "string"]
    schemas["fax"] = schemas["slow"]
    path.write_text(json.dumps(schemas))
    broken = run("--check", str(path))
    path.write_text("[]")
    unreadable = run("--check", str(path))
    document = json.loads(run("--openapi")[1][0])

    assert (code, sorted(schemas)) == (0, ["fax", "order", "slow"])
    assert same == (0, [], [])
    assert broken[0] == 1
    assert [line.split(":")[1].strip() for line in broken[2][:2]] == ["fax", "order.seconds"]
    assert (unreadable[0], len(unreadable[2])) == (2, 1)
    assert "/v1/tasks/order" in document["paths"]
