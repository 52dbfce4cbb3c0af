"""
How SQS is reached: whose credentials, which endpoint, and boto3's client for it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from tracebaton.aws import AwsAccess
from tracebaton.settings import Settings

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

__all__ = ["SqsAccess", "client_of"]

#: Seconds a connection attempt may take.
_CONNECT_TIMEOUT = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SqsAccess(AwsAccess):
    """
    How SQS is reached.

    Attributes:
        threads: Calls other than receives that may run at once.
        fast: Answer boto3's hot calls over connections of our own, where its client is plain.
    """

    threads: int = 8
    fast: bool = True

    @classmethod
    def of(cls, settings: Settings) -> "SqsAccess":
        """Return the access that *settings* name: ``AWS_*``, or what the queue's URL says."""
        return cls(
            endpoint=settings.sqs_endpoint,
            region=settings.region,
            anonymous=settings.sqs_on_loopback and not settings.has_aws_credentials,
            fast=settings.fast_sqs,
        )


def client_of(
    session: boto3.session.Session, access: SqsAccess, *, pool: int, read_timeout: float
) -> "SQSClient":
    """Return a client of *session* that keeps up to *pool* connections."""
    return session.client(
        "sqs",
        **access.arguments,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            max_pool_connections=pool,
            retries={"mode": "standard", "total_max_attempts": 2},
            tcp_keepalive=True,
        ),
    )
