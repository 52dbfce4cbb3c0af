"""
API keys in one JSON file that knows their hashes only.

A key is ``tb_<id>_<secret>``; the secret has 256 random bits, so one round of SHA-256 is enough to
store: there is nothing to guess (NIST SP 800-63B 5.1.1 asks for slow hashes of what is memorized).
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tracebaton.errors import ConfigurationError
from tracebaton.semconv import EVENT_API_KEYS_UNREADABLE

__all__ = ["ApiKey", "KeyFile", "create_key", "list_keys", "revoke_key"]

_log = logging.getLogger("tracebaton.http")

_PREFIX = "tb"
#: Compared where no key has the id asked for, so that an unknown id takes as long as a known one.
_NOBODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key as the file keeps it."""

    id: str
    user_id: str
    hash: str
    created_at: str
    name: str = ""
    revoked_at: str | None = None

    def public(self) -> dict[str, Any]:
        """Return what may be shown of the key."""
        return {name: value for name, value in asdict(self).items() if name != "hash"}


@dataclass(frozen=True, slots=True)
class _File:
    keys: list[ApiKey]


_keys = TypeAdapter(_File)


def create_key(path: Path, user_id: str, *, name: str = "") -> str:
    """
    Make a key for *user_id* and return it; only its hash is kept.

    Raises:
        ConfigurationError: *user_id* is no name, or the file is no key file or cannot be written.
    """
    if not user_id.strip() or not user_id.isprintable():
        raise ConfigurationError("USER_ID: is empty, or holds what cannot be printed")
    key_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    key = ApiKey(id=key_id, user_id=user_id, hash=_hash(secret), created_at=_now(), name=name)
    with _locked(path):
        _write(path, [*list_keys(path), key])
    return f"{_PREFIX}_{key_id}_{secret}"


def list_keys(path: Path) -> list[ApiKey]:
    """
    Return every key of the file, an empty list where there is no file.

    Raises:
        ConfigurationError: The file is not a key file.
    """
    try:
        return _keys.validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return []
    except (OSError, ValidationError) as exc:
        raise ConfigurationError(
            f"TRACEBATON_API_KEYS_FILE: {path} is not a key file ({type(exc).__name__})."
            " Make one with `tracebaton keys create`"
        ) from None  # the cause would show what stands in the file


def revoke_key(path: Path, key_id: str) -> bool:
    """Revoke a key; False if there is no active one with this id."""
    with _locked(path):
        keys = list_keys(path)
        changed = [
            replace(key, revoked_at=_now()) if key.id == key_id and not key.revoked_at else key
            for key in keys
        ]
        if changed == keys:
            return False
        _write(path, changed)
    return True


class KeyFile:
    """
    The keys of one file, read again when it changes, so that a revoked key stops at once.

    A file that is gone knows nobody. One that cannot be understood any more changes nothing but the
    log: a slip of an editor does not lock every user out.
    """

    def __init__(self, path: Path) -> None:
        """
        Read *path*.

        Raises:
            ConfigurationError: There is no such file, or it is not a key file.
        """
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._keys: dict[str, ApiKey] = {}
        if not path.exists():
            raise ConfigurationError(
                f"TRACEBATON_API_KEYS_FILE: there is no file {path}."
                " Make one with `tracebaton keys create`"
            )
        self._read()

    def user_of(self, presented: str) -> str | None:
        """Return whom the key stands for, None for one that is unknown, wrong or revoked."""
        self._refresh()
        prefix, _, rest = presented.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id)
        right = hmac.compare_digest(_hash(secret), key.hash if key else _NOBODY)
        if key is None or not right or prefix != _PREFIX or key.revoked_at:
            return None
        return key.user_id

    def _refresh(self) -> None:
        try:
            self._read()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
        except (ConfigurationError, OSError) as exc:
            _log.error(EVENT_API_KEYS_UNREADABLE, extra={"fields": {"reason": str(exc)}})

    def _read(self) -> None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
        if stamp != self._stamp:
            self._stamp = stamp  # first: a file that cannot be read is said once
            self._keys = {key.id: key for key in list_keys(self._path)}


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside *path*: two commands at once must not lose a key."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f"{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as exc:
        raise ConfigurationError(
            f"TRACEBATON_API_KEYS_FILE: {path} cannot be written: {exc.strerror}"
        ) from exc


def _write(path: Path, keys: list[ApiKey]) -> None:
    """Replace the file in one step, readable by its owner only."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"keys": [asdict(key) for key in keys]}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
