"""Every store: lists that a person can page through while tasks come and go."""

from typing import Any

import pytest

from tracebaton.errors import ValidationFailed
from tracebaton.tasks import RESULT_LIMIT, TaskQuery, TaskStatus, TaskStore, decode_cursor

NOW = 1_000.0


async def walk(store: TaskStore, **query: Any) -> list[list[str]]:
    """Return the ids of every page."""
    pages, cursor = [], None
    while True:
        page = await store.list(TaskQuery(**query, cursor=cursor))
        pages.append([task.id for task in page.tasks])
        cursor = page.next_cursor
        if cursor is None:
            return pages


async def test_the_newest_comes_first(store: TaskStore, queued: Any) -> None:
    """By the time of creation; tasks of one moment by id, so that the order is whole."""
    for task_id, created_at in (("b", 2.0), ("a", 2.0), ("old", 1.0), ("new", 3.5)):
        await store.create(queued(task_id, created_at=created_at))

    assert await walk(store) == [["new", "b", "a", "old"]]
    assert await walk(store, limit=2) == [["new", "b"], ["a", "old"]]
    assert await walk(store, limit=3) == [["new", "b", "a"], ["old"]]


async def test_nobody_has_no_tasks(store: TaskStore) -> None:
    """An empty list is a page of its own."""
    assert await walk(store) == [[]]


async def test_pages_hold_while_tasks_come(store: TaskStore, queued: Any) -> None:
    """What was there at the start is met once, whatever is created or ends meanwhile."""
    for number in range(20):
        await store.create(queued(f"t-{number:02}", created_at=float(number)))
    seen, cursor = [], None
    for turn in range(7):
        page = await store.list(TaskQuery(limit=3, cursor=cursor))
        seen += [task.id for task in page.tasks]
        cursor = page.next_cursor
        await store.create(queued(f"new-{turn}", created_at=100.0 + turn))
        await store.cancel(f"t-{19 - turn:02}")

    assert seen == [f"t-{number:02}" for number in reversed(range(20))]
    assert cursor is None


async def test_filters_go_together(store: TaskStore, queued: Any) -> None:
    """Owner, status and type, with pages that are full although others stand between."""
    for number in range(12):
        await store.create(
            queued(
                f"t-{number:02}",
                created_at=float(number),
                user_id=("ann", "bob", None)[number % 3],
                type=("mail", "chat")[number % 2],
            )
        )
    await store.cancel("t-00")
    await store.start("t-06", attempt=1)

    assert await walk(store, user_id="ann") == [["t-09", "t-06", "t-03", "t-00"]]
    assert await walk(store, user_id="ann", limit=2) == [["t-09", "t-06"], ["t-03", "t-00"]]
    assert await walk(store, user_id="ann", type="mail", limit=1) == [["t-06"], ["t-00"]]
    assert await walk(store, status=TaskStatus.CANCELLED) == [["t-00"]]
    assert await walk(store, user_id="ann", status=TaskStatus.RUNNING) == [["t-06"]]
    assert await walk(store, user_id="bob", status=TaskStatus.RUNNING) == [[]]
    assert await walk(store, type="fax") == [[]]
    assert [len(page) for page in await walk(store, limit=5)] == [5, 5, 2]


async def test_a_taken_back_task_is_not_listed(store: TaskStore, queued: Any) -> None:
    """Nobody was told of it."""
    await store.create(queued("a"))
    await store.create(queued("b"))
    await store.forget("b")

    assert await walk(store) == [["a"]]
    assert await walk(store, status=TaskStatus.CANCELLED) == [[]]


async def test_large_results_make_pages_short(store: TaskStore, queued: Any) -> None:
    """A page holds a few megabytes at most, and says that more follows."""
    for number in range(24):
        await store.create(queued(f"t-{number:02}", created_at=float(number)))
        await store.start(f"t-{number:02}", attempt=1)
        await store.finish(
            f"t-{number:02}",
            TaskStatus.SUCCEEDED,
            attempt=1,
            result="x" * (RESULT_LIMIT - 2),
        )
    pages = await walk(store, limit=100)

    assert len(pages) > 1
    assert [one for page in pages for one in page] == [f"t-{n:02}" for n in reversed(range(24))]


@pytest.mark.parametrize(
    "cursor",
    ["", "x", "AAAA", "é", "bnVsbA", "WzFd", "WyJhIiwiYiJd", "W05hTiwiYiJd", "WzEsMl0", "W" * 9999],
)
async def test_a_made_up_cursor_is_refused(store: TaskStore, cursor: str) -> None:
    """With a word about the parameter, before the store is asked."""
    with pytest.raises(ValidationFailed) as caught:
        await store.list(TaskQuery(cursor=cursor))

    assert caught.value.errors[0]["pointer"] == "/cursor"


def test_a_cursor_may_not_hold_half_a_character() -> None:
    """Half a surrogate pair in an id is no id."""
    with pytest.raises(ValidationFailed):
        decode_cursor("WzEsIlx1ZDgwMCJd")
