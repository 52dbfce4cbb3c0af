"""How a service of AWS is reached: an endpoint, a region, credentials; without any client."""

from dataclasses import dataclass
from typing import TypedDict

__all__ = ["AwsAccess", "ClientArguments"]


class ClientArguments(TypedDict):
    """What boto3 calls it, where it makes a client."""

    endpoint_url: str | None
    region_name: str | None
    aws_access_key_id: str | None
    aws_secret_access_key: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsAccess:
    """
    Where a service is, and whose credentials open it.

    Attributes:
        endpoint: URL of an emulator; None lets boto3 decide.
        region: AWS region; None lets boto3 decide.
        anonymous: Use made-up credentials, for an emulator on this machine.
    """

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False

    @property
    def arguments(self) -> ClientArguments:
        """Return what boto3 makes a client of it with."""
        # boto3 would ask the instance metadata service for credentials nobody has.
        made_up = "local" if self.anonymous else None
        return {
            "endpoint_url": self.endpoint,
            "region_name": self.region,
            "aws_access_key_id": made_up,
            "aws_secret_access_key": made_up,
        }
