"""
The probe: a task type that every application has, so that ``tracebaton doctor`` can try the whole
way without a handler of the user's having run.
"""

from typing import ClassVar, Final

from pydantic import BaseModel, ConfigDict

from tracebaton.context import current

__all__ = ["PROBE", "Probe", "answer"]

#: The name of its type. It is in no list of types: neither in the OpenAPI document nor in schemas.
PROBE: Final = "tracebaton.probe"


class Probe(BaseModel):
    """Data of a probe: none."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def answer(probe: Probe) -> dict[str, str | int | None]:
    """Return the ids that the worker found in its request store."""
    store = current()
    return {
        "correlation_id": store.correlation_id,
        "user_id": store.user_id,
        "task_id": store.task_id,
        "attempt": store.attempt,
    }
