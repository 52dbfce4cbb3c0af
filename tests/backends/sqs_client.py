"""Clients of an SQS on this machine."""

from functools import cache

import boto3

from tracebaton.queue.sqs import Sqs, SqsAccess

__all__ = ["sqs_client"]


@cache
def _session() -> boto3.session.Session:
    """Return the session of all tests: boto3 reads its files in a tenth of a second, once."""
    return boto3.session.Session()


def sqs_client(url: str, *, fast: bool = True) -> Sqs:
    """Return a client of the SQS at *url* that needs no credentials; who asks closes it."""
    access = SqsAccess(endpoint=url, region="us-east-1", anonymous=True, fast=fast)
    return Sqs(access, session=_session())
