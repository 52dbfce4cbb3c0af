"""Prints what a peer's own producer sends, in place of sending it: its messages are then true."""

import json
from typing import Any


class _Http:
    status_code = 200


def capture(client: Any) -> None:
    """Answer the sends of a boto3 *client* by printing their entries."""

    def answer(params: Any, **_: Any) -> tuple[_Http, dict[str, Any]]:
        body = json.loads(params["body"])
        entries = body.get("Entries", [body])
        for entry in entries:
            print(json.dumps({k: v for k, v in entry.items() if k not in ("QueueUrl", "Id")}))
        sent = [{"Id": entry.get("Id", "0"), "MessageId": "m"} for entry in entries]
        return _Http(), {"Successful": sent, "MessageId": "m", "ResponseMetadata": {}}

    for action in ("SendMessage", "SendMessageBatch"):
        client.meta.events.register(f"before-call.sqs.{action}", answer)
