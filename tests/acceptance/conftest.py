"""Fixtures of the acceptance tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Broker, create_queues

from tracebaton.local import LocalSqs


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """An SQS with the queue ``tasks`` whose second failure is its last."""
    with LocalSqs.in_thread() as sqs:
        create_queues(sqs)
        yield Broker(sqs, tmp_path)
