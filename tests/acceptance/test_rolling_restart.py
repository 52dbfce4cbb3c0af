"""A new release is rolled out under load: no request fails and no accepted task is lost."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from command import running
from stage import Broker

pytestmark = pytest.mark.acceptance

HERE = Path(__file__).parent
CALLERS = 4


class LoadBalancer:
    """Sends each request to the instance of the day, as one in front of a rolling update does."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accepted: list[str] = []
        self.refused: list[object] = []
        self.over = threading.Event()
        self._more = threading.Condition()
        self._calling: Counter[str] = Counter()

    def move_to(self, url: str) -> None:
        """
        Send what comes from now on to *url*, and wait until the instance before has answered.

        A load balancer deregisters before an instance is told to stop: a request that is on its way
        to a connection which is just being closed would be nobody's fault and lost.
        """
        with self._more:
            before, self.url = self.url, url
            assert self._more.wait_for(lambda: not self._calling[before], timeout=30)

    def call(self) -> None:
        """Submit orders, each on a connection of its own, until it is over."""
        while not self.over.is_set():
            with self._more:
                url = self.url
                self._calling[url] += 1
            try:
                answer = httpx.post(f"{url}/orders/order", json={"seconds": 0.05}, timeout=20)
                accepted = answer.status_code == httpx.codes.ACCEPTED
                told = answer.json()["task_id"] if accepted else answer.text
            except httpx.HTTPError as exc:
                accepted, told = False, repr(exc)
            with self._more:
                self._calling[url] -= 1
                (self.accepted if accepted else self.refused).append(told)
                self._more.notify_all()

    def wait_for_more(self, count: int = 12) -> None:
        """Wait until *count* more were accepted."""
        with self._more:
            wanted = len(self.accepted) + count
            assert self._more.wait_for(
                lambda: len(self.accepted) >= wanted or self.refused, timeout=30
            )


@contextmanager
def load(balancer: LoadBalancer) -> Iterator[None]:
    """Call without a pause for the length of a block."""
    with ThreadPoolExecutor(CALLERS) as callers:
        running = [callers.submit(balancer.call) for _ in range(CALLERS)]
        try:
            yield
        finally:
            balancer.over.set()
        for each in running:
            each.result()


def test_a_rolling_restart_loses_nothing(broker: Broker) -> None:
    """The new API and worker start, the old ones are told to stop, callers notice nothing."""
    with (
        running("api", "shop:app", "--port", "0", env=broker.env, cwd=HERE) as old_api,
        running("worker", "shop:app", env=broker.env, cwd=HERE) as old_worker,
    ):
        balancer = LoadBalancer(old_api.ready()["api"])
        old_worker.ready()
        with load(balancer):
            balancer.wait_for_more()
            with (
                running("api", "shop:app", "--port", "0", env=broker.env, cwd=HERE) as new_api,
                running("worker", "shop:app", env=broker.env, cwd=HERE) as new_worker,
            ):
                new_worker.ready()
                balancer.move_to(new_api.ready()["api"])
                codes = [old_api.stop(), old_worker.stop()]
                balancer.wait_for_more()
                balancer.over.set()
                ended = {broker.ended(task_id).status.value for task_id in balancer.accepted}
                codes += [new_api.stop(), new_worker.stop()]
    drained = next(one for one in old_worker.events if one["event"] == "worker.drained")

    assert balancer.refused == []
    assert len(balancer.accepted) >= 24
    assert ended == {"succeeded"}
    assert codes == [0, 0, 0, 0]
    assert drained["abandoned"] == 0
