"""
Everything that can be configured, in one frozen value, and where it comes from.

The only module that reads or changes the environment.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from tracebaton.errors import ConfigurationError
from tracebaton.settings.http import HttpSettings
from tracebaton.settings.queues import QueueSettings
from tracebaton.settings.telemetry import TelemetrySettings
from tracebaton.settings.values import Contradiction, HttpUrl

__all__ = ["ENVIRONMENT", "Settings", "child_environment", "prefer_stable_http_conventions"]

#: What the names of our own variables begin with.
_OURS = "TRACEBATON_"
#: Whose variables the settings name, or the libraries read that they are for.
_PREFIXES = ("AWS_", "OTEL_", "SENTRY_", "TRACEBATON_")
#: A table's name as DynamoDB has it (API reference, CreateTable).
_TABLE = re.compile(r"dynamodb://[A-Za-z0-9_.-]{3,255}")


# pydantic takes the fields of the last base first: bad variables are named in that order.
class Settings(HttpSettings, QueueSettings, TelemetrySettings):
    """
    Everything that can be configured, frozen.

    Attributes are named like their variables without the ``TRACEBATON_`` prefix; each variable, its
    default and its meaning stand in ``.env.example``.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="ignore", allow_inf_nan=False
    )

    _unknown: Mapping[str, str | None] = PrivateAttr(default_factory=dict)

    store: str | None = Field(None, alias="TRACEBATON_STORE")
    retention_hours: float = Field(168.0, alias="TRACEBATON_RETENTION_HOURS", gt=0)
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

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value == "none" or value.startswith("sqlite:///") or _TABLE.fullmatch(value):
            return value
        raise ValueError("has to be sqlite:///PATH, dynamodb://TABLE or none")

    def _contradictions(self) -> Iterator[Contradiction]:
        """Yield which variables do not fit each other, and why."""
        return chain(
            self._contradicting_rates(), self._contradicting_auth(), self._contradicting_retries()
        )

    @property
    def store_url(self) -> str:
        """Return the task store's URL, by default a SQLite file in the data folder."""
        return self.store or f"sqlite:///{self.data / 'tasks.db'}"


def _unknown(names: Iterable[str]) -> dict[str, str | None]:
    """Return which of *names* look like ours and are not, each with the name that it is nearest."""
    known = [str(field.alias) for field in Settings.model_fields.values()]
    strange = {name for name in names if name.startswith(_OURS)} - set(known)
    return {name: next(iter(get_close_matches(name, known, 1, 0.8)), None) for name in strange}


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
