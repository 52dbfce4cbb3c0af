"""
The tables of the SQLite task store, one step a version.
"""

__all__ = ["MIGRATIONS"]

_FIRST = """
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
#: Each entry brings the file from the version of its index to the next.
MIGRATIONS = (
    _FIRST,
    "ALTER TABLE tasks ADD COLUMN owner TEXT",
    "ALTER TABLE tasks ADD COLUMN lease_until REAL",
    "ALTER TABLE tasks ADD COLUMN traceparent TEXT",
    "ALTER TABLE tasks ADD COLUMN previous TEXT",
)
