"""Our signature is the one that botocore makes."""

import datetime
from unittest import mock

import botocore.auth
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from tracebaton.queue.fastpath.signing import UNSIGNED, Keys, Signer

#: What an HTTP header may have for a value, spaces to fold included.
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30).map(
    str.strip
)
names = st.sampled_from(["X-Amz-Target", "Content-Type", "User-Agent", "x-amzn-query-mode", "B"])


@given(
    headers=st.dictionaries(names, values),
    body=st.binary(max_size=200),
    path=st.sampled_from(["/", "/base/", "/a.b/c~d"]),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,40}", fullmatch=True),
    secret=st.from_regex(r"[A-Za-z0-9+/]{1,40}", fullmatch=True),
    second=st.integers(min_value=0, max_value=4_000_000_000),
)
def test_the_authorization_is_botocores(
    headers: dict[str, str], body: bytes, path: str, token: str | None, secret: str, second: int
) -> None:
    """The same header for the same request, credentials and second."""
    request = AWSRequest("POST", f"https://sqs.eu-west-1.amazonaws.com{path}", headers, body)
    moment = datetime.datetime.fromtimestamp(second, datetime.UTC)
    credentials = ReadOnlyCredentials("AKID", secret, token)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        SigV4Auth(credentials, "sqs", "eu-west-1").add_auth(request)
    ours = {name.lower(): value for name, value in headers.items()}
    ours["host"] = "sqs.eu-west-1.amazonaws.com"

    signed = Signer(region="eu-west-1", service="sqs").signed(
        ours, body, path=path, keys=Keys("AKID", secret, token), now=second + 0.9
    )

    assert signed["authorization"] == request.headers["Authorization"]
    assert signed.get("x-amz-security-token") == request.headers["X-Amz-Security-Token"]


def test_another_secret_and_another_day_make_another_key() -> None:
    """What is kept of one signature never signs for other credentials or another day."""
    signer, days = Signer(region="eu-west-1", service="sqs"), (1e9, 1e9 + 86_400)
    keys = (Keys("AKID", "one", None), Keys("AKID", "two", None))
    signed = {
        signer.signed({"host": "h"}, b"", path="/", keys=key, now=day)["authorization"]
        for day in days
        for key in keys
    }
    again = signer.signed({"host": "h"}, b"", path="/", keys=keys[0], now=days[0])

    assert len(signed) == 4
    assert again["authorization"] in signed


def test_what_is_left_out_of_the_signature_is_botocores_choice() -> None:
    """The list of unsigned headers follows botocore's."""

    assert set(botocore.auth.SIGNED_HEADERS_BLACKLIST) <= UNSIGNED
