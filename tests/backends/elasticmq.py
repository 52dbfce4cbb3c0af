"""The real ElasticMQ on loopback, as a configuration says; scripts/elasticmq fetches it."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beside import free_ports, wait_until_up

ROOT = Path(__file__).parents[2]
JARS = ROOT / ".tools" / "elasticmq" / "lib"

#: The later value of a key counts, so that all the rest of a configuration stays as it is.
_LOOPBACK = """
node-address {{ protocol = http, host = "127.0.0.1", port = {port} }}
rest-sqs {{ bind-hostname = "127.0.0.1", bind-port = {port} }}
rest-stats {{ enabled = false }}
"""


def has_elasticmq() -> bool:
    """Tell whether there is a Java and an ElasticMQ."""
    return shutil.which("java") is not None and JARS.is_dir()


@contextmanager
def running_elasticmq(folder: Path, configuration: Path) -> Iterator[str]:
    """Run ElasticMQ with *configuration* on a port of its own and return its address."""
    (port,) = free_ports(1)
    adapted = folder / "elasticmq.conf"
    adapted.write_text(configuration.read_text() + _LOOPBACK.format(port=port))
    log = folder / "elasticmq.log"
    java = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    java += [f"-Dconfig.file={adapted}", "-cp", f"{JARS}/*", "org.elasticmq.server.Main"]
    with log.open("wb") as output:
        process = subprocess.Popen(java, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_up(process, f"http://127.0.0.1:{port}/health", log, seconds=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # all is in memory, and a polite stop waits for polls of clients long gone
        process.wait()
