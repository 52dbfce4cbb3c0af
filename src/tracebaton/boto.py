"""boto3's session, without what it would keep of services that nobody calls."""

from copy import deepcopy
from pathlib import PurePath
from typing import Any, Final

import boto3
import botocore.session
from botocore.loaders import JSONFileLoader

__all__ = ["session"]

#: The services that we call, and those that botocore gets credentials from.
_CALLED: Final = frozenset({"sqs", "dynamodb", "sts", "sso", "portal.sso", "oidc", "signin"})


def session() -> boto3.session.Session:
    """
    Return a session for clients of SQS and DynamoDB.

    botocore reads where each of its 400 services is in each region, and keeps it: 7 MB of a
    process's memory.
    """
    core = botocore.session.get_session()
    core.get_component("data_loader").file_loader = _Files()
    return boto3.session.Session(botocore_session=core)


class _Files(JSONFileLoader):
    """Reads botocore's data; of the endpoints those of services that are called."""

    def load_file(self, file_path: str) -> Any:
        data = super().load_file(file_path)
        if data is None or PurePath(file_path).name != "endpoints":
            return data
        # A copy, so that the whole is let go of in one piece and leaves no memory full of holes.
        return deepcopy({**data, "partitions": [_called(one) for one in data["partitions"]]})


def _called(partition: Any) -> Any:
    services = partition["services"].items()
    return {**partition, "services": {name: one for name, one in services if name in _CALLED}}
