"""
Idempotency keys: who holds one, and what its first request was answered.
"""

import sqlite3

from tracebaton.errors import Conflict
from tracebaton.tasks.claiming import Claim, Claimed

__all__ = ["bind", "claim", "release", "renew", "settle"]

_OURS = " WHERE scope = ? AND key = ? AND token = ?"


def claim(
    connection: sqlite3.Connection,
    wanted: Claim,
    *,
    fingerprint: str,
    lease_until: float,
    expires_at: float,
    now: float,
) -> Claimed:
    """Take the key if it is free, else say what became of it."""
    found = connection.execute(
        "SELECT fingerprint, claims.lease_until, response, tasks.id AS task_id FROM claims"
        " LEFT JOIN tasks ON tasks.id = claims.task_id"
        " WHERE scope = ? AND key = ? AND expires_at > ?",
        (wanted.scope, wanted.key, now),
    ).fetchone()
    lost = found is not None and found["lease_until"] <= now
    if found is None or (lost and found["response"] is None and found["task_id"] is None):
        connection.execute(
            "INSERT OR REPLACE INTO claims (scope, key, token, fingerprint, lease_until,"
            " expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            (wanted.scope, wanted.key, wanted.token, fingerprint, lease_until, expires_at),
        )
        return Claimed("won")
    if found["fingerprint"] != fingerprint:
        return Claimed("differs")
    if found["response"] is None and not lost:
        return Claimed("busy")
    return Claimed("done", found["response"], found["task_id"])


def renew(connection: sqlite3.Connection, held: Claim, *, lease_until: float) -> None:
    """Extend the lease of a claim that is still ours."""
    connection.execute(f"UPDATE claims SET lease_until = ?{_OURS}", (lease_until, *_ours(held)))


def settle(connection: sqlite3.Connection, held: Claim, *, response: str) -> None:
    """Keep the answer."""
    connection.execute(f"UPDATE claims SET response = ?{_OURS}", (response, *_ours(held)))


def release(connection: sqlite3.Connection, held: Claim) -> None:
    """Remove a claim that led to nothing, and let the lease of any other end now."""
    connection.execute(
        f"DELETE FROM claims{_OURS} AND task_id IS NULL AND response IS NULL", _ours(held)
    )
    connection.execute(f"UPDATE claims SET lease_until = 0{_OURS}", _ours(held))


def bind(connection: sqlite3.Connection, held: Claim, task_id: str) -> None:
    """
    Note the first task that is created under the claim.

    Raises:
        Conflict: The claim is another request's by now.
    """
    ours = connection.execute(
        f"UPDATE claims SET task_id = coalesce(task_id, ?){_OURS}", (task_id, *_ours(held))
    ).rowcount
    if not ours:
        raise Conflict("Another request with this Idempotency-Key took over. Ask again.")


def _ours(held: Claim) -> tuple[str, str, str]:
    return held.scope, held.key, held.token
