"""SQS's JSON protocol, spoken by hand: it sends what boto3 would refuse to."""

from typing import Any

import httpx


class Wire:
    """A client of one SQS endpoint."""

    def __init__(self, url: str, queue_url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=20)
        self._base = queue_url.rpartition("/")[0]

    async def call(self, action: str, queue: str, **given: Any) -> dict[str, Any]:
        """Call *action* on *queue*; an error of SQS is returned like any answer."""
        answer = await self._http.post(
            "/",
            json={"QueueUrl": f"{self._base}/{queue}", **given},
            headers={
                "x-amz-target": f"AmazonSQS.{action}",
                "content-type": "application/x-amz-json-1.0",
            },
        )
        document: dict[str, Any] = answer.json()
        return document

    async def take(self, queue: str) -> list[dict[str, Any]]:
        """Receive and delete every visible message of *queue*."""
        found: list[dict[str, Any]] = []
        while messages := await self._some(queue):
            found += messages
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
                for number, message in enumerate(messages)
            ]
            answer = await self.call("DeleteMessageBatch", queue, Entries=entries)
            assert len(answer["Successful"]) == len(messages), answer
        return found

    async def _some(self, queue: str) -> list[dict[str, Any]]:
        answer = await self.call(
            "ReceiveMessage",
            queue,
            MaxNumberOfMessages=10,
            MessageAttributeNames=["All"],
            MessageSystemAttributeNames=["All"],
        )
        assert "__type" not in answer, answer
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
