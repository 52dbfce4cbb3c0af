"""
The one table: stock boto3 in threads, and the seam where its errors become ours.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from opentelemetry.instrumentation.utils import suppress_instrumentation

from tracebaton.aws import AwsAccess
from tracebaton.boto import session
from tracebaton.errors import StoreUnavailable
from tracebaton.tasks.dynamodb.definition import create_table
from tracebaton.tasks.dynamodb.items import SCHEMA, Item, number, text

__all__ = ["Cancelled", "DynamoAccess", "Table"]

#: Seconds a connection attempt, and an answer, may take.
_CONNECT_TIMEOUT, _READ_TIMEOUT = 3.0, 5.0
#: Calls that may run at once.
_THREADS: Final = 16
#: Keys of one BatchGetItem and writes of one BatchWriteItem
#: (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html).
_GETS, _WRITES = 100, 25
#: Tries of what a batch left over.
_TRIES: Final = 8
_MAKING: Final = threading.Lock()

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamoAccess(AwsAccess):
    """
    How DynamoDB is reached.

    Attributes:
        create: Make the table where there is none, for an emulator.
    """

    create: bool = False


class Cancelled(Exception):
    """
    A transaction was cancelled; nothing of it was written.

    Attributes:
        reasons: One code an item, ``None`` for those that would have gone through.
    """

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = reasons


class Table:
    """Calls to one DynamoDB table, off the event loop."""

    def __init__(self, name: str, access: DynamoAccess) -> None:
        self._name = name
        self._access = access
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tracebaton-dynamodb")
        self._made: Any = None
        self._ready = False
        self._opening = asyncio.Lock()

    async def get(self, key: Item) -> Mapping[str, Any] | None:
        """Return an item as it is now, None if there is none."""
        client = await self._client()
        answer = await self._call(
            lambda: client.get_item(TableName=self._name, Key=key, ConsistentRead=True)
        )
        found: Mapping[str, Any] | None = answer.get("Item")
        return found

    async def get_many(self, keys: Sequence[Item]) -> list[Mapping[str, Any]]:
        """Return those items that are there, in no order."""
        client = await self._client()
        found: list[Mapping[str, Any]] = []
        for start in range(0, len(keys), _GETS):
            left: Any = {"Keys": list(keys[start : start + _GETS]), "ConsistentRead": True}
            async for answer in self._until_done(
                left, lambda asked: client.batch_get_item(RequestItems=asked), "UnprocessedKeys"
            ):
                found += answer["Responses"].get(self._name, ())
        return found

    async def query(
        self, *, index: str | None = None, limit: int | None = None, **options: Any
    ) -> list[Mapping[str, Any]]:
        """Return what a query finds, page after page up to *limit* items."""
        client = await self._client()
        asked = {"TableName": self._name, **options}
        asked |= {"ConsistentRead": True} if index is None else {"IndexName": index}
        found: list[Mapping[str, Any]] = []
        while True:
            if limit is not None:
                asked["Limit"] = max(1, limit - len(found))
            answer = await self._call(lambda: client.query(**asked))
            found += answer["Items"]
            last = answer.get("LastEvaluatedKey")
            if not last or (limit is not None and len(found) >= limit):
                return found
            asked["ExclusiveStartKey"] = last

    async def update(self, key: Item, **options: Any) -> Mapping[str, Any] | None:
        """Change one item and return what UPDATE returned; None where its condition failed."""
        client = await self._client()
        return await self._conditional(
            lambda: client.update_item(TableName=self._name, Key=key, **options)
        )

    async def put(self, item: Item, **options: Any) -> bool:
        """Write one item; False where its condition failed."""
        client = await self._client()
        written = await self._conditional(
            lambda: client.put_item(TableName=self._name, Item=item, **options)
        )
        return written is not None

    async def delete(self, key: Item, **options: Any) -> Mapping[str, Any] | None:
        """Remove one item and return it if *options* ask; None where its condition failed."""
        client = await self._client()
        return await self._conditional(
            lambda: client.delete_item(TableName=self._name, Key=key, **options)
        )

    async def delete_many(self, keys: Sequence[Item]) -> None:
        """Remove these items, whether they are there or not."""
        client = await self._client()
        for start in range(0, len(keys), _WRITES):
            batch = [{"DeleteRequest": {"Key": key}} for key in keys[start : start + _WRITES]]
            async for _ in self._until_done(
                batch, lambda asked: client.batch_write_item(RequestItems=asked), "UnprocessedItems"
            ):
                pass

    async def transact(self, actions: Iterable[tuple[str, dict[str, Any]]]) -> None:
        """
        Write all of *actions*, ``Put``, ``Update`` or ``Delete`` with its options, or nothing.

        Raises:
            Cancelled: A condition failed, or another transaction was at the same item.
        """
        client = await self._client()
        items = [{kind: {"TableName": self._name, **rest}} for kind, rest in actions]
        await self._call(lambda: client.transact_write_items(TransactItems=items))

    async def check(self) -> None:
        """Raise ``StoreUnavailable`` unless a read works."""
        await self.get({"pk": text("schema"), "sk": text("schema")})

    async def close(self) -> None:
        """Close the connections and end the threads."""
        if self._made is not None:
            await self._call(self._made.close)
        self._threads.shutdown(wait=False)

    async def _until_done(self, left: Any, ask: Callable[[Any], Any], name: str) -> "Any":
        for tried in range(_TRIES):
            asked = {self._name: left}
            answer = await self._call(lambda asked=asked: ask(asked))  # type: ignore[misc]
            yield answer
            left = answer.get(name, {}).get(self._name)
            if not left:
                return
            await asyncio.sleep(random.random() * 0.05 * 2**tried)
        raise StoreUnavailable("The task store is busy. Try again in a moment.")

    async def _conditional(self, call: Callable[[], Any]) -> Mapping[str, Any] | None:
        try:
            answer: Mapping[str, Any] = await self._call(call)
        except Cancelled:
            return None
        return answer

    async def _client(self) -> Any:
        if not self._ready:
            async with self._opening:
                if not self._ready:
                    await self._open()
        return self._made

    async def _open(self) -> None:
        if self._made is None:
            self._made = await self._call(lambda: _client(self._access))
        client = self._made
        if self._access.create:
            await self._call(lambda: create_table(client, self._name))
        key = {"pk": text("schema"), "sk": text("schema")}
        answer = await self._call(
            lambda: client.update_item(
                TableName=self._name,
                Key=key,
                UpdateExpression="SET #v = if_not_exists(#v, :v)",
                ExpressionAttributeNames={"#v": "version"},
                ExpressionAttributeValues={":v": number(SCHEMA)},
                ReturnValues="ALL_NEW",
            )
        )
        found = int(answer["Attributes"]["version"]["N"])
        if found > SCHEMA:
            raise StoreUnavailable(
                f"The table {self._name} is of a later release (schema {found}, this one knows"
                f" {SCHEMA})."
            )
        self._ready = True

    async def _call(self, call: Callable[[], Result]) -> Result:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._guarded, call)

    def _guarded(self, call: Callable[[], Result]) -> Result:
        try:
            with suppress_instrumentation():  # our own bookkeeping is no part of anybody's trace
                return call()
        except ClientError as exc:
            error = exc.response.get("Error", {}).get("Code")
            if error == "ConditionalCheckFailedException":
                raise Cancelled(["ConditionalCheckFailed"]) from exc
            if error == "TransactionCanceledException":
                reasons = exc.response.get("CancellationReasons") or ()
                raise Cancelled([reason.get("Code") or "None" for reason in reasons]) from exc
            raise StoreUnavailable(_why(exc, self._name)) from exc
        except BotoCoreError as exc:
            raise StoreUnavailable(_why(exc, self._name)) from exc


def _why(exc: Exception, name: str) -> str:
    code = exc.response.get("Error", {}).get("Code") if isinstance(exc, ClientError) else None
    if code == "ResourceNotFoundException":
        return f"There is no DynamoDB table {name}. Create it from deploy/dynamodb.json."
    return "The task store cannot be reached. Try again in a moment."


def _client(access: DynamoAccess) -> Any:
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        max_pool_connections=_THREADS,
        retries={"mode": "standard", "total_max_attempts": 3},
        tcp_keepalive=True,
    )
    with _MAKING:  # a session is not safe under threads, its clients are
        return _session().client(
            "dynamodb",
            **access.arguments,
            config=config,
        )


@cache
def _session() -> boto3.session.Session:
    """Return the session of this process: reading DynamoDB's model takes 0.2 s, once."""
    return session()
