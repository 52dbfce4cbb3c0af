"""One fault that a test asks for: what goes wrong, and in which calls."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

__all__ = ["Effect", "Fault"]

Effect = Literal[
    "delay",
    "error",
    "throttle",
    "reset",
    "black_hole",
    "fail_entries",
    "duplicate",
    "reorder",
    "lose_handle",
]

_RECEIVE: Final = frozenset({"ReceiveMessage"})
#: Effect -> the actions it can befall, where these are not all.
_ONLY: Final[Mapping[str, frozenset[str]]] = {
    "fail_entries": frozenset(
        {"ChangeMessageVisibilityBatch", "DeleteMessageBatch", "SendMessageBatch"}
    ),
    "duplicate": _RECEIVE,
    "reorder": _RECEIVE,
    "lose_handle": _RECEIVE,
}
#: Field -> the JSON types it may have.
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "effect": (str,),
    "action": (str, type(None)),
    "queue": (str, type(None)),
    "first": (int, type(None)),
    "every": (int,),
    "probability": (int, float),
    "seed": (int,),
    "after": (bool,),
    "seconds": (int, float),
    "status": (int,),
    "code": (str, type(None)),
    "sender_fault": (bool,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """
    One thing that goes wrong, in the calls that it is for.

    Of the calls of *action* on *queue* it strikes the *first* ones, *every* so many, with a
    *probability*: all three must hold. Call *n* always gets the same verdict from the same seed.

    Args:
        effect: ``delay``: the call takes *seconds* more. ``error``: it is answered *status*.
            ``throttle``: RequestThrottled. ``reset``: the connection is reset. ``black_hole``:
            there is no answer. ``fail_entries``: entries of a batch fail. ``duplicate``: a
            message is handed out once more although it is invisible; both handles hold it.
            ``reorder``: the last messages of a queue overtake. ``lose_handle``: the handle that is
            handed out is worth nothing. FIFO queues are neither reordered nor duplicated.
        action: As ``SendMessage``; None is every action that *effect* can befall.
        queue: The name of a queue; None is every queue.
        first: None sets no limit. For ``fail_entries``, ``duplicate`` and ``lose_handle`` each
            entry or message counts as a call.
        after: Strike when the call has had its effect, not before: the answer is lost.
        status: 500 or 503.
        code: What a failed entry says, None for what SQS says most often.
        sender_fault: Whether a failed entry blames its sender.

    Raises:
        ValueError: A value is not one of those above.
    """

    effect: Effect
    action: str | None = None
    queue: str | None = None
    first: int | None = None
    every: int = 1
    probability: float = 1.0
    seed: int = 0
    after: bool = False
    seconds: float = 0.0
    status: int = 500
    code: str | None = None
    sender_fault: bool = False

    def __post_init__(self) -> None:
        for name, types in _TYPES.items():
            value = getattr(self, name)
            # A bool is an int to Python, and a number to nobody else.
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise ValueError(f"{name} has the wrong type: {value!r}.")
        self._check("effect", self.effect in get_args(Effect))
        only = _ONLY.get(self.effect)
        self._check("action", self.action is None or only is None or self.action in only)
        self._check("first", self.first is None or self.first >= 1)
        self._check("every", self.every >= 1)
        self._check("probability", 0 <= self.probability <= 1)
        self._check("seconds", 0 <= self.seconds < float("inf"))
        self._check("status", self.status in (500, 503))

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "Fault":
        """Return the fault of a JSON object, or raise ``ValueError``."""
        unknown = sorted(given.keys() - {field.name for field in fields(cls)})
        if unknown or "effect" not in given:
            raise ValueError(f"A fault has no {unknown[0]}." if unknown else "effect is missing.")
        return cls(**given)

    @property
    def of_parts(self) -> bool:
        """Return whether single entries or messages are struck, or what the queue holds."""
        return self.effect in _ONLY

    def befalls(self, action: str, queue: str | None) -> bool:
        """Return whether this is a fault of *action* on *queue*."""
        return (
            self.action in (None, action)
            and self.queue in (None, queue)
            and action in _ONLY.get(self.effect, (action,))
        )

    def failed(self, entry_id: str) -> dict[str, Any]:
        """Return the ``Failed`` entry of a batch."""
        usual = "InvalidParameterValue" if self.sender_fault else "InternalError"
        return {
            "Id": entry_id,
            "SenderFault": self.sender_fault,
            "Code": self.code or usual,
            "Message": "A fault was asked for.",
        }

    def _check(self, name: str, good: bool) -> None:
        if not good:
            raise ValueError(f"{name} cannot be {getattr(self, name)!r} here.")
