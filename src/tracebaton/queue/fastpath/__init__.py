"""
A faster way for boto3's hot SQS calls: signed, sent and read by us over kept connections.

boto3 stays the API. Its public ``before-call`` event (what ``botocore.stub.Stubber`` uses) lets a
handler answer a call that botocore has validated, serialised and routed; ours replaces what costs
three quarters of the rest: urllib3, the header objects, the generic signer and the generic parser.
Credentials, endpoint, retries, back-off, error classes and every other call are botocore's.

`FastPath` answers the calls of boto3 itself. `Direct` makes them on the event loop, where they cost
no thread, and leaves to boto3 what does not succeed at once.
"""

from tracebaton.queue.fastpath.calls import FastPath
from tracebaton.queue.fastpath.direct import Direct
from tracebaton.queue.fastpath.exchanges import Cut

__all__ = ["Cut", "Direct", "FastPath"]
