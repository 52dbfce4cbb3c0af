"""The AWS JSON 1.0 protocol of SQS: a target and a body in, an answer out, now or later."""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from tracebaton.local import message_actions, queue_actions
from tracebaton.local.broker import Broker
from tracebaton.local.call import Call, Exchange, parse_request, refused, succeeded
from tracebaton.local.message_actions import Parked
from tracebaton.local.refusal import Refusal

__all__ = ["Wire"]

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
_UNSUPPORTED: Final = frozenset({"AddPermission", "RemovePermission"})
_TARGET_PREFIX: Final = "AmazonSQS."


class Wire:
    """Answers the requests of SQS clients out of one broker."""

    def __init__(self, broker: Broker, base_url: str) -> None:
        self._broker = broker
        self._base_url = base_url

    def call(self, target: str | None, body: bytes, exchange: Exchange) -> Parked | None:
        """
        Answer one request over *exchange*; a receive that waits is returned, to be cancelled.

        Args:
            target: The ``X-Amz-Target`` header.
        """
        try:
            answer = _action(target)(
                Call(self._broker, self._base_url, parse_request(body), exchange)
            )
        except Refusal as refusal:
            exchange.reply(refused(refusal))
            return None
        except Exception:
            # The edge of the emulator: a bug is one 500, not a dead connection.
            _logger.exception("local_sqs.failed", extra={"target": target})
            exchange.reply(refused(Refusal("InternalFailure", "The local SQS failed.")))
            return None
        if isinstance(answer, Parked):
            return answer
        exchange.reply(succeeded(answer))
        return None


def _action(target: str | None) -> Action:
    if target is None:
        text = "No X-Amz-Target header: the local SQS speaks the AWS JSON 1.0 protocol only."
        raise Refusal("UnknownOperationException", text)
    name = target.removeprefix(_TARGET_PREFIX)
    if name in _UNSUPPORTED:
        raise Refusal("UnsupportedOperation", f"The local SQS has no {name}.")
    action = _ACTIONS.get(name)
    if action is None or not target.startswith(_TARGET_PREFIX):
        raise Refusal("UnknownOperationException", f"There is no action {target}.")
    return action
