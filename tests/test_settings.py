"""What the environment may say, and what stops the start."""

import os
import re
from pathlib import Path

import pytest
from botocore.session import Session
from opentelemetry.sdk.metrics import MeterProvider
from pydantic import ValidationError

from tracebaton.errors import ConfigurationError
from tracebaton.settings import (
    ENVIRONMENT,
    INSTRUMENTATIONS,
    Settings,
    child_environment,
    prefer_stable_http_conventions,
)

EXAMPLE = Path(__file__).parents[1] / ".env.example"
#: Named in the example for people; boto3 and the OpenTelemetry SDK read them.
OTHERS = {
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_METRIC_EXPORT_INTERVAL",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_SEMCONV_STABILITY_OPT_IN",
}


def example() -> dict[str, str]:
    """Return the variables of ``.env.example`` with the default it states."""
    return dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE.read_text(), re.MULTILINE))


def refused(environ: dict[str, str]) -> str:
    """Return the line that stops the start."""
    with pytest.raises(ConfigurationError) as caught:
        Settings.load(environ)
    return caught.value.detail


def test_the_defaults_of_the_contract() -> None:
    """An empty environment gives what SPEC 9 promises."""
    settings = Settings.load({})

    assert settings.model_dump(
        include={"auth", "visibility_seconds", "max_attempts", "drain_seconds", "sentry_mode"}
        | {"retry_base_seconds", "retry_cap_seconds", "retention_hours", "trust_baggage"}
    ) == {
        "auth": "none",
        "visibility_seconds": 60,
        "max_attempts": 5,
        "drain_seconds": 20.0,
        "sentry_mode": "span-processor",
        "retry_base_seconds": 1.0,
        "retry_cap_seconds": 300.0,
        "retention_hours": 168.0,
        "trust_baggage": frozenset(),
    }
    assert settings.store_url == "sqlite:///.tracebaton/tasks.db"


def test_settings_are_frozen() -> None:
    """Nothing changes them once the app has started."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load({}).concurrency = 3  # type: ignore[misc]  # the point of the test


def test_the_process_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set after the import counts."""
    monkeypatch.setenv("TRACEBATON_CONCURRENCY", "3")

    assert Settings.load().concurrency == 3


@pytest.mark.parametrize("name", sorted(ENVIRONMENT.values()))
@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_is_unset(name: str, empty: str) -> None:
    """An empty variable is as good as none, whatever its type."""

    assert Settings.load({name: empty}) == Settings.load({})


@pytest.mark.parametrize(
    "name",
    ["AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_DEFAULTS_MODE", "AWS_REQUEST_CHECKSUM_CALCULATION"],
)
def test_empty_is_unset_for_boto3_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads the environment by itself, and stumbles over a profile of no name."""
    monkeypatch.setenv(name, " ")
    Settings.load()

    assert Session().create_client("sqs", region_name="us-east-1").meta.region_name == "us-east-1"


def test_empty_is_unset_for_opentelemetry_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its SDK knows no exemplar filter of no name."""
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "")
    monkeypatch.setenv("OTHER_VARIABLE", "")
    Settings.load()
    MeterProvider(shutdown_on_exit=False).shutdown()

    assert "OTEL_METRICS_EXEMPLAR_FILTER" not in os.environ
    assert os.environ["OTHER_VARIABLE"] == ""


def test_space_around_a_value_is_not_part_of_it() -> None:
    """A trailing blank of an env file changes nothing."""

    assert Settings.load({"TRACEBATON_AUTH": " none "}).auth == "none"


def test_one_line_names_every_bad_variable() -> None:
    """Wrong values and contradictions come together, sorted out in one go."""
    line = refused(
        {
            "TRACEBATON_CONCURRENCY": "many",
            "TRACEBATON_QUEUE_URL": "sqs.local",
            "TRACEBATON_AUTH": "api-key",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
            "TRACEBATON_RETRY_BASE_SECONDS": "10",
            "TRACEBATON_RETRY_CAP_SECONDS": "5",
        }
    )

    assert line == (
        "TRACEBATON_QUEUE_URL: has to be an http(s) URL; "
        "TRACEBATON_CONCURRENCY: Input should be a valid integer, unable to parse string as an"
        " integer; "
        "OTEL_TRACES_SAMPLER_ARG needs OTEL_TRACES_SAMPLER; "
        "TRACEBATON_AUTH=api-key needs TRACEBATON_API_KEYS_FILE; "
        "TRACEBATON_RETRY_CAP_SECONDS is below TRACEBATON_RETRY_BASE_SECONDS"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "sometimes"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:99999"),
        ("OTEL_SDK_DISABLED", "perhaps"),
        ("SENTRY_TRACES_SAMPLE_RATE", "1.5"),
        ("SENTRY_TRACES_SAMPLE_RATE", "nan"),
        ("TRACEBATON_SAMPLE_RATES", "/v1/feed"),
        ("TRACEBATON_SAMPLE_RATES", "/v1/feed=,ai.chat=1"),
        ("TRACEBATON_SAMPLE_RATES", "/v1/feed=2"),
        ("TRACEBATON_SAMPLE_RATES", "/v1/feed=often"),
        ("SENTRY_DSN", "https://sentry.io/1"),
        ("SENTRY_DSN", "https://key@sentry.io/project"),
        ("SENTRY_DSN", "https://key@sentry.io:port/1"),
        ("TRACEBATON_SENTRY_MODE", "both"),
        ("TRACEBATON_AUTH", "basic"),
        ("TRACEBATON_STORE", "postgres://db"),
        ("TRACEBATON_CONCURRENCY", "0"),
        ("TRACEBATON_DRAIN_SECONDS", "inf"),
        ("TRACEBATON_RETENTION_HOURS", "inf"),
        ("TRACEBATON_LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_is_named_and_not_repeated(name: str, value: str) -> None:
    """The line has the variable and the remedy, on one line, without what may be a secret."""
    line = refused({name: value})

    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert value not in line.removeprefix(name)


def test_a_bad_variable_is_not_a_contradiction_too() -> None:
    """What cannot be compared is not compared."""
    line = refused({"TRACEBATON_RETRY_BASE_SECONDS": "fast", "TRACEBATON_RETRY_CAP_SECONDS": "0.5"})

    assert [part.split(":")[0] for part in line.split("; ")] == ["TRACEBATON_RETRY_BASE_SECONDS"]


DSN = "https://key@sentry.io/1"


@pytest.mark.parametrize(
    ("environ", "rate"),
    [
        ({}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, 0.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": ".2"}, 0.2),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, 1.0),
        ({"SENTRY_TRACES_SAMPLE_RATE": "0.3"}, 1.0),
        ({"SENTRY_TRACES_SAMPLE_RATE": "0.3", "OTEL_TRACES_SAMPLER": "always_off"}, 0.0),
        ({"SENTRY_TRACES_SAMPLE_RATE": "0.3", "SENTRY_DSN": DSN}, 0.3),
        ({"SENTRY_DSN": DSN, "OTEL_TRACES_SAMPLER": "always_off"}, 0.0),
    ],
)
def test_one_rate_decides(environ: dict[str, str], rate: float) -> None:
    """Sentry's with a DSN, else OpenTelemetry's, else every trace."""

    assert Settings.load(environ).sample_rate == rate


def test_rates_of_their_own_are_pairs() -> None:
    """Spaces do not matter, the last of two counts, an empty entry is none."""
    text = " /v1/feed=0.01 ,POST  /v1/jobs = 0.5, ai.chat=0,, ai.chat=1"

    assert Settings.load({"TRACEBATON_SAMPLE_RATES": text}).sample_rates == {
        "/v1/feed": 0.01,
        "POST /v1/jobs": 0.5,
        "ai.chat": 1.0,
    }


def test_two_rates_that_differ_stop_the_start() -> None:
    """Neither silently wins."""
    line = refused(
        {
            "SENTRY_DSN": DSN,
            "SENTRY_TRACES_SAMPLE_RATE": "0.3",
            "OTEL_TRACES_SAMPLER": "always_on",
        }
    )

    assert line == (
        "SENTRY_TRACES_SAMPLE_RATE=0.3 and OTEL_TRACES_SAMPLER=always_on (rate 1.0) contradict"
        " each other: set one of them"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://x:1/0/a", [("http://x:1/0/a", 1)]),
        ("http://x:1/0/a*3", [("http://x:1/0/a", 3)]),
        ("http://x:1/0/a*3 , http://x:1/0/b,", [("http://x:1/0/a", 3), ("http://x:1/0/b", 1)]),
    ],
)
def test_a_worker_may_have_several_queues(value: str, expected: list[tuple[str, int]]) -> None:
    """Each with a weight; tasks are sent to the first one."""
    settings = Settings.load({"TRACEBATON_QUEUE_URL": value})
    names = Settings.load({"TRACEBATON_QUEUE_NAME": value.replace("http://x:1/0/", "")})

    assert [(one.queue, one.weight) for one in settings.queue_urls] == expected
    assert (settings.queue_url, settings.sqs_endpoint) == ("http://x:1/0/a", "http://x:1")
    assert names.queue_name == "a"
    assert [one.weight for one in names.queue_names] == [weight for _, weight in expected]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("http://x/a*0", "a weight that is not a number"),
        ("http://x/a*three", "a weight that is not a number"),
        ("http://x/a,http://x/a*2", "one twice"),
        (",", "no queue"),
        ("http://x/a,b", "has to be an http(s) URL"),
        ("http://x/a,http://y/b", "different endpoints"),
    ],
)
def test_a_wrong_list_of_queues_is_refused(value: str, said: str) -> None:
    """By one line, like any other variable."""
    assert said in refused({"TRACEBATON_QUEUE_URL": value})


@pytest.mark.parametrize(
    ("environ", "endpoint", "region", "loopback"),
    [
        ({}, None, None, False),
        (
            {"TRACEBATON_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q"},
            None,
            "eu-west-1",
            False,
        ),
        (
            {"TRACEBATON_QUEUE_URL": "https://eu-west-1.queue.amazonaws.com/1/q"},
            None,
            "eu-west-1",
            False,
        ),
        (
            {
                "TRACEBATON_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/q",
                "AWS_DEFAULT_REGION": "us-west-2",
            },
            None,
            "us-west-2",
            False,
        ),
        (
            {"TRACEBATON_QUEUE_URL": "http://127.0.0.1:9324/0/q"},
            "http://127.0.0.1:9324",
            "us-east-1",
            True,
        ),
        (
            {"AWS_ENDPOINT_URL_SQS": "http://[::1]:1", "AWS_ENDPOINT_URL": "http://other:1"},
            "http://[::1]:1",
            "us-east-1",
            True,
        ),
        ({"AWS_ENDPOINT_URL": "http://elasticmq:9324"}, "http://elasticmq:9324", None, False),
    ],
)
def test_where_sqs_is(
    environ: dict[str, str], endpoint: str | None, region: str | None, *, loopback: bool
) -> None:
    """Endpoint and region come from the standard names, else from the queue's URL."""
    settings = Settings.load(environ)

    assert (settings.sqs_endpoint, settings.region, settings.sqs_on_loopback) == (
        endpoint,
        region,
        loopback,
    )


@pytest.mark.parametrize(
    ("store", "url"),
    [("none", "none"), ("sqlite:////srv/tasks.db", "sqlite:////srv/tasks.db")],
)
def test_a_chosen_store_is_taken(store: str, url: str) -> None:
    """A file anywhere, or no store at all."""

    assert Settings.load({"TRACEBATON_STORE": store, "TRACEBATON_DATA": "/else"}).store_url == url


def test_lists_are_separated_by_commas() -> None:
    """Blank entries do not count."""
    settings = Settings.load({"TRACEBATON_TRUST_BAGGAGE": "tenant, ,plan,"})

    assert settings.trust_baggage == {"tenant", "plan"}


def test_libraries_to_instrument_are_known_ones() -> None:
    """A name that is none is told with those that are."""
    line = refused({"TRACEBATON_INSTRUMENT": f"{min(INSTRUMENTATIONS)}, tractor"})

    assert line.startswith("TRACEBATON_INSTRUMENT: does not know tractor, use some of ")
    assert Settings.load({"TRACEBATON_INSTRUMENT": ",".join(INSTRUMENTATIONS)}).instrument == {
        *INSTRUMENTATIONS
    }


def test_several_message_keys_let_one_be_replaced() -> None:
    """The first signs, all verify; a list of blanks is no key at all."""

    assert Settings.load({}).message_keys == ()
    assert Settings.load({"TRACEBATON_MESSAGE_KEY": "new, old,"}).message_keys == ("new", "old")
    assert refused({"TRACEBATON_MESSAGE_KEY": " , ,"}) == "TRACEBATON_MESSAGE_KEY: names no key"


def test_credentials_of_the_environment_are_seen() -> None:
    """A key or a profile, so that none are invented."""

    assert not Settings.load({}).has_aws_credentials
    assert Settings.load({"AWS_PROFILE": "dev"}).has_aws_credentials
    assert Settings.load({"AWS_ACCESS_KEY_ID": "AKIA"}).has_aws_credentials


def test_secrets_are_not_in_the_repr() -> None:
    """Settings may be logged."""
    environ = {
        "TRACEBATON_MESSAGE_KEY": "canary-1",
        "TRACEBATON_CHAT_API_KEY": "canary-2",
        "AWS_ACCESS_KEY_ID": "canary-3",
        "SENTRY_DSN": "https://canary-4@sentry.io/1",
    }

    assert "canary" not in repr(Settings.load(environ))


def test_a_name_that_is_nearly_ours_is_known_as_such() -> None:
    """With the nearest name; others' variables, empty ones and the right ones are none."""
    settings = Settings.load(
        {
            "TRACEBATON_CONCURENCY": "5",
            "TRACEBATON_WHATEVER_ELSE": "1",
            "TRACEBATON_DRAIN_SECOND": " ",
            "TRACEBATON_DLQ_SECONDS": "5",
            "CONCURENCY": "5",
        }
    )

    assert settings.unknown == {
        "TRACEBATON_CONCURENCY": "TRACEBATON_CONCURRENCY",
        "TRACEBATON_WHATEVER_ELSE": None,
    }
    assert Settings.load({}).unknown == {}


def test_the_example_lists_every_variable() -> None:
    """A variable in one place only is a bug in the other."""

    assert set(example()) == set(ENVIRONMENT.values()) | OTHERS


def test_the_example_states_the_defaults() -> None:
    """Uncommenting every line changes nothing."""

    assert Settings.load(example()) == Settings.load({})


def test_the_example_sets_nothing() -> None:
    """Every variable is commented out and explained above it or above its group."""
    lines = EXAMPLE.read_text().splitlines()

    assert [line for line in lines if line and not line.startswith("#")] == []


def test_a_child_gets_the_environment_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """None leaves a variable as it is."""
    monkeypatch.setenv("TRACEBATON_CONCURRENCY", "3")
    monkeypatch.setenv("TRACEBATON_DATA", "/one")
    child = child_environment({"TRACEBATON_CONCURRENCY": None, "TRACEBATON_DATA": "/two"})

    assert (child["TRACEBATON_CONCURRENCY"], child["TRACEBATON_DATA"]) == ("3", "/two")


def test_a_chosen_http_convention_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stable names are a default only."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
    prefer_stable_http_conventions()

    assert child_environment({})["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http/dup"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "console"),
        ("OTEL_LOGS_EXPORTER", "jaeger"),
        ("OTEL_METRICS_EXPORTER", "statsd"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ],
)
def test_an_exporter_that_is_not_there_stops_the_start(name: str, value: str) -> None:
    """Better than a service that is silently not seen."""
    assert refused({name: value}).startswith(f"{name}: ")
