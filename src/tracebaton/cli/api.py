"""The API as the command line speaks to it: over HTTP, with the key of whoever asks."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from tracebaton.cli import running
from tracebaton.errors import TracebatonError
from tracebaton.tasks import ENDED
from tracebaton.terminal import printable

__all__ = ["Api"]

#: Seconds an answer may take; a send waits for SQS.
_TIMEOUT: Final = 35.0
#: Seconds between two looks at a task, at first and at last.
_SOON, _LATER = 0.1, 1.0


class Api:
    """A running API; a context manager."""

    def __init__(self, url: str | None, key: str | None) -> None:
        """Speak to *url* with *key*, by default to those of the settings, or of `dev`."""
        settings = running.settings()
        self.url: str = (url or settings.api_url).rstrip("/")
        chosen = key or settings.api_key
        headers = {"authorization": f"Bearer {chosen}"} if chosen else {}
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=_TIMEOUT)

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def send(self, task_type: str, data: Any, *, key: str | None) -> dict[str, Any]:
        """Submit a task and return what the API answered; *key* is its Idempotency-Key."""
        headers = {} if key is None else {"idempotency-key": key}
        path = f"/v1/tasks/{quote(task_type, safe='')}"
        types = f"{self.url}/docs has those there are"
        return self._asked("POST", path, missing=types, json=data, headers=headers)

    def task(self, task_id: str) -> dict[str, Any]:
        """Return the task as it is now."""
        return self._asked("GET", f"/v1/tasks/{quote(task_id, safe='')}")

    def wait(
        self, task_id: str, *, tell: Callable[[dict[str, Any]], None] = lambda task: None
    ) -> dict[str, Any]:
        """Return the task once it has ended; *tell* hears of it at each look."""
        pause = _SOON
        while True:
            task = self.task(task_id)
            tell(task)
            if task.get("status") in ENDED:
                return task
            time.sleep(pause)
            pause = min(_LATER, pause * 1.5)

    def tasks(self, query: Mapping[str, Any], *, most: int | None) -> Iterator[dict[str, Any]]:
        """Yield the tasks that *query* asks for, the newest first, at most so many."""
        cursor: str | None = None
        left = most
        while left is None or left > 0:
            asked = {**query, "limit": min(200, left or 200)}
            page = self._asked(
                "GET", "/v1/tasks", params=asked | ({"cursor": cursor} if cursor else {})
            )
            yield from page["tasks"][:left]
            cursor = page["next_cursor"]
            left = None if left is None else left - len(page["tasks"])
            if cursor is None:
                return

    def _asked(
        self, method: str, path: str, *, missing: str = "", **options: Any
    ) -> dict[str, Any]:
        """Return what the API answers; *missing* is said of a 404, to go on from there."""
        try:
            answer = self._http.request(method, path, **options)
            document = answer.json()
        except httpx.HTTPError as exc:
            raise TracebatonError(
                f"The API at {self.url} cannot be reached ({type(exc).__name__}). Start it,"
                " or all of it with `tracebaton dev`; --api or TRACEBATON_API_URL names another."
            ) from exc
        except ValueError as exc:
            raise TracebatonError(f"What answers at {self.url} is no API of tracebaton.") from exc
        if answer.is_success and isinstance(document, dict):
            return document
        hint = missing if answer.status_code == httpx.codes.NOT_FOUND else ""
        raise TracebatonError(_problem(answer.status_code, document, hint))


def _problem(status: int, document: Any, hint: str) -> str:
    """Return what a problem document says, on one line, with *hint* where there is one."""
    found = document if isinstance(document, dict) else {}
    parts = [f"{status} {printable(found.get('detail', ''))}"]
    parts += [
        f"{printable(error.get('pointer', ''))}: {printable(error.get('detail', ''))}"
        for error in found.get("errors", ())
        if isinstance(error, dict)
    ]
    if status == 401:
        parts.append("--key or TRACEBATON_API_KEY says who you are")
    parts += [hint] if hint else []
    if correlation_id := found.get("correlation_id"):
        parts.append(f"correlation id {printable(correlation_id)}")
    return "; ".join(part.strip() for part in parts)
