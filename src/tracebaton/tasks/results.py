"""
A task's result as the stores keep it: JSON, up to a size.
"""

import json
from typing import Any, Final

from tracebaton.errors import ResultTooLarge

__all__ = ["RESULT_LIMIT", "encoded_result"]

#: Bytes of JSON a result may have inline (SPEC 8).
RESULT_LIMIT: Final = 256 * 1024


def encoded_result(task_id: str, result: Any) -> str | None:
    """
    Return *result* as JSON, None where there is none.

    Raises:
        ResultTooLarge: It is over `RESULT_LIMIT`.
    """
    if result is None:
        return None
    encoded = json.dumps(result, allow_nan=False)
    if len(encoded) > RESULT_LIMIT:
        raise ResultTooLarge(
            f"The result of task {task_id} has {len(encoded)} bytes, the limit is"
            f" {RESULT_LIMIT}. Return a reference instead."
        )
    return encoded
