"""What is told of requests and tasks, to OpenTelemetry and to Sentry."""

from collections.abc import Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from tracebaton.settings.values import Contradiction, HttpUrl, Names, Rate, Rates

__all__ = ["ALL_INSTALLED", "INSTRUMENTATIONS", "SAMPLERS", "TelemetrySettings"]

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
#: In their place: as many of them as are installed.
ALL_INSTALLED = "all-installed"


class TelemetrySettings(BaseModel):
    """Sinks, sampling, and what is instrumented."""

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

    def _contradicting_rates(self) -> Iterator[Contradiction]:
        otel, sentry = self._otel_rate(), self.sentry_traces_sample_rate
        if self.sentry_dsn and None not in (otel, sentry) and otel != sentry:
            yield (
                {"OTEL_TRACES_SAMPLER_ARG"},
                f"SENTRY_TRACES_SAMPLE_RATE={sentry} and OTEL_TRACES_SAMPLER="
                f"{self.otel_traces_sampler} (rate {otel}) contradict each other: set one of them",
            )
        if self.otel_traces_sampler_arg is not None and self.otel_traces_sampler is None:
            yield {"OTEL_TRACES_SAMPLER"}, "OTEL_TRACES_SAMPLER_ARG needs OTEL_TRACES_SAMPLER"

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
