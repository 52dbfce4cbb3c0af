"""
Answers as boto3 returns them.

An answer of status 200 is JSON in the very shape that boto3 returns, but for two things that its
parser does: null members are left out and binary values are decoded. Every other answer is read by
botocore's own parser, so that codes, messages and modelled errors are its.
"""

import base64
from collections.abc import Mapping
from typing import Any

from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.parsers import create_parser
from pydantic_core import from_json

from tracebaton.queue.fastpath.http1 import Reply

__all__ = ["Http", "parsed"]

#: Members that are lists of structures.
_LISTS = ("Messages", "Successful", "Failed")


class Http(AWSResponse):
    """The answer as botocore's handlers look at it; its headers are theirs only once asked for."""

    def __init__(self, url: str, reply: Reply) -> None:
        self.url = url
        self.status_code: int = reply.status
        self.raw: Any = None
        self._content = reply.body
        self._headers = reply.headers

    @property
    def headers(self) -> HeadersDict:  # type: ignore[override]  # made when it is asked for
        """Return the headers, which any spelling finds."""
        return HeadersDict(self._headers)


def parsed(reply: Reply, operation: Any) -> dict[str, Any]:
    """Return what boto3 returns for *reply* to *operation*, an ``OperationModel`` of botocore's."""
    document = _quickly(reply) if reply.status == 200 else None
    if document is None:
        return _by_botocore(reply, operation)
    metadata: dict[str, Any] = {"HTTPStatusCode": 200, "HTTPHeaders": reply.headers}
    if "x-amzn-requestid" in reply.headers:
        metadata["RequestId"] = reply.headers["x-amzn-requestid"]
    document["ResponseMetadata"] = metadata
    return document


def _quickly(reply: Reply) -> dict[str, Any] | None:
    """Return the document of *reply*, None where it is not as simple as they are."""
    try:
        document = from_json(reply.body) if reply.body else {}
    except ValueError:  # half a surrogate pair in a message, too: botocore reads those
        return None
    if type(document) is not dict or None in document.values():
        return None
    entries = [entry for name in _LISTS for entry in document.get(name, ())]
    return document if all(map(_simple, entries)) else None


def _simple(entry: Any) -> bool:
    """Tell whether *entry* has no null in it, and decode what is binary."""
    if type(entry) is not dict or None in entry.values():
        return False
    for attribute in entry.get("MessageAttributes", {}).values():
        if None in attribute.values():
            return False
        if "BinaryValue" in attribute:
            attribute["BinaryValue"] = base64.b64decode(attribute["BinaryValue"])
    return True


def _by_botocore(reply: Reply, operation: Any) -> dict[str, Any]:
    service = operation.service_model
    parser = create_parser(service.resolved_protocol)
    response: Mapping[str, Any] = {
        "headers": HeadersDict(reply.headers),
        "status_code": reply.status,
        "body": reply.body,
        "context": {"operation_name": operation.name},
    }
    document: dict[str, Any] = parser.parse(response, operation.output_shape)
    code = document.get("Error", {}).get("Code") if reply.status >= 300 else None
    shape = service.shape_for_error_code(code) if code is not None else None
    if shape is not None:
        document.update(parser.parse(response, shape))
    return document
