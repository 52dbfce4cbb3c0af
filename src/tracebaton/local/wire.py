"""The AWS JSON 1.0 protocol of SQS: a target and a body in, an answer out, now or later."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracebaton.local import message_actions, queue_actions
from tracebaton.local.broker import Broker
from tracebaton.local.call import Call, ClientExchange, parse_request, refused, succeeded
from tracebaton.local.faults import Faults
from tracebaton.local.message_actions import Parked
from tracebaton.local.refusal import Refusal
from tracebaton.local.struck import Cancel, StruckExchange

__all__ = ["ACTIONS", "Wire"]

_logger = logging.getLogger(__name__)

Action = Callable[[Call], Mapping[str, Any] | Parked]

#: Every action of SQS but AddPermission and RemovePermission: there is one account only.
_ACTIONS: Final[Mapping[str, Action]] = {
    "CancelMessageMoveTask": queue_actions.cancel_message_move_task,
    "ChangeMessageVisibility": message_actions.change_message_visibility,
    "ChangeMessageVisibilityBatch": message_actions.change_message_visibility_batch,
    "CreateQueue": queue_actions.create_queue,
    "DeleteMessage": message_actions.delete_message,
    "DeleteMessageBatch": message_actions.delete_message_batch,
    "DeleteQueue": queue_actions.delete_queue,
    "GetQueueAttributes": queue_actions.get_queue_attributes,
    "GetQueueUrl": queue_actions.get_queue_url,
    "ListDeadLetterSourceQueues": queue_actions.list_dead_letter_source_queues,
    "ListMessageMoveTasks": queue_actions.list_message_move_tasks,
    "ListQueueTags": queue_actions.list_queue_tags,
    "ListQueues": queue_actions.list_queues,
    "PurgeQueue": queue_actions.purge_queue,
    "ReceiveMessage": message_actions.receive_message,
    "SendMessage": message_actions.send_message,
    "SendMessageBatch": message_actions.send_message_batch,
    "SetQueueAttributes": queue_actions.set_queue_attributes,
    "StartMessageMoveTask": queue_actions.start_message_move_task,
    "TagQueue": queue_actions.tag_queue,
    "UntagQueue": queue_actions.untag_queue,
}
ACTIONS: Final = frozenset(_ACTIONS)
_UNSUPPORTED: Final = frozenset({"AddPermission", "RemovePermission"})
_TARGET_PREFIX: Final = "AmazonSQS."


class Wire:
    """
    Answers the requests of SQS clients out of one broker.

    Args:
        faults: What befalls them.
    """

    def __init__(self, broker: Broker, base_url: str, faults: Faults | None = None) -> None:
        self._broker = broker
        self._base_url = base_url
        self._faults = faults or Faults(ACTIONS)

    def call(self, target: str | None, body: bytes, exchange: ClientExchange) -> Cancel | None:
        """
        Answer one request over *exchange*; return how to forget one that is answered later.

        Args:
            target: The ``X-Amz-Target`` header.
        """
        try:
            name = _action_name(target)
            request = parse_request(body)
        except Refusal as refusal:
            exchange.reply(refused(refusal))
            return None
        strike = self._faults.strike(name, request)
        if strike is None:
            return _perform(name, Call(self._broker, self._base_url, request, exchange))
        struck = StruckExchange(exchange, strike, self._broker.later)
        call = Call(self._broker, self._base_url, request, struck, strike)
        return struck.start(lambda: _perform(name, call))


def _perform(name: str, call: Call) -> Cancel | None:
    try:
        answer = _ACTIONS[name](call)
    except Refusal as refusal:
        call.exchange.reply(refused(refusal))
        return None
    except Exception:
        # The edge of the emulator: a bug is one 500, not a dead connection.
        _logger.exception("local_sqs.failed", extra={"action": name})
        call.exchange.reply(refused(Refusal("InternalFailure", "The local SQS failed.")))
        return None
    if isinstance(answer, Parked):
        return answer.cancel
    call.exchange.reply(succeeded(answer))
    return None


def _action_name(target: str | None) -> str:
    if target is None:
        text = "No X-Amz-Target header: the local SQS speaks the AWS JSON 1.0 protocol only."
        raise Refusal("UnknownOperationException", text)
    name = target.removeprefix(_TARGET_PREFIX)
    if name in _UNSUPPORTED:
        raise Refusal("UnsupportedOperation", f"The local SQS has no {name}.")
    if name not in ACTIONS or not target.startswith(_TARGET_PREFIX):
        raise Refusal("UnknownOperationException", f"There is no action {target}.")
    return name
