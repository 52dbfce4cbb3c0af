"""docker-compose.yml: what it promises is read from it, and then run as plain processes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
import yaml
from collector import Collector, collector_binary, running_collector, settings_environment
from command import Command, create_key, ended, running
from elasticmq import has_elasticmq, running_elasticmq
from jaeger import Jaeger
from sentry_receiver import SentryReceiver

from backends import missing
from tracebaton import redaction
from tracebaton.settings import ENVIRONMENT, Settings

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text()

#: Of compose's interpolation, what the file uses: ${NAME} and ${NAME:-default}.
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def compose(**variables: str) -> dict[str, Any]:
    """Return the file as compose reads it with *variables* in its environment."""
    text = _VARIABLE.sub(lambda found: variables.get(found[1]) or found[2] or "", TEXT)
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = ("api", "worker")


def environment(service: str) -> dict[str, str]:
    """Return the environment of *service*."""
    return {name: str(value) for name, value in SERVICES[service]["environment"].items()}


def test_every_image_is_pinned_to_a_version() -> None:
    """What is not built here has three numbers as its tag."""
    images = {service["image"] for name, service in SERVICES.items() if name not in OURS}

    assert len(images) == 3
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+$", image)] == []


def test_ports_are_published_on_loopback_only() -> None:
    """Nothing is reachable from another machine, whatever it binds in its container."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]

    assert len(ports) >= 5
    assert [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)] == []


def test_every_service_has_a_health_check_or_a_health_port() -> None:
    """The Collector's image has no program that could ask; its port is published instead."""
    unchecked = [name for name, service in SERVICES.items() if "healthcheck" not in service]

    assert unchecked == ["otel-collector"]
    assert "127.0.0.1:13133:13133" in SERVICES["otel-collector"]["ports"]


def test_there_is_no_secret_in_it() -> None:
    """Secrets come from outside; the credentials of a broker that compares none are no secret."""
    services = yaml.safe_load(TEXT)["services"].values()
    given = {n: str(v) for service in services for n, v in service.get("environment", {}).items()}
    named = {name for name in given if redaction.is_sensitive(name)}
    outside = named - {"AWS_SECRET_ACCESS_KEY"} | {"SENTRY_DSN", "SENTRY_PUBLIC_KEY"}

    assert {given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"]} == {"local"}
    assert {name: given[name] for name in outside} == {n: f"${{{n}:-}}" for n in outside}
    assert [value for value in given.values() if redaction.redact_text(value) != value] == []


def test_every_variable_is_one_that_is_read() -> None:
    """A name that nobody reads is a setting that does nothing."""
    example = (ROOT / ".env.example").read_text()
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    given = set(environment("api"))

    assert {name for name in given if name.startswith("TRACEBATON_")} < set(ENVIRONMENT.values())
    assert given - documented == set()


def test_api_and_worker_are_one_image_with_two_commands() -> None:
    """They differ in command, port and nothing else: same image, settings and volume."""
    api, worker = (dict(SERVICES[name]) for name in OURS)
    commands = [service.pop("command")[0] for service in (api, worker)]
    api.pop("ports")

    assert commands == ["api", "worker"]
    assert api == worker


def test_tasks_and_keys_are_in_the_shared_volume() -> None:
    """Both processes see one store, and no key lies in the checkout."""
    settings = Settings.load(environment("api"))
    named = [mount.split(":") for mount in SERVICES["api"]["volumes"]]

    assert (settings.auth, settings.store_url) == ("api-key", "sqlite:////data/tasks.db")
    assert settings.api_keys_file == Path("/data/keys.json")
    assert named == [["data", "/data"]]
    assert "data" in compose()["volumes"]


def test_the_stop_leaves_time_to_drain() -> None:
    """Compose kills after the grace period: drain and the 5 s after it have to fit."""
    for name in OURS:
        grace = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))

        assert grace >= Settings.load(environment(name)).drain_seconds + 5


def test_queues_and_attempts_agree_with_the_broker() -> None:
    """The broker makes the queues that the URLs name, and counts as the worker does."""
    broker = (ROOT / "deploy" / "elasticmq.conf").read_text()
    queues = broker[broker.index("queues {") :]
    settings = Settings.load(environment("worker"))
    urls = [settings.queue_url, settings.dlq_url, settings.quarantine_url]

    assert [str(url).rsplit("/", 1)[-1] for url in urls] == re.findall(
        r"^  ([\w-]+) \{", queues, re.MULTILINE
    )
    assert re.findall(r'name = "(.*)"', queues) == [str(settings.dlq_url).rsplit("/", 1)[-1]]
    assert re.findall(r"maxReceiveCount = (\d+)", queues) == [str(settings.max_attempts)]


def test_every_file_it_mounts_is_there() -> None:
    """Docker would make an empty folder of a file that is missing."""
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", ())]
    files = [ROOT / mount.split(":")[0] for mount in mounts if mount.startswith("./")]

    assert len(files) == 4
    assert [file for file in files if not file.is_file()] == []
    assert [m for m in mounts if m.startswith("./") and not m.endswith(":ro")] == []


def test_compose_itself_takes_it() -> None:
    """The real client reads it without an engine, where there is one that has compose."""
    client = next((c for c in (["docker", "compose"], ["docker-compose"]) if answers(c)), None)
    if client is None:
        pytest.skip("no docker client with compose; the file is run below either way")
    run = subprocess.run(
        [*client, "config", "--quiet"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert (run.returncode, run.stderr) == (0, "")


def answers(client: list[str]) -> bool:
    """Tell whether *client* is a compose."""
    if shutil.which(client[0]) is None:
        return False
    return subprocess.run([*client, "version"], capture_output=True, timeout=30).returncode == 0


@dataclass
class Stack:
    """What the compose file starts, as processes on loopback."""

    broker: str
    collector: Collector
    folder: Path

    def __call__(self, text: str) -> str:
        """Return *text* of the file with the addresses and the volume of this machine."""
        for there, here in {
            "http://sqs:9324": self.broker,
            "http://otel-collector:4318": self.collector.otlp,
            "/data/": f"{self.folder}/",
            "0.0.0.0": "127.0.0.1",
        }.items():
            text = text.replace(there, here)
        return text

    def env(self, service: str) -> dict[str, str]:
        """Return its environment."""
        env = {name: self(value) for name, value in environment(service).items()}
        assert not [value for value in env.values() if re.search(r"//(sqs|otel|jaeger)", value)]
        return env

    def command(self, service: str) -> list[str]:
        """Return its command, on a free port."""
        *command, port = map(self, SERVICES[service]["command"])
        assert (command[-1], port) == ("--port", "8000")
        return [*command, "0"]


@pytest.fixture
def stack(tmp_path: Path, jaeger: Jaeger, sentry: SentryReceiver) -> Iterator[Stack]:
    """Run ElasticMQ and the Collector, with its Sentry overlay, as the compose file says."""
    if not has_elasticmq():
        missing("ElasticMQ needs java and its jars: run scripts/elasticmq")
    if collector_binary() is None:
        missing("no Collector: run scripts/collector (needs Go 1.25)")
    service = compose(
        OTELCOL_OVERLAY="otel-collector.sentry.yaml",
        SENTRY_OTLP_TRACES_URL=f"http://127.0.0.1:{sentry.port}/api/1/integration/otlp/v1/traces/",
        SENTRY_PUBLIC_KEY="public",
    )["services"]["otel-collector"]
    files = mounted("otel-collector")
    configs = [files[argument.removeprefix("--config=")] for argument in service["command"]]
    env = service["environment"] | {"OTELCOL_LISTEN": "127.0.0.1"}
    env["JAEGER_OTLP"] = env["JAEGER_OTLP"].replace("http://jaeger:4318", jaeger.otlp)
    [configuration] = mounted("sqs").values()
    with (
        running_elasticmq(tmp_path, configuration) as broker,
        running_collector(tmp_path, configs, settings_environment(**env)) as collector,
    ):
        yield Stack(broker, collector, tmp_path)


def mounted(service: str) -> Mapping[str, Path]:
    """Return the files of this checkout by their path in the container."""
    pairs = [mount.split(":") for mount in SERVICES[service]["volumes"]]
    return {there: ROOT / here for here, there, _ in pairs}


@pytest.mark.acceptance
@pytest.mark.backends
def test_the_same_settings_run_as_processes(
    stack: Stack, jaeger: Jaeger, sentry: SentryReceiver
) -> None:
    """A request is one trace in both backends, health checks succeed, and SIGTERM ends with 0."""
    env = {name: stack.env(name) for name in OURS}
    key = create_key(env["api"], "alice", cwd=stack.folder)
    with (
        running(*stack.command("api"), env=env["api"], cwd=stack.folder) as api,
        running(*stack.command("worker"), env=env["worker"], cwd=stack.folder) as worker,
    ):
        health = {"api": api.ready()["api"], "worker": worker.ready()["health"]}
        checks = [check(name, url) for name, url in health.items()]
        refused = httpx.get(f"{health['api']}/v1/tasks")
        with httpx.Client(
            base_url=health["api"], headers={"Authorization": f"Bearer {key}"}, timeout=10
        ) as http:
            answer = http.post("/v1/ai/chat", json={"message": "What is one trace?"})
            task = ended(http, answer.json()["task_id"])
        codes = stopped(api, worker)
        loud = [line for line in api.events + worker.events if line.get("level", "info") != "info"]
        spans = jaeger.trace(answer.json()["trace_id"], until=lambda found: len(found) == 4)
        sentry.wait_for(lambda sink: len(ids_in(sink, answer.json()["trace_id"])) == 4)

    ids = {span["spanId"]: span["name"] for span in spans}
    assert [(s["service"], s["name"], ids.get(s.get("parentSpanId", ""))) for s in spans] == [
        ("tracebaton-api", "POST /v1/ai/chat", None),
        ("tracebaton-api", "send tasks", "POST /v1/ai/chat"),
        ("tracebaton-worker", "process tasks", "send tasks"),
        ("tracebaton-worker", "chat local", "process tasks"),
    ]
    assert ids_in(sentry, answer.json()["trace_id"]) == set(ids)
    assert (task["status"], task["trace_id"]) == ("succeeded", answer.json()["trace_id"])
    assert checks == [0, 0]
    assert [(line["event"], line["status"]) for line in loud] == [("http.error", 401)]
    assert refused.status_code == 401
    assert codes == (0, 0)
    assert (stack.folder / "tasks.db").is_file()


def ids_in(sentry: SentryReceiver, trace_id: str) -> set[str]:
    """Return the ids of a trace's spans that came to Sentry's OTLP endpoint."""
    return {
        span.span_id.hex()
        for resource in sentry.resource_spans()
        for scope in resource.scope_spans
        for span in scope.spans
        if span.trace_id.hex() == trace_id
    }


def check(service: str, url: str) -> int:
    """Run the health check of *service* and return its exit code."""
    kind, program, *arguments = SERVICES[service]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    there = re.escape("http://127.0.0.1:8000/")
    return subprocess.run(
        [sys.executable, *(re.sub(there, f"{url.rstrip('/')}/", each) for each in arguments)],
        timeout=30,
    ).returncode


def stopped(*commands: Command) -> tuple[int, ...]:
    """Stop them as compose does and return their exit codes."""
    return tuple(command.stop() for command in commands)


@pytest.mark.backends
def test_the_broker_makes_the_queues_it_is_told_to(stack: Stack) -> None:
    """ElasticMQ reads its file as it is meant: three queues, and the attempts of the settings."""
    settings = Settings.load(stack.env("worker"))
    client = boto3.client(
        "sqs",
        endpoint_url=stack.broker,
        region_name=settings.region,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    try:
        urls = client.list_queues()["QueueUrls"]
        answer = client.get_queue_attributes(
            QueueUrl=str(settings.queue_url), AttributeNames=["RedrivePolicy", "VisibilityTimeout"]
        )
    finally:
        client.close()

    assert set(urls) == {settings.queue_url, settings.dlq_url, settings.quarantine_url}
    assert answer["Attributes"]["VisibilityTimeout"] == str(settings.visibility_seconds)
    policy = answer["Attributes"]["RedrivePolicy"]
    assert re.search(rf'"maxReceiveCount":"?{settings.max_attempts}\b', policy)
    assert ":tasks-dlq" in policy
