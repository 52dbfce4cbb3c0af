"""
The only door to SQS, and the seam where boto3's errors become ours.
"""

from tracebaton.queue.message import Received, Sent
from tracebaton.queue.sqs.access import SqsAccess
from tracebaton.queue.sqs.answers import Entry, blames_content
from tracebaton.queue.sqs.calls import BATCH, Sqs
from tracebaton.queue.sqs.queues import MESSAGE_LIMIT, Queue

__all__ = [
    "BATCH",
    "MESSAGE_LIMIT",
    "Entry",
    "Queue",
    "Received",
    "Sent",
    "Sqs",
    "SqsAccess",
    "blames_content",
]
