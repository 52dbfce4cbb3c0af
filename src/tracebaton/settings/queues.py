"""The queues, the AWS that they are in, and the worker on them."""

import re
from collections.abc import Iterator
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, Field, field_validator

from tracebaton.settings.values import (
    Contradiction,
    HttpUrl,
    QueueNames,
    QueueUrls,
    names_in,
    on_loopback,
)

__all__ = ["QueueSettings"]

_REGION_IN_HOST = re.compile(
    r"(?:^|\.)sqs[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.|^([a-z]{2}(?:-[a-z]+)+-\d)\.queue\."
)

#: Calls to SQS that can have spans of their own (SPEC 5).
QueueSpans = Annotated[frozenset[Literal["receive", "settle"]], BeforeValidator(names_in)]


class QueueSettings(BaseModel):
    """Where SQS and DynamoDB are, and how messages are worked on."""

    # AWS
    aws_region: str | None = Field(None, alias="AWS_REGION")
    aws_default_region: str | None = Field(None, alias="AWS_DEFAULT_REGION")
    aws_access_key_id: str | None = Field(None, alias="AWS_ACCESS_KEY_ID", repr=False)
    aws_profile: str | None = Field(None, alias="AWS_PROFILE")
    aws_endpoint_url: HttpUrl = Field(None, alias="AWS_ENDPOINT_URL")
    aws_endpoint_url_sqs: HttpUrl = Field(None, alias="AWS_ENDPOINT_URL_SQS")
    aws_endpoint_url_dynamodb: HttpUrl = Field(None, alias="AWS_ENDPOINT_URL_DYNAMODB")

    # Queue
    queue_urls: QueueUrls = Field((), alias="TRACEBATON_QUEUE_URL")
    queue_names: QueueNames = Field((), alias="TRACEBATON_QUEUE_NAME")
    dlq_url: HttpUrl = Field(None, alias="TRACEBATON_DLQ_URL")
    quarantine_url: HttpUrl = Field(None, alias="TRACEBATON_QUARANTINE_URL")
    fast_sqs: bool = Field(True, alias="TRACEBATON_FAST_SQS")
    message_key: str | None = Field(None, alias="TRACEBATON_MESSAGE_KEY", repr=False)

    # Worker
    concurrency: int = Field(10, alias="TRACEBATON_CONCURRENCY", ge=1, le=10_000)
    prefetch: int = Field(0, alias="TRACEBATON_PREFETCH", ge=0, le=10_000)
    queue_spans: QueueSpans = Field(frozenset(), alias="TRACEBATON_QUEUE_SPANS")
    visibility_seconds: int = Field(60, alias="TRACEBATON_VISIBILITY_SECONDS", ge=5, le=43_200)
    max_attempts: int = Field(5, alias="TRACEBATON_MAX_ATTEMPTS", ge=1, le=1000)
    drain_seconds: float = Field(20.0, alias="TRACEBATON_DRAIN_SECONDS", ge=0, le=43_200)
    loop_block_seconds: float = Field(2.0, alias="TRACEBATON_LOOP_BLOCK_SECONDS", ge=0, le=3600)
    retry_base_seconds: float = Field(1.0, alias="TRACEBATON_RETRY_BASE_SECONDS", gt=0, le=43_200)
    retry_cap_seconds: float = Field(300.0, alias="TRACEBATON_RETRY_CAP_SECONDS", gt=0, le=43_200)

    dlq_seconds: float = Field(15.0, alias="TRACEBATON_DLQ_SECONDS", gt=0, le=43_200)

    @field_validator("message_key")
    @classmethod
    def _some_key(cls, value: str) -> str:
        if not any(map(str.strip, value.split(","))):
            raise ValueError("names no key")
        return value

    def _contradicting_retries(self) -> Iterator[Contradiction]:
        if self.retry_cap_seconds < self.retry_base_seconds:
            yield (
                {"TRACEBATON_RETRY_CAP_SECONDS", "TRACEBATON_RETRY_BASE_SECONDS"},
                "TRACEBATON_RETRY_CAP_SECONDS is below TRACEBATON_RETRY_BASE_SECONDS",
            )

    @property
    def queue_url(self) -> str | None:
        """Return the URL of the queue that tasks are sent to."""
        return self.queue_urls[0].queue if self.queue_urls else None

    @property
    def queue_name(self) -> str | None:
        """Return the name of the queue that tasks are sent to, where that was given."""
        return self.queue_names[0].queue if self.queue_names else None

    @property
    def message_keys(self) -> tuple[str, ...]:
        """Return the keys that messages are signed with: the first signs, all verify."""
        return tuple(filter(None, map(str.strip, (self.message_key or "").split(","))))

    @property
    def sqs_endpoint(self) -> str | None:
        """Return where SQS is spoken to; None lets boto3 decide."""
        explicit = self.aws_endpoint_url_sqs or self.aws_endpoint_url
        if explicit:
            return explicit
        parts = urlsplit(self.queue_url or "")
        if parts.hostname and not parts.hostname.endswith((".amazonaws.com", ".amazonaws.com.cn")):
            return f"{parts.scheme}://{parts.netloc}"
        return None

    @property
    def region(self) -> str | None:
        """Return the AWS region: the variable's, else the queue URL's, else a name for loopback."""
        host = urlsplit(self.queue_url or "").hostname or ""
        in_host = _REGION_IN_HOST.search(host)
        found = self.aws_region or self.aws_default_region
        if found or in_host:
            return found or (in_host and (in_host[1] or in_host[2])) or None
        return "us-east-1" if self.sqs_on_loopback else None

    @property
    def sqs_on_loopback(self) -> bool:
        """Tell whether SQS is an emulator on this machine."""
        return on_loopback(self.sqs_endpoint)

    @property
    def dynamodb_endpoint(self) -> str | None:
        """Return where DynamoDB is spoken to; None lets boto3 decide."""
        return self.aws_endpoint_url_dynamodb or self.aws_endpoint_url

    @property
    def dynamodb_on_loopback(self) -> bool:
        """Tell whether DynamoDB is an emulator on this machine."""
        return on_loopback(self.dynamodb_endpoint)

    @property
    def has_aws_credentials(self) -> bool:
        """Tell whether the environment names credentials, so that none are invented."""
        return bool(self.aws_access_key_id or self.aws_profile)
