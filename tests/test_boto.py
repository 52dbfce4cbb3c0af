"""The session that clients are made by: as boto3's own, with less kept in memory."""

from typing import Any

import boto3
import botocore.session
import pytest

from tracebaton.boto import session

#: One region of each kind of partition, and one that botocore does not know yet.
REGIONS = ("eu-central-1", "us-gov-west-1", "cn-north-1", "eusc-de-east-1", "eu-nowhere-7")


@pytest.fixture(scope="module")
def plain() -> boto3.session.Session:
    """Return a session as boto3 makes it."""
    return boto3.session.Session()


@pytest.fixture(scope="module")
def ours() -> boto3.session.Session:
    """Return a session as we make it."""
    return session()


def reached(of: boto3.session.Session, service: str, region: str) -> tuple[Any, ...]:
    """Return where a client of *of* would send, and as whom it would sign."""
    client: Any = of.client(
        service,  # type: ignore[call-overload]  # any name
        region_name=region,
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    signer = client._request_signer
    return client.meta.endpoint_url, signer.signing_name, signer.region_name, client.meta.partition


@pytest.mark.parametrize("service", ["sqs", "dynamodb", "sts", "sso", "sso-oidc"])
def test_clients_are_as_boto3_makes_them(
    plain: boto3.session.Session, ours: boto3.session.Session, service: str
) -> None:
    """What we call, and what credentials come from, is reached where boto3 reaches it."""
    expected = [reached(plain, service, region) for region in REGIONS]

    assert [reached(ours, service, region) for region in REGIONS] == expected


def test_places_of_other_services_are_not_kept(ours: boto3.session.Session) -> None:
    """botocore knows 400 services; a session of ours keeps where seven of them are."""
    core: botocore.session.Session = ours._session
    endpoints = core.get_component("data_loader").load_data("endpoints")
    kept = {name for partition in endpoints["partitions"] for name in partition["services"]}

    assert "sqs" in kept
    assert kept <= {"sqs", "dynamodb", "sts", "sso", "portal.sso", "oidc", "signin"}
