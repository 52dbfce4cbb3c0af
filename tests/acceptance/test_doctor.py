"""``doctor`` and ``viewer`` as whoever deploys runs them."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import running

from tracebaton.doctor import Finding

pytestmark = pytest.mark.acceptance

DEV = ("dev", "--port", "0", "--sqs-port", "0", "--viewer-port", "0")


def doctor(
    *arguments: str, cwd: Path, **env: str
) -> tuple[int, dict[str, Any], dict[str, Finding]]:
    """Run the doctor; return its exit code, its document, and its findings by check."""
    with running("doctor", "--json", *arguments, env=env, cwd=cwd) as command:
        code = command.wait()
    (line,) = command.lines
    document = json.loads(line)
    findings = [Finding(**one) for one in document["findings"]]
    return code, document, {finding.check: finding for finding in findings}


def test_beside_dev_everything_is_well(tmp_path: Path) -> None:
    """No setting is needed; the probe's trace is fetched back, and the probe is one task."""
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        ready = dev.ready()
        code, document, found = doctor(cwd=tmp_path)
        listed = httpx.get(f"{ready['api']}/v1/tasks").json()["tasks"]
        types = httpx.get(f"{ready['api']}/openapi.json").text
        stopped = dev.stop()
    after, _, gone = doctor("--no-probe", cwd=tmp_path)

    assert (code, document["ok"], stopped) == (0, True, 0)
    assert {check for check, one in found.items() if one.state != "ok"} == {"sentry", "otlp"}
    assert [found[check].state for check in ("probe", "request store", "trace")] == ["ok"] * 3
    assert [task["type"] for task in listed] == ["tracebaton.probe"]
    assert "tracebaton.probe" not in types
    assert {one["name"] for one in document["settings"]} >= {"TRACEBATON_QUEUE_URL", "SENTRY_DSN"}
    assert (after, gone["queue"].state) == (1, "failed")


def test_without_a_worker_the_probe_says_so(tmp_path: Path) -> None:
    """The task waits; whoever runs the doctor is told what is missing."""
    with running(*DEV, env={}, cwd=tmp_path) as dev:
        dev.ready()
        places = json.loads((tmp_path / ".tracebaton" / "dev.json").read_text())
        # An API with a queue that no worker reads: the quarantine queue has none.
        apart = places | {"TRACEBATON_QUEUE_URL": places["TRACEBATON_QUARANTINE_URL"]}
        apart = {name: value for name, value in apart.items() if value is not None}
        with running("api", "--port", "0", env=apart, cwd=tmp_path) as api:
            url = api.ready()["api"]
            code, _, found = doctor("--api", url, "--seconds", "1", cwd=tmp_path, **apart)
            api.stop()
        dev.stop()

    assert code == 1
    assert (found["probe"].state, "is still queued after 1 s" in found["probe"].said) == (
        "failed",
        True,
    )
    assert "tracebaton worker" in found["probe"].remedy


def test_a_wrong_setting_is_a_finding_and_exit_2(tmp_path: Path) -> None:
    """As JSON and for people; the variable is named, its value is not."""
    env = {"TRACEBATON_MAX_ATTEMPTS": "hunter2"}
    code, document, found = doctor(cwd=tmp_path, **env)
    with running("doctor", env=env, cwd=tmp_path) as shown:
        shown_code = shown.wait()
    with running("doctor", "--settings", env={}, cwd=tmp_path) as explained:
        explained_code = explained.wait()

    assert (code, document["ok"], shown_code, explained_code) == (2, False, 2, 0)
    assert "TRACEBATON_MAX_ATTEMPTS" in found["settings"].said
    assert "hunter2" not in json.dumps(document) + "\n".join(shown.lines)
    assert any(line.startswith("TRACEBATON_VISIBILITY_SECONDS (") for line in explained.lines)


def test_the_viewer_alone(tmp_path: Path) -> None:
    """It takes OTLP from anything, keeps it, and stops with 0."""
    span = {
        "traceId": "0af7651916cd43dd8448eb211c80319c",
        "spanId": "00f067aa0ba902b7",
        "name": "job",
        "kind": 1,
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
    }
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    with running("viewer", "--port", "0", env={}, cwd=tmp_path) as viewer:
        url = viewer.ready()["viewer"]
        taken = httpx.post(f"{url}/v1/traces", json=document)
        first = viewer.stop()
    with running("viewer", "--port", "0", env={}, cwd=tmp_path) as viewer:
        url = viewer.ready()["viewer"]
        kept = httpx.get(f"{url}/api/traces/{span['traceId']}")
        viewer.stop()

    assert (taken.status_code, first, kept.status_code) == (200, 0, 200)
