"""What only the store in DynamoDB can show: its table, its limits, an endpoint that is away."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from tracebaton.errors import StoreUnavailable
from tracebaton.settings import Settings
from tracebaton.tasks import TaskStatus
from tracebaton.tasks.dynamodb import DynamoAccess, DynamoTaskStore
from tracebaton.tasks.dynamodb.definition import DEFINITION

ROOT = Path(__file__).parents[2]
AWAY = "http://127.0.0.1:9"


def access(endpoint: str, *, create: bool = True) -> DynamoAccess:
    """Return how an emulator is reached."""
    return DynamoAccess(endpoint=endpoint, region="us-east-1", anonymous=True, create=create)


@pytest.fixture
def endpoint(dynamodb: Callable[[str], str]) -> str:
    """Return the endpoint of an emulator."""
    return dynamodb("ministack")


def test_cloudformation_makes_the_same_table() -> None:
    """deploy/dynamodb.json differs from what an emulator gets only where AWS knows more."""
    template = json.loads((ROOT / "deploy" / "dynamodb.json").read_text())
    (table,) = template["Resources"].values()
    properties = table["Properties"]

    assert table["Type"] == "AWS::DynamoDB::Table"
    assert table["DeletionPolicy"] == "Retain"
    assert properties.items() >= DEFINITION.items()
    assert properties.keys() - DEFINITION.keys() == {
        "TableName",
        "PointInTimeRecoverySpecification",
        "SSESpecification",
    }


async def test_a_store_that_is_away_says_so() -> None:
    """Every call is the one error that the API answers 503 with."""
    store = DynamoTaskStore("tasks", access=access(AWAY))
    try:
        with pytest.raises(StoreUnavailable):
            await store.check()
        with pytest.raises(StoreUnavailable):
            await store.start("t", attempt=1)
    finally:
        await store.close()


async def test_a_missing_table_is_named(endpoint: str) -> None:
    """With where its template is; outside of an emulator nothing is created."""
    store = DynamoTaskStore("nowhere", access=access(endpoint, create=False))
    try:
        with pytest.raises(StoreUnavailable, match=r"nowhere.*deploy/dynamodb\.json"):
            await store.check()
    finally:
        await store.close()


async def test_a_later_table_is_refused(endpoint: str) -> None:
    """A release that does not know its items keeps its hands off."""
    one = DynamoTaskStore("later", access=access(endpoint))
    await one.check()
    client = boto3.client(
        "dynamodb",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    client.update_item(
        TableName="later",
        Key={"pk": {"S": "schema"}, "sk": {"S": "schema"}},
        UpdateExpression="SET #v = :v",
        ExpressionAttributeNames={"#v": "version"},
        ExpressionAttributeValues={":v": {"N": "2"}},
    )
    client.close()
    other = DynamoTaskStore("later", access=access(endpoint))
    try:
        with pytest.raises(StoreUnavailable, match="later release"):
            await other.check()
    finally:
        await one.close()
        await other.close()


async def test_a_heartbeat_is_not_undone(endpoint: str, queued: Any) -> None:
    """Progress that was decided before a renewal does not bring the old lease back."""
    store = DynamoTaskStore("beats", access=access(endpoint))
    try:
        await store.create(queued("t"))
        await store.start("t", attempt=1, owner="m", lease_until=10.0)
        reports = [store.progress("t", attempt=1, percent=each) for each in range(1, 9)]
        await asyncio.gather(*reports, store.renew({"t": "m"}, lease_until=99.0))
        task = await store.get("t")
        await store.renew({"t": "someone else"}, lease_until=5.0)
        still = await store.get("t")
    finally:
        await store.close()

    assert task is not None
    assert still is not None
    assert (task.status, task.lease_until, still.lease_until) == (TaskStatus.RUNNING, 99.0, 99.0)


@pytest.mark.parametrize("name", ["ab", "with space", "a/b", ""])
def test_a_name_that_is_no_table_stops_the_start(name: str) -> None:
    """By the rules of CreateTable."""
    with pytest.raises(Exception, match="TRACEBATON_STORE"):
        Settings.load({"TRACEBATON_STORE": f"dynamodb://{name}"})


def test_the_endpoint_is_the_one_that_boto3_reads() -> None:
    """DynamoDB's own variable before the one for every service."""
    both = {"AWS_ENDPOINT_URL": "http://other:1", "AWS_ENDPOINT_URL_DYNAMODB": "http://[::1]:1"}
    settings = Settings.load(both)

    assert (settings.dynamodb_endpoint, settings.dynamodb_on_loopback) == ("http://[::1]:1", True)
    assert not Settings.load({"AWS_ENDPOINT_URL": "http://other:1"}).dynamodb_on_loopback
    assert Settings.load({}).dynamodb_endpoint is None
