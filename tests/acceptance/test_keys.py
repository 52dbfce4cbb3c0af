"""``tracebaton keys``, as whoever runs the API uses it."""

import json
from pathlib import Path

import pytest
from command import running

pytestmark = pytest.mark.acceptance


def asked(*arguments: str, cwd: Path) -> tuple[int, list[str], list[str]]:
    """Run ``tracebaton keys`` and return its exit code and what it wrote."""
    env = {"TRACEBATON_API_KEYS_FILE": "keys.json"}
    with running("keys", *arguments, env=env, cwd=cwd) as command:
        return command.wait(), command.lines, command.errors


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    """A key is shown once; a list is for people or JSON; what is not there is said."""
    made, (key,), _ = asked("create", "ann", "--name", "laptop", cwd=tmp_path)
    key_id = key.split("_")[1]
    gone, _, _ = asked("revoke", key_id, cwd=tmp_path)
    again, _, said = asked("revoke", key_id, cwd=tmp_path)
    listed, (line,), _ = asked("list", "--json", cwd=tmp_path)
    (shown,) = json.loads(line)

    assert (made, gone, again, listed) == (0, 0, 1, 0)
    assert said == [f"tracebaton: there is no active key {key_id}"]
    assert (shown["id"], shown["user_id"], shown["name"]) == (key_id, "ann", "laptop")
    assert shown["revoked_at"] is not None
    assert key.split("_", 2)[2] not in line


def test_what_stands_in_the_file_drives_no_terminal(tmp_path: Path) -> None:
    """Whoever wrote it; and no such user is made here."""
    entry = {"id": "a1", "user_id": "ann\x1b[2J", "hash": "0", "created_at": "t", "name": "\x07x"}
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [entry]}))
    _, lines, _ = asked("list", cwd=tmp_path)
    refused, _, said = asked("create", "\x1b[31mroot", cwd=tmp_path)

    assert [line.split() for line in lines] == [
        ["id", "user", "id", "name", "created", "at", "revoked", "at"],
        ["a1", r"ann\x1b[2J", r"\x07x", "t"],
    ]
    assert (refused, len(said)) == (2, 1)
    assert "\x1b" not in said[0]
