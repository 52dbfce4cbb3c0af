"""
One run: a fresh broker, filled; one consumer, until the queue is empty; what was lost or doubled.

The rate is the broker's: from its first receive to its last delete, so that nobody's start counts.
"""

import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any
from urllib.parse import urlsplit

from peers import TOOLS
from rounds import Figures, clean_environment, say
from servers import started, telling

HERE = Path(__file__).resolve().parent
#: Seconds a run may take before it is cut, and seconds without a delete after which it has stalled.
#: A client that loses an answer has it again after 60 s: such a run says nothing of its speed.
LIMIT, STALLED = 120.0, 15.0
ATTEMPTS = 5

#: One entry of a ``SendMessageBatch``, without its id.
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """
    Who empties the queue.

    Attributes:
        entries: Prints the queue's messages, one ``SendMessageBatch`` entry in JSON a line.
        command: Works on the queue until SIGTERM.
        env: Its variables; ``{folder}`` in one is the run's own folder.
    """

    entries: Sequence[str]
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """How far away the broker is: over TLS or not, and what a round trip takes."""

    tls: bool = False
    delay: str = "0s"


@dataclass(frozen=True, slots=True)
class Broker:
    """A running broker, with one queue."""

    url: str
    certificate: str | None

    @property
    def queue_url(self) -> str:
        """The queue's URL."""
        return f"{self.url}/000000000000/bench"

    def connection(self) -> HTTPConnection:
        """Return a connection to it."""
        parts = urlsplit(self.url)
        if parts.scheme == "http":
            return HTTPConnection(str(parts.hostname), parts.port)
        trusted: SSLContext = create_default_context(cafile=self.certificate)
        return HTTPSConnection(str(parts.hostname), parts.port, context=trusted)


def built(name: str) -> Path:
    """Return the program of the Go folder *name*, built where that is due."""
    source, program = HERE / name, TOOLS / f"bench-go/{name}"
    newest = max(path.stat().st_mtime for path in source.iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        say(f"building {name}")
        subprocess.run(["go", "build", "-o", str(program), "."], cwd=source, check=True)
    return program


@contextmanager
def broker(network: Network) -> Iterator[Broker]:
    """Run a broker that has an empty queue."""
    certificate = _certificate() if network.tls else None
    command = [str(built("broker")), "-delay", network.delay]
    command += ["-cert", certificate] if certificate else []
    with telling(command) as (_, url):
        running = Broker(url, certificate)
        policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead"}
        attributes = {
            "VisibilityTimeout": "60",
            "RedrivePolicy": json.dumps(policy | {"maxReceiveCount": str(ATTEMPTS)}),
        }
        _ask(running.connection(), "CreateQueue", QueueName="bench", Attributes=attributes)
        yield running


@contextmanager
def sink() -> Iterator[str]:
    """Run the sink of the telemetry bench and yield its URL."""
    command = [sys.executable, str(HERE.parent / "layers" / "sink.py"), "live"]
    with telling(command) as (_, port):
        yield f"http://127.0.0.1:{port}"


class Standing:
    """A consumer at work on a queue."""

    def __init__(
        self, queue: Broker, process: "subprocess.Popen[bytes]", entries: Sequence[Entry]
    ) -> None:
        """Set whose queue; *entries* are what `fill()` sends."""
        self._queue = queue
        self._process = process
        self._entries = entries
        self._connection = queue.connection()

    @property
    def ended(self) -> bool:
        """Tell whether the consumer is gone."""
        return self._process.poll() is not None

    def fill(self) -> None:
        """Send all entries, once more."""
        _fill(self._queue, self._entries)

    def stats(self) -> dict[str, Any]:
        """Return what the broker has counted since it started."""
        return _stats(self._connection)

    def cpu(self) -> float:
        """Return the CPU seconds that the consumer has used."""
        return _cpu(self._process.pid)

    def resident(self) -> float:
        """Return the memory that it has now, in KiB."""
        return _memory(self._process.pid, "VmRSS")

    def most(self) -> float:
        """Return the most memory that it had, in KiB."""
        return _memory(self._process.pid, "VmHWM")


@contextmanager
def standing(
    queue: Broker, consumer: Consumer, count: int, folder: Path, *, filled: bool = False
) -> Iterator[Standing]:
    """
    Run *consumer* on *queue*; what it said is told if the block fails.

    Args:
        count: Messages of one filling.
        folder: For its ledger, its output and what else it writes.
        filled: The queue is filled before the consumer starts.
    """
    (folder / "ledger").write_bytes(bytes(count))
    env = clean_environment(_variables(queue, consumer, count, folder))
    made = subprocess.run(consumer.entries, env=env, stdout=subprocess.PIPE, text=True, check=True)
    entries = [json.loads(line) for line in made.stdout.splitlines()]
    if filled:
        _fill(queue, entries)
    with (
        open(folder / "output", "w+") as output,
        started(consumer.command, env=env, output=output, stderr=output, patience=10) as process,
    ):
        try:
            yield Standing(queue, process, entries)
        except (OSError, SystemExit):
            output.seek(0)
            say(output.read()[-2000:])
            raise


def _variables(queue: Broker, consumer: Consumer, count: int, folder: Path) -> dict[str, str]:
    trusted = ("AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")
    return {
        "BENCH_ENDPOINT": queue.url,
        "BENCH_QUEUE": queue.queue_url,
        "BENCH_LEDGER": str(folder / "ledger"),
        "BENCH_COUNT": str(count),
        "TRACEBATON_QUEUE_URL": queue.queue_url,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        **(dict.fromkeys(trusted, queue.certificate) if queue.certificate else {}),
        **{name: value.replace("{folder}", str(folder)) for name, value in consumer.env.items()},
    }


def consumed(consumer: Consumer, count: int, network: Network = Network()) -> Figures:
    """
    Let *consumer* empty a queue of *count* messages and return its figures.

    Raises:
        OSError: It stalled, or was too slow; the message says which.
    """
    with (
        broker(network) as queue,
        tempfile.TemporaryDirectory() as folder,
        standing(queue, consumer, count, Path(folder), filled=True) as run,
    ):
        return _watched(run, Path(folder) / "ledger", count=count)


def _fill(queue: Broker, entries: Sequence[Entry]) -> None:
    """Send *entries*, ten at a time, without a client in the way."""
    connection = queue.connection()
    for start in range(0, len(entries), 10):
        batch = [{**entry, "Id": str(n)} for n, entry in enumerate(entries[start : start + 10])]
        _ask(connection, "SendMessageBatch", QueueUrl=queue.queue_url, Entries=batch)
    connection.close()


def _watched(run: Standing, ledger: Path, *, count: int) -> Figures:
    until, started = time.monotonic() + LIMIT, 0.0
    deleted, moved = 0, time.monotonic()
    told: dict[str, Any] = {}
    with open(ledger, "r+b") as file, mmap.mmap(file.fileno(), count) as handled:
        while time.monotonic() < until and not run.ended:
            told = run.stats()
            if told["FirstReceive"] and not started:
                started = run.cpu()
            if told["Deleted"] >= count and handled.find(b"\0") < 0:
                break
            if told["Deleted"] > deleted:
                deleted, moved = told["Deleted"], time.monotonic()
            elif time.monotonic() - moved > STALLED:
                raise OSError(f"stalled at {deleted} of {count} messages: {told}")
            time.sleep(0.02)
        spent, memory = run.cpu() - started, run.most()
        runs = bytes(handled)
    seconds = (told["LastDelete"] - told["FirstReceive"]) / 1e6
    if not seconds or told["Deleted"] < count:
        raise OSError(
            f"too slow, not stalled: {told['Deleted']} of {count} messages in {seconds:.0f} s,"
            f" {told['Deleted'] / max(seconds, 1e-9):.0f} a second to the end"
        )
    return {
        "rate": count / seconds,
        "cpu_us": spent / count * 1e6,
        "memory_mib": memory / 1024,
        "lost": runs.count(0),
        "doubled": sum(max(0, one - 1) for one in runs),
        "redelivered": told["Redelivered"],
        "calls": (told["ReceiveCalls"] + told["DeleteCalls"]) / count * 1000,
    }


def _stats(connection: HTTPConnection) -> dict[str, Any]:
    connection.request("GET", "/stats")
    told: dict[str, Any] = json.loads(connection.getresponse().read())["bench"]["counted"]
    return told


def _ask(connection: HTTPConnection, action: str, **request: Any) -> None:
    headers = {"X-Amz-Target": f"AmazonSQS.{action}"}
    connection.request("POST", "/", json.dumps(request), headers)
    answer = connection.getresponse()
    told = answer.read()
    if answer.status != 200:
        raise OSError(f"{action}: {told!r}")


def _family(leader: int) -> Iterator[Path]:
    """Yield *leader* and the processes that it and they started."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(fields[1])
    family = {leader}
    while more := {one for one, parent in parents.items() if parent in family} - family:
        family |= more
    yield from (Path("/proc") / str(one) for one in family)


def _cpu(leader: int) -> float:
    """Return the CPU seconds of all of them, and of those that have ended."""
    ticks = 0
    for path in _family(leader):
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory(leader: int, kind: str) -> float:
    """Return their memory of that *kind*, in KiB."""
    lines = [line for path in _family(leader) for line in (path / "status").open()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind))


def _certificate() -> str:
    """Return a certificate of localhost with its key, made at the first use."""
    path = TOOLS / "bench-localhost.pem"
    if not path.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt"]
        command += ["ec_paramgen_curve:P-256", "-nodes", "-days", "3650", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        key = path.with_suffix(".key")
        command += ["-keyout", str(key), "-out", str(path)]
        subprocess.run(command, check=True, capture_output=True)
        path.write_text(path.read_text() + key.read_text())
        key.unlink()
    return str(path)
