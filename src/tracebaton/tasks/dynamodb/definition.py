"""
What the table is: its keys and indexes, and how an emulator gets it.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

__all__ = ["DEFINITION", "create_table"]


def create_table(client: Any, name: str) -> None:
    """Create the table *name* unless it is there."""
    if name in client.list_tables()["TableNames"]:
        return
    with suppress(client.exceptions.ResourceInUseException):  # another process was faster
        client.create_table(TableName=name, **DEFINITION)
    client.get_waiter("table_exists").wait(
        TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )


def _keys(partition: str, sort: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]


def _index(name: str, partition: str, sort: str, *shown: str) -> dict[str, Any]:
    projection: dict[str, Any] = (
        {"ProjectionType": "INCLUDE", "NonKeyAttributes": [*shown]}
        if shown
        else {"ProjectionType": "KEYS_ONLY"}
    )
    return {
        "IndexName": name,
        "KeySchema": _keys(partition, sort),
        "Projection": projection,
    }


#: The table as CreateTable takes it; deploy/dynamodb.json says the same to CloudFormation.
DEFINITION: Final[Mapping[str, Any]] = {
    "BillingMode": "PAY_PER_REQUEST",
    "KeySchema": _keys("pk", "sk"),
    "AttributeDefinitions": [
        {"AttributeName": each, "AttributeType": "N" if each == "due" else "S"}
        for each in ("pk", "sk", "created_pk", "created", "user_pk", "due_pk", "due")
    ],
    "GlobalSecondaryIndexes": [
        _index("by_age", "created_pk", "created", "status", "type"),
        _index("by_user", "user_pk", "created", "status", "type"),
        _index("by_due", "due_pk", "due"),
    ],
}
