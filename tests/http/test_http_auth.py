"""Who may ask: API keys in a file, or nobody on loopback."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from http_service import StoreService

from tracebaton.context import current
from tracebaton.errors import ConfigurationError
from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.http.keys import KeyFile, create_key, list_keys, revoke_key
from tracebaton.settings import Settings


async def whoami(request: Any) -> dict[str, Any]:
    return {"user_id": current().user_id}


def service(keys: Path | None = None) -> StoreService:
    environ = {}
    if keys is not None:
        environ = {"TRACEBATON_AUTH": "api-key", "TRACEBATON_API_KEYS_FILE": str(keys)}
    return StoreService(
        None,
        authenticator=authenticator(Settings.load(environ)),
        routes=[("/whoami", whoami, ["GET"])],
    )


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "private" / "keys.json"


def test_a_key_is_kept_as_a_hash(keys: Path) -> None:
    """The key is shown once; the file is its owner's and holds neither key nor secret."""
    key = create_key(keys, "ann", name="laptop")

    prefix, key_id, secret = key.split("_", 2)
    text = keys.read_text()
    (listed,) = list_keys(keys)
    assert (prefix, len(secret) >= 43) == ("tb", True)
    assert secret not in text
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert listed.public() == {
        "id": key_id,
        "user_id": "ann",
        "name": "laptop",
        "created_at": listed.created_at,
        "revoked_at": None,
    }
    assert len(json.loads(text)["keys"][0]["hash"]) == 64


def test_a_key_is_revoked_once(keys: Path) -> None:
    """The second time, and for an unknown id, there is nothing to revoke."""
    key_id = create_key(keys, "ann").split("_")[1]

    assert revoke_key(keys, key_id) is True
    assert revoke_key(keys, key_id) is False
    assert revoke_key(keys, "nothing") is False
    assert list_keys(keys)[0].revoked_at is not None


def test_commands_at_once_lose_no_key(keys: Path) -> None:
    """The file is locked while it is read and replaced."""
    threads = [threading.Thread(target=create_key, args=(keys, f"u-{n}")) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert {key.user_id for key in list_keys(keys)} == {f"u-{n}" for n in range(16)}
    assert [path.name for path in keys.parent.iterdir() if path.suffix == ".tmp"] == []


def test_no_file_has_no_keys(keys: Path) -> None:
    """Listing before the first key is no error; starting a service with it is."""
    assert list_keys(keys) == []

    with pytest.raises(ConfigurationError, match="no file"):
        service(keys)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"keys": {}}',
        b'{"keys": [{"id": "a"}]}',
        b'{"keys": [{"id": "a", "user_id": ["hunter2"], "hash": "h", "created_at": "t"}]}',
        b"\xff",
    ],
)
def test_a_malformed_file_stops_the_start(keys: Path, content: bytes) -> None:
    """The message names the file and repeats nothing of it."""
    keys.parent.mkdir()
    keys.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        service(keys)

    assert str(keys) in caught.value.detail
    assert "hunter2" not in caught.value.detail
    with pytest.raises(ConfigurationError):
        create_key(keys, "ann")
    assert keys.read_bytes() == content


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigurationError, match="cannot be written"):
        create_key(tmp_path / "file" / "keys.json", "ann")


def test_a_failed_write_leaves_the_old_file(keys: Path) -> None:
    """What cannot be written replaces nothing and leaves no rest behind."""
    create_key(keys, "ann")
    before = keys.read_bytes()

    with pytest.raises(TypeError):
        create_key(keys, "ann", name=b"bytes")  # type: ignore[arg-type]  # what JSON cannot say

    assert keys.read_bytes() == before
    assert {path.name for path in keys.parent.iterdir()} == {"keys.json", "keys.json.lock"}


@pytest.mark.parametrize("form", ["bearer", "Bearer", "x-api-key", "both"])
async def test_a_key_says_who_asks(
    ask: Any, keys: Path, provider: Any, spans: Any, form: str
) -> None:
    """The store, the span and the access line have the user."""
    key = create_key(keys, "ann")
    headers = {"x-api-key": key} if form in ("x-api-key", "both") else {}
    if form != "x-api-key":
        headers["authorization"] = f"{'Bearer' if form == 'both' else form} {key}"
    async with ask(create_app(service(keys), tracer_provider=provider)) as client:
        answer = await client.get("/whoami", headers=headers)

    (span,) = spans()
    assert answer.json() == {"user_id": "ann"}
    assert span.attributes["tracebaton.user_id"] == "ann"


async def test_anything_else_is_unauthenticated(
    ask: Any, keys: Path, provider: Any, spans: Any, reporter: Any
) -> None:
    """401 with a challenge; never a user on the span, never an event."""
    key, other = create_key(keys, "ann"), create_key(keys, "bob")
    _, key_id, secret = key.split("_", 2)
    refused = [
        {},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {key}"},
        {"authorization": key},
        {"x-api-key": ""},
        {"x-api-key": key[:-1]},
        {"x-api-key": key + "x"},
        {"x-api-key": f"tb_{key_id}_"},
        {"x-api-key": f"xx_{key_id}_{secret}"},
        {"x-api-key": f"tb_unknown_{secret}"},
        {"x-api-key": f"tb_{key_id}_{other.split('_', 2)[2]}"},
        {"x-api-key": "ü".encode("latin-1")},
        {"x-api-key": key, "authorization": f"Bearer {other}"},
        {"x-user-id": "ann"},
    ]
    app_service = service(keys)
    app_service.reporter = reporter
    async with ask(create_app(app_service, tracer_provider=provider)) as client:
        answers = [await client.get("/whoami", headers=headers) for headers in refused]
        probe = await client.get("/livez")

    assert [answer.status_code for answer in answers] == [401] * len(refused)
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert {answer.json()["code"] for answer in answers} == {"unauthenticated"}
    assert all("tracebaton.user_id" not in span.attributes for span in spans())
    assert probe.status_code == 200
    assert reporter.reports == []


def replace(path: Path, content: bytes | None) -> bytes | None:
    """Write *content* to *path*, None for no file, and return what was there."""
    before = path.read_bytes() if path.exists() else None
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    return before


async def test_keys_come_and_go_without_a_restart(ask: Any, keys: Path, lines: Any) -> None:
    """A new key works at once, a revoked one stops; a broken file keeps the last good keys."""
    first = create_key(keys, "ann")
    async with ask(create_app(service(keys))) as client:

        async def status(key: str) -> int:
            return int((await client.get("/whoami", headers={"x-api-key": key})).status_code)

        second = create_key(keys, "bob")
        after_create = [await status(first), await status(second)]
        revoke_key(keys, first.split("_")[1])
        after_revoke = [await status(first), await status(second)]
        good = replace(keys, b"{")
        while_broken = [await status(second), await status(second)]
        replace(keys, None)
        while_gone = await status(second)
        replace(keys, good)
        after_repair = await status(second)

    assert after_create == [200, 200]
    assert after_revoke == [401, 200]
    assert while_broken == [200, 200]
    assert while_gone == 401
    assert after_repair == 200
    assert len(lines.of("api_keys.unreadable")) == 1


def test_a_file_of_the_same_second_is_seen(keys: Path) -> None:
    """A replaced file is another file, whatever its time says."""
    key = create_key(keys, "ann")
    known = KeyFile(keys)
    times = keys.stat()
    revoke_key(keys, key.split("_")[1])
    os.utime(keys, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert known.user_of(key) is None


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost"}, 200),
        ({"host": "LOCALHOST:8000"}, 200),
        ({"host": "127.0.0.1:1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "127.0.0.1", "origin": "http://localhost:3000"}, 200),
        ({"host": "example.com"}, 403),
        ({"host": "127.0.0.1.example.com"}, 403),
        ({"host": "localhost@example.com"}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost", "origin": "https://example.com"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
    ],
)
async def test_without_auth_only_this_machine_is_answered(
    ask: Any, headers: dict[str, str], status: int
) -> None:
    """Host and Origin tell a page of somebody else's."""
    async with ask(create_app(service())) as client:
        answer = await client.get("/whoami", headers=headers)

    assert answer.status_code == status
    if status == 403:
        assert answer.json()["code"] == "forbidden"
        assert answer.headers["content-type"] == "application/problem+json"
    else:
        assert answer.json() == {"user_id": None}
