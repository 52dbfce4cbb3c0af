"""
A faster way for boto3's hot SQS calls: signed, sent and read by us over kept connections.

boto3 stays the API. Its public ``before-call`` event (what ``botocore.stub.Stubber`` uses) lets a
handler answer a call that botocore has validated, serialised and routed; ours replaces what costs
three quarters of the rest: urllib3, the header objects, the generic signer and the generic parser.
Credentials, endpoint, retries, back-off, error classes and every other call are botocore's.
"""

from tracebaton.queue.fastpath.calls import FastPath

__all__ = ["FastPath"]
