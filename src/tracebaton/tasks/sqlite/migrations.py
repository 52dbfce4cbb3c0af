"""
The tables of the SQLite task store, one step a version; a step that was released never changes.
"""

from typing import Final

__all__ = ["MIGRATIONS"]

_FIRST: Final = """
CREATE TABLE tasks (
    id TEXT PRIMARY KEY,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    user_id TEXT,
    correlation_id TEXT,
    trace_id TEXT,
    parent_task_id TEXT,
    attempt INTEGER NOT NULL DEFAULT 0,
    progress INTEGER NOT NULL DEFAULT 0,
    result TEXT,
    error TEXT,
    failures TEXT NOT NULL DEFAULT '[]',
    created_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL
) WITHOUT ROWID;
"""
#: What was there before has one entry: how it stands.
_HISTORY: Final = (
    "ALTER TABLE tasks ADD COLUMN progress_message TEXT",
    "ALTER TABLE tasks ADD COLUMN changes INTEGER NOT NULL DEFAULT 0",
    # A task that was taken back; its row stays for the message that may come all the same.
    "ALTER TABLE tasks ADD COLUMN forgotten INTEGER NOT NULL DEFAULT 0",
    """
    CREATE TABLE changes (
        task_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        snapshot TEXT NOT NULL,
        PRIMARY KEY (task_id, number)
    ) WITHOUT ROWID
    """,
    """
    INSERT INTO changes
    SELECT id, 1, 'status', json_object(
        'status', status, 'attempt', attempt, 'progress', progress, 'error', json(error),
        'updated_at', updated_at, 'started_at', started_at, 'ended_at', ended_at)
    FROM tasks
    """,
    "UPDATE tasks SET changes = 1",
)
_LISTS: Final = (
    "CREATE INDEX tasks_of_user ON tasks (user_id, created_at, id)",
    "CREATE INDEX tasks_by_status ON tasks (status, created_at, id)",
    "CREATE INDEX tasks_by_age ON tasks (created_at, id)",
    "CREATE INDEX tasks_leased ON tasks (lease_until) WHERE status = 'running'",
    "CREATE INDEX tasks_ended ON tasks (ended_at) WHERE ended_at IS NOT NULL",
)
_UNSENT: Final = (
    """
    CREATE TABLE unsent (
        task_id TEXT PRIMARY KEY,
        message TEXT NOT NULL,
        touched_at REAL NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX unsent_by_age ON unsent (touched_at)",
)
_CLAIMS: Final = (
    """
    CREATE TABLE claims (
        scope TEXT NOT NULL,
        key TEXT NOT NULL,
        token TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        lease_until REAL NOT NULL,
        expires_at REAL NOT NULL,
        task_id TEXT,
        response TEXT,
        PRIMARY KEY (scope, key)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX claims_of_task ON claims (task_id) WHERE task_id IS NOT NULL",
    "CREATE INDEX claims_by_expiry ON claims (expires_at)",
)
#: Each entry, a statement or several, brings the file from the version of its index to the next.
MIGRATIONS: Final[tuple[str | tuple[str, ...], ...]] = (
    _FIRST,
    "ALTER TABLE tasks ADD COLUMN owner TEXT",
    "ALTER TABLE tasks ADD COLUMN lease_until REAL",
    "ALTER TABLE tasks ADD COLUMN traceparent TEXT",
    "ALTER TABLE tasks ADD COLUMN previous TEXT",
    _HISTORY,
    _LISTS,
    _UNSENT,
    _CLAIMS,
)
