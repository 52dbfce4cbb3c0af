"""Receipt handles: what a consumer holds a message by."""

import secrets

from tracebaton.local.message import Message
from tracebaton.local.refusal import Refusal
from tracebaton.local.stock import Stock

__all__ = ["Receipts"]


class Receipts:
    """The handles of one queue; one of another queue, or of an earlier one of its name, is none."""

    __slots__ = ("_token",)

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)

    def write(self, message: Message) -> None:
        """Give *message* the handle of its latest receive."""
        message.handle = f"{self._token}.{message.id}.{message.receive_count}"

    def read(self, handle: str, stock: Stock) -> Message | None:
        """Return the message of *handle*, which may be an old one, None if it was deleted."""
        token, _, rest = handle.partition(".")
        message_id, _, count = rest.partition(".")
        if token != self._token or not count:
            text = f'The input receipt handle "{handle}" is not a valid receipt handle.'
            raise Refusal("ReceiptHandleIsInvalid", text)
        return stock.get(message_id)
