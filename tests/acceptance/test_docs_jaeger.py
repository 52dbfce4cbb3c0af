"""Every block of docs/jaeger.md does what it says."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from collector import collector_binary, settings_environment, validate
from command import clean_environment, ended, running
from jaeger import Jaeger

from backends import missing
from tracebaton import semconv
from tracebaton.logs import log_fields
from tracebaton.settings import ENVIRONMENT

pytestmark = [pytest.mark.acceptance, pytest.mark.backends]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "jaeger.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
STRAIGHT, ASK, COLLECTOR, COMPOSE, PROMETHEUS, SCRAPE, LOST, PYTHON = (t for _, t in BLOCKS)


def exported(block: str) -> dict[str, str]:
    return dict(re.findall(r"^export (\w+)=(\S+)$", block, re.MULTILINE))


def test_straight_to_jaeger(jaeger: Jaeger, tmp_path: Path) -> None:
    """The variables and the command as they stand, at another port; then the request that asks."""
    variables = exported(STRAIGHT)
    assert variables.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == "http://127.0.0.1:4318"
    tracebaton, *command = STRAIGHT.strip().splitlines()[-1].split()
    ports = ("--port", "0", "--sqs-port", "0", "--viewer-port", "0")
    env = variables | {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp}
    with running(*command, *ports, env=env, cwd=tmp_path) as dev:
        with httpx.Client(base_url=dev.ready()["api"]) as http:
            sent = http.post("/v1/ai/chat", json={"message": "hello"}).json()
            ended(http, sent["task_id"])
        trace_id = sent["trace_id"]
        spans = jaeger.trace(trace_id, until=lambda found: len(found) >= 3)
        assert dev.stop() == 0
        lost = [line for line in dev.events if str(line["event"]).endswith("_lost")]
    asked = ASK.replace("http://127.0.0.1:16686", jaeger.query).replace("$TRACE_ID", trace_id)
    answer = subprocess.run(shlex.split(asked), capture_output=True, text=True, check=True)

    assert tracebaton == "tracebaton"
    told = re.search(r"one trace: `(.*?)`, below it `(.*?)`, below that `(.*?)`", PAGE)
    assert told is not None
    assert [span["name"] for span in spans][:3] == list(told.groups())
    assert "process tasks" in answer.stdout
    assert lost == []


def test_the_collectors_command() -> None:
    """It takes the file, and each of the overlays on top of it; the variables are read there."""
    if collector_binary() is None:
        missing("no Collector: run scripts/collector (needs Go 1.25)")
    words = shlex.split(COLLECTOR)
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z]", word))
    files = [ROOT / word.removeprefix("--config=") for word in words if word.startswith("--")]
    overlays = re.findall(r"\| `(otel-collector\.\w+\.yaml)` \|", PAGE)
    sentry = {"SENTRY_OTLP_TRACES_URL": "http://127.0.0.1:1/", "SENTRY_PUBLIC_KEY": "k"}
    text = (ROOT / "otel-collector.yaml").read_text()

    assert set(variables) == {name for name in variables if f"env:{name}" in text}
    assert {path.name for path in ROOT.glob("otel-collector.*.yaml")} == set(overlays)
    for overlay in overlays:
        env = settings_environment(**variables, **sentry)
        assert validate([*files, ROOT / overlay], env) == ""


def test_the_commands_of_compose_are_those_of_its_file() -> None:
    """In the same order: the key first, because the API does not start without one."""
    header = (ROOT / "docker-compose.yml").read_text().split("x-tracebaton:")[0]

    assert re.findall(r"^#   (docker .*)$", header, re.MULTILINE) == COMPOSE.splitlines()


def test_what_prometheus_is_told() -> None:
    """Its configuration names the ports of the compose file, and a key."""
    [job] = yaml.safe_load(SCRAPE)["scrape_configs"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ports = {f"{name}:{services[name]['command'][-1]}" for name in ("api", "worker")}

    assert exported(PROMETHEUS) == {"OTEL_METRICS_EXPORTER": "prometheus"}
    assert set(job["static_configs"][0]["targets"]) == ports
    assert "metrics_path" not in job  # /metrics is the default
    assert job["authorization"]


def test_the_metrics_have_the_names_of_the_table() -> None:
    """Those of the conventions are all in it, and it names none that there is not."""
    ours = {value for name, value in vars(semconv).items() if name.startswith("METRIC_")}
    rows = PAGE.split("## Metrics")[1].split("Durations carry")[0]
    named = {name for name in re.findall(r"`([a-z_.]+)`", rows) if "." in name} - {"error.type"}
    http = {"http.server.request.duration", "http.server.active_requests"}

    assert {name for name in ours if not name.startswith("tracebaton.")} <= named
    assert named <= ours | http


def test_the_line_about_losses_has_these_fields() -> None:
    """As the schema writes it."""
    shown: dict[str, Any] = json.loads(LOST)
    record = logging.makeLogRecord({"msg": shown["event"], "fields": shown})

    assert log_fields(record, service="x").items() >= shown.items()


def test_the_program_with_a_set_up_of_its_own_runs() -> None:
    """One provider, and our propagator where it was asked for."""
    checks = (
        "\nassert telemetry.tracer_provider is trace.get_tracer_provider()"
        "\nassert propagate.get_global_textmap() is telemetry.propagator"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", PYTHON + checks],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (run.returncode, run.stderr) == (0, "")


def test_every_variable_of_the_page_is_read() -> None:
    """By us, by the SDK or by the Collector's files."""
    configs = "".join(path.read_text() for path in ROOT.glob("otel-collector*.yaml"))
    named = set(re.findall(r"\b((?:TRACEBATON|OTEL|OTELCOL|SENTRY)_[A-Z_]+)\b", PAGE))

    assert {
        n for n in named if n not in ENVIRONMENT.values() and f"env:{n}" not in configs
    } == set()
