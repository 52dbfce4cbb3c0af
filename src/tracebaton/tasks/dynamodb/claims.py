"""
Idempotency keys: who holds one, and what its first request was answered.
"""

from collections.abc import Mapping
from typing import Any, Final

from tracebaton.errors import StoreUnavailable
from tracebaton.tasks.claiming import Claim, Claimed
from tracebaton.tasks.dynamodb.items import Item, claim_key, due, number, text
from tracebaton.tasks.dynamodb.table import Table
from tracebaton.tasks.dynamodb.writing import TRIES, UNCHANGED, paused, read

__all__ = ["binding", "claim", "expire", "key_of", "release", "renew", "settle", "unbind"]

_OURS: Final = {"ConditionExpression": "#token = :token"}
_NAMES: Final = {"#token": "token"}


async def claim(
    table: Table,
    wanted: Claim,
    *,
    fingerprint: str,
    lease_until: float,
    expires_at: float,
    now: float,
) -> Claimed:
    """Take the key if it is free, else say what became of it."""
    for tried in range(TRIES):
        found = await table.get(claim_key(wanted.scope, wanted.key))
        known = None if found is None else await _standing(table, found, fingerprint, now)
        if known is not None:
            return known
        item: Item = {
            **claim_key(wanted.scope, wanted.key),
            "token": text(wanted.token),
            "fingerprint": text(fingerprint),
            "lease_until": number(lease_until),
            "expires_at": number(expires_at),
            "version": number(1 if found is None else int(found["version"]["N"]) + 1),
            **due("claim", wanted.key, expires_at),
        }
        unchanged: dict[str, Any] = (
            {"ConditionExpression": "attribute_not_exists(pk)"}
            if found is None
            else {
                "ConditionExpression": UNCHANGED,
                "ExpressionAttributeValues": {":version": found["version"]},
            }
        )
        if await table.put(item, **unchanged):
            return Claimed("won")
        await paused(tried)
    raise StoreUnavailable("The task store is busy. Try again in a moment.")


async def _standing(
    table: Table, found: Mapping[str, Any], fingerprint: str, now: float
) -> Claimed | None:
    """Return what became of the key, None if it is free."""
    if float(found["expires_at"]["N"]) <= now:
        return None
    lost = float(found["lease_until"]["N"]) <= now
    response, task_id = found.get("answer", {}).get("S"), found.get("task_id", {}).get("S")
    if task_id is not None:
        stored = await read(table, task_id)
        task_id = None if stored is None or stored.forgotten else task_id
    if lost and response is None and task_id is None:
        return None
    if found["fingerprint"]["S"] != fingerprint:
        return Claimed("differs")
    if response is None and not lost:
        return Claimed("busy")
    return Claimed("done", response, task_id)


async def renew(table: Table, held: Claim, *, lease_until: float) -> None:
    """Extend the lease of a claim that is still ours."""
    await _set(table, held, "lease_until = :value", number(lease_until))


async def settle(table: Table, held: Claim, *, response: str) -> None:
    """Keep the answer."""
    await _set(table, held, "answer = :value", text(response))


async def release(table: Table, held: Claim) -> None:
    """Remove a claim that led to nothing, and let the lease of any other end now."""
    nothing = "attribute_not_exists(task_id) AND attribute_not_exists(answer)"
    gone = await table.delete(
        claim_key(held.scope, held.key),
        ConditionExpression=f"{_OURS['ConditionExpression']} AND {nothing}",
        ExpressionAttributeNames=_NAMES,
        ExpressionAttributeValues={":token": text(held.token)},
    )
    if gone is None:
        await _set(table, held, "lease_until = :value", number(0))


def binding(held: Claim, task_id: str) -> dict[str, Any]:
    """Return the update that notes the first task that is created under the claim."""
    return {
        "Key": claim_key(held.scope, held.key),
        "UpdateExpression": "SET task_id = if_not_exists(task_id, :task) ADD version :one",
        **_OURS,
        "ExpressionAttributeNames": _NAMES,
        "ExpressionAttributeValues": {
            ":task": text(task_id),
            ":token": text(held.token),
            ":one": number(1),
        },
    }


async def unbind(table: Table, key: str, task_id: str) -> None:
    """Let the claim know nothing of a task that was taken back."""
    await table.update(
        {"pk": text(key), "sk": text("claim")},
        UpdateExpression="REMOVE task_id ADD version :one",
        ConditionExpression="task_id = :task",
        ExpressionAttributeValues={":task": text(task_id), ":one": number(1)},
    )


async def expire(table: Table, entry: Mapping[str, Any], now: float) -> bool:
    """Remove a claim unless it was taken anew."""
    gone = await table.delete(
        {"pk": entry["pk"], "sk": entry["sk"]},
        ConditionExpression="expires_at <= :now",
        ExpressionAttributeValues={":now": number(now)},
    )
    return gone is not None


def key_of(held: Claim | None) -> str | None:
    """Return under which key a claim stands."""
    return None if held is None else str(claim_key(held.scope, held.key)["pk"]["S"])


async def _set(table: Table, held: Claim, what: str, value: Mapping[str, str]) -> None:
    await table.update(
        claim_key(held.scope, held.key),
        UpdateExpression=f"SET {what} ADD version :one",
        **_OURS,
        ExpressionAttributeNames=_NAMES,
        ExpressionAttributeValues={
            ":value": value,
            ":token": text(held.token),
            ":one": number(1),
        },
    )
