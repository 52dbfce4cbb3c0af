"""A boto3 client whose hot calls are made on an event loop, for tests that know only boto3."""

import asyncio
import threading
from typing import Any

from botocore import xform_name

from tracebaton.queue.fastpath import Direct, FastPath
from tracebaton.queue.fastpath.calls import OPERATIONS
from tracebaton.queue.threads import DaemonThreads

_METHODS = {xform_name(operation): operation for operation in OPERATIONS}


class OnLoop:
    """Looks like *client*; its hot calls go through `Direct`, on a loop in a thread."""

    def __init__(self, client: Any, path: FastPath) -> None:
        self._client = client
        self._threads = DaemonThreads(4)
        self._direct = Direct(client, path, self._threads)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __getattr__(self, name: str) -> Any:
        operation = _METHODS.get(name)
        if operation is None:
            return getattr(self._client, name)

        def call(**request: Any) -> Any:
            work = self._direct.call(operation, request)
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

        return call

    def close(self) -> None:
        """Close client, connections and loop."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._threads.close()
        self._client.close()

    async def _end(self) -> None:
        self._direct.close()
        await self._loop.shutdown_default_executor()
        await asyncio.sleep(0)
