"""deploy/: what is deployed is what the code needs, no less and no more."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import tracebaton
from tracebaton.cli import command
from tracebaton.settings import ENVIRONMENT, Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
SOURCE = Path(tracebaton.__file__).parent
#: Seconds of the drain and of what follows it (SPEC 4).
STOP = 20 + 5
#: Bodies of IAM actions that carry the batch calls too.
BATCHES = {"SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"}


def document(name: str) -> Any:
    """Return a JSON document of deploy/."""
    return json.loads((DEPLOY / name).read_text())


def manifests(name: str) -> dict[str, Any]:
    """Return the documents of a YAML file by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / name).read_text())}


def granted(policy: Any, service: str) -> dict[str, set[str]]:
    """Return which actions of a service a policy allows, by resource."""
    found: dict[str, set[str]] = {}
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        resources = statement["Resource"]
        for resource in [resources] if isinstance(resources, str) else resources:
            if f":{service}:" in resource:
                actions = {one.removeprefix(f"{service}:") for one in statement["Action"]}
                found.setdefault(resource.rsplit(":", 1)[-1], set()).update(actions)
    return found


def called(source: Path, pattern: str) -> set[str]:
    """Return the operations that the code calls, as IAM names them."""
    names: set[str] = set()
    for path in source.rglob("*.py") if source.is_dir() else [source]:
        names |= set(re.findall(pattern, path.read_text()))
    whole = {
        name if name[0].isupper() else "".join(word.title() for word in name.split("_"))
        for name in names - {"close"}
    }
    return {name.removesuffix("Batch") if name in BATCHES else name for name in whole}


def test_only_the_api_may_send_tasks() -> None:
    """By its own role and by the queue's policy; the worker sends to the quarantine alone."""
    senders = {
        role: {
            queue
            for queue, actions in granted(document(f"iam/{role}.json"), "sqs").items()
            if "SendMessage" in actions
        }
        for role in ("api", "worker", "operator")
    }
    policy = document("sqs.json")["Resources"]["OnlyTheApiSends"]["Properties"]
    refusal = policy["PolicyDocument"]["Statement"][0]

    assert senders == {"api": {"tasks"}, "worker": {"tasks-quarantine"}, "operator": {"tasks"}}
    assert (refusal["Effect"], refusal["Action"]) == ("Deny", "sqs:SendMessage")
    assert refusal["Condition"]["ArnNotEquals"] == {
        "aws:PrincipalArn": [{"Ref": "ApiRoleArn"}, {"Ref": "OperatorRoleArn"}]
    }


def test_together_they_may_do_what_the_code_does() -> None:
    """Every SQS and DynamoDB call of the code is allowed to somebody, and nothing else is."""
    policies = [document(f"iam/{role}.json") for role in ("api", "worker", "operator")]
    queues = [found for each in policies for found in granted(each, "sqs").values()]
    sqs = set().union(*queues)
    store = {
        one for each in policies for found in granted(each, "dynamodb").values() for one in found
    }
    makes_tables = {"CreateTable", "ListTables", "GetWaiter"}
    # A transaction is allowed by the actions it consists of.
    transactions = {"TransactWriteItems"}

    door = SOURCE / "queue" / "sqs"

    assert sqs == called(door, r"_polls\.([a-z_]+)\(") | called(door, r'_call\(\s*"(\w+)"')
    assert (
        store
        == called(SOURCE / "tasks" / "dynamodb", r"client\.([a-z_]+)\(")
        - makes_tables
        - transactions
    )


def test_the_queues_fit_the_defaults() -> None:
    """Attempts and lease as the settings have them; the DLQ keeps longer than the queue."""
    resources = document("sqs.json")["Resources"]
    tasks, dlq = resources["Tasks"]["Properties"], resources["Dlq"]["Properties"]
    settings = Settings.load({})

    assert tasks["RedrivePolicy"]["maxReceiveCount"] == settings.max_attempts
    assert tasks["VisibilityTimeout"] == settings.visibility_seconds
    assert dlq["MessageRetentionPeriod"] > tasks["MessageRetentionPeriod"]


def check(role: str, arguments: list[str], environment: dict[str, str]) -> None:
    """Hold command line and variables of a container against the code."""
    name, *rest = arguments
    chosen = typer.main.get_command(command).get_command(None, name)  # type: ignore[attr-defined]
    chosen.make_context(name, list(rest))
    settings = Settings.load(environment)

    assert name == role
    assert environment.keys() <= set(ENVIRONMENT.values())
    assert settings.queue_url is not None
    assert (settings.auth == "api-key") is (role == "api")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_ecs_runs_it(role: str) -> None:
    """The command, variables that exist, secrets by reference, time to stop, nothing as root."""
    task = document(f"ecs/{role}.json")
    (container,) = task["containerDefinitions"]
    check(
        role, container["command"], {one["name"]: one["value"] for one in container["environment"]}
    )

    assert {one["name"] for one in container["secrets"]} <= set(ENVIRONMENT.values())
    assert STOP < container["stopTimeout"] <= 120
    assert container["readonlyRootFilesystem"]
    assert task["taskRoleArn"].endswith(f"/tracebaton-{role}")


@pytest.mark.parametrize("role", ["api", "worker"])
def test_kubernetes_runs_it(role: str) -> None:
    """Likewise, with the three probes."""
    pod = manifests(f"kubernetes/{role}.yaml")["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    secret = {one["name"] for one in container["env"] if "valueFrom" in one}
    check(role, container["args"], given)
    probes = [container[f"{each}Probe"] for each in ("startup", "liveness", "readiness")]

    assert secret == {"SENTRY_DSN", "TRACEBATON_MESSAGE_KEY"}
    assert [one["httpGet"]["path"] for one in probes] == ["/startupz", "/livez", "/readyz"]
    assert pod["terminationGracePeriodSeconds"] > STOP
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_keda_scales_the_worker_by_its_queue() -> None:
    """The deployment and the queue are the ones that are there; a worker gets what it can hold."""
    keda = manifests("kubernetes/keda.yaml")
    scaled = keda["ScaledObject"]["spec"]
    (trigger,) = scaled["triggers"]
    worker = manifests("kubernetes/worker.yaml")["Deployment"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one.get("value") for one in container["env"]}

    assert scaled["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    assert "replicas" not in worker["spec"]
    assert trigger["metadata"]["queueURL"] == given["TRACEBATON_QUEUE_URL"]
    assert int(trigger["metadata"]["queueLength"]) == Settings.load({}).concurrency
    assert trigger["authenticationRef"]["name"] == keda["TriggerAuthentication"]["metadata"]["name"]


def test_every_file_is_explained() -> None:
    """The README of the folder names each, and nothing that is not there."""
    text = (DEPLOY / "README.md").read_text()
    files = {one.relative_to(DEPLOY) for one in DEPLOY.rglob("*") if one.is_file()}

    for file in files - {Path("README.md")}:
        assert f"`{file}`" in text or f"`{file.parent}/`" in text or f"`{file.name}`" in text
    for named in re.findall(r"`([\w/.-]+\.(?:json|yaml|conf))`", text):
        assert list(DEPLOY.rglob(Path(named).name)) or (ROOT / named).exists()
