"""
The settings, read from the environment once, when the app starts.

The only module that reads the environment. Standard names come first (``OTEL_*``, ``SENTRY_*``,
``AWS_*``); what those do not cover is ``TRACEBATON_*``. An empty variable counts as unset. Bad
values stop the start with one line that names every bad variable.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)

from tracebaton.errors import ConfigurationError

__all__ = [
    "ALL_INSTALLED",
    "ENVIRONMENT",
    "INSTRUMENTATIONS",
    "SAMPLERS",
    "QueueSetting",
    "Settings",
    "child_environment",
    "prefer_stable_http_conventions",
]

#: What the names of our own variables begin with.
_OURS = "TRACEBATON_"
#: The samplers of the OpenTelemetry specification and the rate each stands for; None: the argument.
SAMPLERS: Mapping[str, float | None] = {
    "always_on": 1.0,
    "always_off": 0.0,
    "traceidratio": None,
    "parentbased_always_on": 1.0,
    "parentbased_always_off": 0.0,
    "parentbased_traceidratio": None,
}
#: What can be instrumented, by the names in OpenTelemetry's registry.
INSTRUMENTATIONS = (
    "asyncpg",
    "botocore",
    "httpx",
    "psycopg",
    "redis",
    "requests",
    "sqlalchemy",
    "urllib3",
)
#: Signatures that can be checked without being able to make them (RFC 7518).
JWT_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
#: In their place: as many of them as are installed.
ALL_INSTALLED = "all-installed"
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")
#: A table's name as DynamoDB has it (API reference, CreateTable).
_TABLE = re.compile(r"dynamodb://[A-Za-z0-9_.-]{3,255}")
_REGION_IN_HOST = re.compile(
    r"(?:^|\.)sqs[.-]([a-z]{2}(?:-[a-z]+)+-\d)\.|^([a-z]{2}(?:-[a-z]+)+-\d)\.queue\."
)


def _names(value: object) -> object:
    return (
        frozenset(filter(None, map(str.strip, value.split(","))))
        if isinstance(value, str)
        else value
    )


Names = Annotated[frozenset[str], BeforeValidator(_names)]
#: Calls to SQS that can have spans of their own (SPEC 5).
QueueSpans = Annotated[frozenset[Literal["receive", "settle"]], BeforeValidator(_names)]
Rate = Annotated[float, Field(ge=0, le=1)]


def _rates(value: object) -> object:
    if not isinstance(value, str):
        return value
    pairs = [part.rpartition("=") for part in map(str.strip, value.split(",")) if part]
    if not all(name.strip() and rate.strip() for name, _, rate in pairs):
        raise ValueError("has to be NAME=RATE, separated by commas")
    return {" ".join(name.split()): rate.strip() for name, _, rate in pairs}


Rates = Annotated[Mapping[str, Rate], BeforeValidator(_rates)]


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("has to be an http(s) URL")
    _ = parts.port  # raises where it is not one
    return value


HttpUrl = Annotated[str | None, BeforeValidator(_http_url)]


@dataclass(frozen=True, slots=True)
class QueueSetting:
    """
    One of the queues a process works on.

    Attributes:
        queue: Its URL or its name.
        weight: Its share of the handlers where several queues have messages.
    """

    queue: str
    weight: int = 1


def _queue_list(value: object) -> object:
    """Read ``QUEUE``, or several separated by commas, each with ``*WEIGHT`` where it is not 1."""
    if not isinstance(value, str):
        return value
    queues = []
    for part in filter(None, map(str.strip, value.split(","))):
        queue, star, weight = part.rpartition("*")
        if star and not re.fullmatch("[1-9][0-9]{0,3}", weight.strip()):
            raise ValueError("has a weight that is not a number from 1 to 9999")
        queues.append(QueueSetting(queue.strip(), int(weight)) if star else QueueSetting(part))
    if not queues or len({one.queue for one in queues}) < len(queues):
        raise ValueError("names no queue, or one twice")
    return tuple(queues)


def _queue_urls(value: object) -> object:
    queues = _queue_list(value)
    if (
        isinstance(queues, tuple)
        and len({urlsplit(_http_url(one.queue)).netloc for one in queues}) > 1
    ):
        raise ValueError("names queues of different endpoints")
    return queues


QueueNames = Annotated[tuple[QueueSetting, ...], BeforeValidator(_queue_list)]
QueueUrls = Annotated[tuple[QueueSetting, ...], BeforeValidator(_queue_urls)]


class Settings(BaseModel):
    """
    Everything that can be configured, frozen.

    Attributes are named like their variables without the ``TRACEBATON_`` prefix; each variable, its
    default and its meaning stand in ``.env.example``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    _unknown: Mapping[str, str | None] = PrivateAttr(default_factory=dict)

    # OpenTelemetry
    otel_sdk_disabled: bool = Field(False, alias="OTEL_SDK_DISABLED")
    otel_service_name: str | None = Field(None, alias="OTEL_SERVICE_NAME")
    otlp_endpoint: HttpUrl = Field(None, alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    otlp_traces_endpoint: HttpUrl = Field(None, alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    otlp_metrics_endpoint: HttpUrl = Field(None, alias="OTEL_EXPORTER_OTLP_METRICS_ENDPOINT")
    otlp_logs_endpoint: HttpUrl = Field(None, alias="OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
    otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", alias="OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    otel_traces_exporter: Literal["otlp", "none"] = Field("otlp", alias="OTEL_TRACES_EXPORTER")
    otel_logs_exporter: Literal["otlp", "none"] = Field("otlp", alias="OTEL_LOGS_EXPORTER")
    otel_metrics_exporter: Names = Field(frozenset({"otlp"}), alias="OTEL_METRICS_EXPORTER")
    otel_traces_sampler: str | None = Field(None, alias="OTEL_TRACES_SAMPLER")
    otel_traces_sampler_arg: Rate | None = Field(None, alias="OTEL_TRACES_SAMPLER_ARG")
    sample_rates: Rates = Field({}, alias="TRACEBATON_SAMPLE_RATES")
    instrument: Names = Field(frozenset(), alias="TRACEBATON_INSTRUMENT")
    keep_errors: bool = Field(False, alias="TRACEBATON_KEEP_ERRORS")

    # Sentry
    sentry_dsn: str | None = Field(None, alias="SENTRY_DSN", repr=False)
    sentry_environment: str | None = Field(None, alias="SENTRY_ENVIRONMENT")
    sentry_release: str | None = Field(None, alias="SENTRY_RELEASE")
    sentry_traces_sample_rate: Rate | None = Field(None, alias="SENTRY_TRACES_SAMPLE_RATE")
    sentry_profile_session_sample_rate: Rate = Field(
        0.0, alias="SENTRY_PROFILE_SESSION_SAMPLE_RATE"
    )
    sentry_spotlight: str | None = Field(None, alias="SENTRY_SPOTLIGHT")
    sentry_mode: Literal["span-processor", "otlp"] = Field(
        "span-processor", alias="TRACEBATON_SENTRY_MODE"
    )
    sentry_queue_child: bool = Field(False, alias="TRACEBATON_SENTRY_QUEUE_CHILD")

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

    # HTTP
    auth: Literal["none", "api-key", "jwt"] = Field("none", alias="TRACEBATON_AUTH")
    api_keys_file: Path | None = Field(None, alias="TRACEBATON_API_KEYS_FILE")
    jwt_jwks: str | None = Field(None, alias="TRACEBATON_JWT_JWKS")
    jwt_issuer: str | None = Field(None, alias="TRACEBATON_JWT_ISSUER")
    jwt_audience: str | None = Field(None, alias="TRACEBATON_JWT_AUDIENCE")
    jwt_algorithms: Names = Field(frozenset({"RS256", "ES256"}), alias="TRACEBATON_JWT_ALGORITHMS")
    jwt_leeway_seconds: float = Field(60.0, alias="TRACEBATON_JWT_LEEWAY_SECONDS", ge=0, le=600)
    jwt_user_claim: str = Field("sub", alias="TRACEBATON_JWT_USER_CLAIM")
    api_url: str = Field("http://127.0.0.1:8000", alias="TRACEBATON_API_URL")
    api_key: str | None = Field(None, alias="TRACEBATON_API_KEY", repr=False)
    rate_per_minute: int | None = Field(None, alias="TRACEBATON_RATE_PER_MINUTE", ge=0, le=10**6)
    trusted_proxies: Names = Field(frozenset(), alias="TRACEBATON_TRUSTED_PROXIES")
    store: str | None = Field(None, alias="TRACEBATON_STORE")
    trust_baggage: Names = Field(frozenset(), alias="TRACEBATON_TRUST_BAGGAGE")
    trust_sampling: bool = Field(False, alias="TRACEBATON_TRUST_SAMPLING")
    propagate_trace_to: Names | None = Field(None, alias="TRACEBATON_PROPAGATE_TRACE_TO")
    propagate_baggage_to: Names = Field(frozenset(), alias="TRACEBATON_PROPAGATE_BAGGAGE_TO")
    retention_hours: float = Field(168.0, alias="TRACEBATON_RETENTION_HOURS", gt=0)

    # The rest
    stop_with_stdin: bool = Field(False, alias="TRACEBATON_STOP_WITH_STDIN")
    data: Path = Field(Path(".tracebaton"), alias="TRACEBATON_DATA")
    viewer_url: HttpUrl = Field(None, alias="TRACEBATON_VIEWER_URL")
    log_format: Literal["json", "pretty"] | None = Field(None, alias="TRACEBATON_LOG_FORMAT")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", alias="TRACEBATON_LOG_LEVEL"
    )
    chat_url: HttpUrl = Field(None, alias="TRACEBATON_CHAT_URL")
    chat_model: str = Field("local", alias="TRACEBATON_CHAT_MODEL")
    chat_api_key: str | None = Field(None, alias="TRACEBATON_CHAT_API_KEY", repr=False)

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None) -> Self:
        """
        Read the settings from *environ*, the process environment by default.

        Raises:
            ConfigurationError: Names every bad variable, in one line.
        """
        if environ is None:
            _forget_empty()
        values = os.environ if environ is None else environ
        given = {name: text for name, value in values.items() if (text := value.strip())}
        problems: list[str] = []
        bad: set[str] = set()
        try:
            settings = cls.model_validate(given)
        except ValidationError as exc:
            problems, bad = _lines(exc), {str(error["loc"][0]) for error in exc.errors()}
            # Every variable has a default, so what is left is valid and can be compared.
            settings = cls.model_validate({n: v for n, v in given.items() if n not in bad})
        problems += [text for names, text in settings._contradictions() if not names & bad]
        if problems:
            raise ConfigurationError("; ".join(problems))
        settings._unknown = _unknown(given)
        return settings

    @property
    def unknown(self) -> Mapping[str, str | None]:
        """Return the ``TRACEBATON_`` variables that nothing reads, each with the nearest name."""
        return self._unknown

    @field_validator("otel_traces_sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise ValueError(f"unknown sampler, use one of {', '.join(SAMPLERS)}")
        return value

    @field_validator("otel_metrics_exporter")
    @classmethod
    def _known_exporters(cls, names: frozenset[str]) -> frozenset[str]:
        known = {"otlp", "prometheus", "none"}
        if names - known or ("none" in names and len(names) > 1):
            raise ValueError("takes otlp, prometheus, both separated by a comma, or none")
        return names

    @field_validator("instrument")
    @classmethod
    def _known_instrumentations(cls, names: frozenset[str]) -> frozenset[str]:
        unknown = names - {*INSTRUMENTATIONS, ALL_INSTALLED}
        if unknown:
            known = ", ".join((*INSTRUMENTATIONS, ALL_INSTALLED))
            raise ValueError(f"does not know {', '.join(sorted(unknown))}, use some of {known}")
        return names

    @field_validator("sentry_dsn")
    @classmethod
    def _whole_dsn(cls, value: str) -> str:
        parts = urlsplit(value)
        _ = parts.port  # raises where it is not one
        if not (
            parts.scheme in {"http", "https"}
            and parts.hostname
            and parts.username
            and parts.path.rsplit("/", 1)[-1].isdigit()
        ):
            raise ValueError("is not a DSN of the form https://PUBLIC_KEY@HOST/PROJECT_ID")
        return value

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value == "none" or value.startswith("sqlite:///") or _TABLE.fullmatch(value):
            return value
        raise ValueError("has to be sqlite:///PATH, dynamodb://TABLE or none")

    @field_validator("api_url")
    @classmethod
    def _api_address(cls, value: str) -> str:
        return _http_url(value)

    @field_validator("jwt_jwks")
    @classmethod
    def _safe_jwks(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme in {"http", "https"}:
            _http_url(value)
            if parts.scheme == "http" and not _LOOPBACK.fullmatch(parts.hostname or ""):
                raise ValueError("has to be an https URL, or a file")
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _asymmetric(cls, names: frozenset[str]) -> frozenset[str]:
        if not names or (unknown := names - set(JWT_ALGORITHMS)):
            said = ", ".join(sorted(unknown)) if names else "none"
            raise ValueError(f"does not take {said}, use some of {', '.join(JWT_ALGORITHMS)}")
        return names

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, names: frozenset[str]) -> frozenset[str]:
        for name in sorted(names):
            try:
                ip_network(name, strict=False)
            except ValueError:
                raise ValueError("has to list addresses or networks, as 10.0.0.0/8") from None
        return names

    @field_validator("message_key")
    @classmethod
    def _some_key(cls, value: str) -> str:
        if not any(map(str.strip, value.split(","))):
            raise ValueError("names no key")
        return value

    def _contradictions(self) -> Iterator[tuple[set[str], str]]:
        """Yield which variables do not fit each other, and why."""
        otel, sentry = self._otel_rate(), self.sentry_traces_sample_rate
        if self.sentry_dsn and None not in (otel, sentry) and otel != sentry:
            yield (
                {"OTEL_TRACES_SAMPLER_ARG"},
                f"SENTRY_TRACES_SAMPLE_RATE={sentry} and OTEL_TRACES_SAMPLER="
                f"{self.otel_traces_sampler} (rate {otel}) contradict each other: set one of them",
            )
        if self.otel_traces_sampler_arg is not None and self.otel_traces_sampler is None:
            yield {"OTEL_TRACES_SAMPLER"}, "OTEL_TRACES_SAMPLER_ARG needs OTEL_TRACES_SAMPLER"
        needed = {
            "TRACEBATON_JWT_JWKS": self.jwt_jwks,
            "TRACEBATON_JWT_ISSUER": self.jwt_issuer,
            "TRACEBATON_JWT_AUDIENCE": self.jwt_audience,
        }
        if self.auth == "jwt":
            for name, value in needed.items():
                if value is None:
                    yield {name}, f"TRACEBATON_AUTH=jwt needs {name}"
        if self.auth == "api-key" and self.api_keys_file is None:
            yield set(), "TRACEBATON_AUTH=api-key needs TRACEBATON_API_KEYS_FILE"
        if self.retry_cap_seconds < self.retry_base_seconds:
            yield (
                {"TRACEBATON_RETRY_CAP_SECONDS", "TRACEBATON_RETRY_BASE_SECONDS"},
                "TRACEBATON_RETRY_CAP_SECONDS is below TRACEBATON_RETRY_BASE_SECONDS",
            )

    def _otel_rate(self) -> float | None:
        if self.otel_traces_sampler is None:
            return None
        fixed = SAMPLERS[self.otel_traces_sampler]
        if fixed is not None:
            return fixed
        return 1.0 if self.otel_traces_sampler_arg is None else self.otel_traces_sampler_arg

    @property
    def sample_rate(self) -> float:
        """Return the one rate of the head decision: Sentry's with a DSN, else OTel's, else 1."""
        if self.sentry_dsn and self.sentry_traces_sample_rate is not None:
            return self.sentry_traces_sample_rate
        rate = self._otel_rate()
        return 1.0 if rate is None else rate

    @property
    def queue_url(self) -> str | None:
        """Return the URL of the queue that tasks are sent to."""
        return self.queue_urls[0].queue if self.queue_urls else None

    @property
    def queue_name(self) -> str | None:
        """Return the name of the queue that tasks are sent to, where that was given."""
        return self.queue_names[0].queue if self.queue_names else None

    @property
    def write_rate(self) -> int | None:
        """Return the writes a user may make in a minute, None for any number."""
        if self.rate_per_minute is None:
            return None if self.auth == "none" else 600
        return self.rate_per_minute or None

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
        return _on_loopback(self.sqs_endpoint)

    @property
    def dynamodb_endpoint(self) -> str | None:
        """Return where DynamoDB is spoken to; None lets boto3 decide."""
        return self.aws_endpoint_url_dynamodb or self.aws_endpoint_url

    @property
    def dynamodb_on_loopback(self) -> bool:
        """Tell whether DynamoDB is an emulator on this machine."""
        return _on_loopback(self.dynamodb_endpoint)

    @property
    def has_aws_credentials(self) -> bool:
        """Tell whether the environment names credentials, so that none are invented."""
        return bool(self.aws_access_key_id or self.aws_profile)

    @property
    def store_url(self) -> str:
        """Return the task store's URL, by default a SQLite file in the data folder."""
        return self.store or f"sqlite:///{self.data / 'tasks.db'}"


def _unknown(names: Iterable[str]) -> dict[str, str | None]:
    """Return which of *names* look like ours and are not, each with the name that it is nearest."""
    known = [str(field.alias) for field in Settings.model_fields.values()]
    strange = {name for name in names if name.startswith(_OURS)} - set(known)
    return {name: next(iter(get_close_matches(name, known, 1, 0.8)), None) for name in strange}


def _on_loopback(url: str | None) -> bool:
    return bool(_LOOPBACK.fullmatch(urlsplit(url or "").hostname or ""))


#: Every variable that is read, by field name.
ENVIRONMENT: Mapping[str, str] = {
    name: str(field.alias) for name, field in Settings.model_fields.items()
}


def child_environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with *changes* for a child; None leaves a name as it is."""
    return dict(os.environ) | {name: value for name, value in changes.items() if value is not None}


def prefer_stable_http_conventions() -> None:
    """
    Choose the stable HTTP conventions unless the environment says otherwise.

    The instrumentation reads this variable once a process, at the first instrumented app, and still
    defaults to the old names (opentelemetry-specification, HTTP migration plan).
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


#: Whose variables the settings name, or the libraries read that they are for.
_PREFIXES = ("AWS_", "OTEL_", "SENTRY_", "TRACEBATON_")


def _forget_empty() -> None:
    """
    Take empty variables out of the environment.

    OpenTelemetry and botocore read many by themselves, and some do not take an empty one for an
    unset one: an empty ``AWS_PROFILE``, as compose files pass it on, is a profile of no name.
    """
    for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
        if not os.environ[name].strip():
            del os.environ[name]


def _lines(exc: ValidationError) -> list[str]:
    """Return each bad variable with what is wrong; never its value, which may be a secret."""
    return [
        f"{error['loc'][0]}: {error['msg'].removeprefix('Value error, ')}"
        for error in exc.errors(include_url=False, include_input=False)
    ]
