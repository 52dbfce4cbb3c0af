"""
Whether a boto3 client is plain enough to be answered by us, and if not, why.

What we do not do (proxies, client certificates, other signatures, other people's handlers on the
events that we pass over, such as those of moto and of plugins) is botocore's, as it always was.
Some of it stands in attributes that botocore does not promise: where one is not as we know it, the
client counts as not plain.
"""

import functools
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from botocore.httpsession import URLLib3Session, create_urllib3_context, get_cert_path
from botocore.utils import get_environ_proxies

__all__ = ["PREPARING", "foreign_handlers", "obstacles", "tls_context", "verify_of"]

#: Events that a call answered by us does not emit, or emits where nobody new may listen.
_PASSED_OVER = (
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "before-parse",
    "response-received",
    "needs-retry",
    "after-call-error",
)
#: Events while a call is prepared, which is not done anew for each call on the loop.
PREPARING = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
)


def obstacles(client: Any, operations: tuple[str, ...]) -> Iterator[str]:
    """Yield why *client* is not plain, nothing where it is."""
    config, url = client.meta.config, client.meta.endpoint_url
    scheme = urlsplit(url).scheme
    if client.meta.service_model.resolved_protocol != "json":
        yield "the protocol is not JSON"
    proxies = get_environ_proxies(url) if config.proxies is None else config.proxies
    if proxies.get(scheme):
        yield "a proxy stands before the endpoint"
    if config.client_cert is not None:
        yield "the client has a certificate"
    if (config.retries or {}).get("mode") == "adaptive":
        yield "adaptive retries meter the sending"
    try:
        yield from _foreign(client, operations)
    except AttributeError as exc:  # not the botocore that we know
        yield f"botocore has changed: {exc}"


def verify_of(client: Any) -> bool | str:
    """Return whether and by which CA bundle *client* verifies, every setting considered."""
    verify: bool | str = client._endpoint.http_session._verify
    return verify


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return botocore's own TLS settings, with the host name checked in the handshake."""
    context: ssl.SSLContext = create_urllib3_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.check_hostname = True
    context.hostname_checks_common_name = False
    context.verify_mode = ssl.CERT_REQUIRED
    bundle: Any = get_cert_path(verify)  # type: ignore[arg-type]  # stubs forget the path
    context.load_verify_locations(cafile=bundle)
    return context


def _foreign(client: Any, operations: tuple[str, ...]) -> Iterator[str]:
    session = client._endpoint.http_session
    if type(session) is not URLLib3Session or not _botocores(session.send):
        yield "the HTTP session is not botocore's"
    _ = verify_of(client)
    for operation in operations:
        yield from foreign_handlers(client, _PASSED_OVER, operation)


def foreign_handlers(client: Any, events: tuple[str, ...], operation: str) -> Iterator[str]:
    """Yield who listens to *events* of *operation* and is not botocore."""
    service = client.meta.service_model.service_id.hyphenize()
    emitter = client.meta.events
    handlers = getattr(emitter, "_emitter", emitter)._handlers
    for event in events:
        for handler in handlers.prefix_search(f"{event}.{service}.{operation}"):
            if event == "before-send" or not _botocores(handler):
                yield f"{_name(handler)} listens to {event}"


def _botocores(handler: Any) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    module = getattr(handler, "__module__", None) or type(handler).__module__
    return module.partition(".")[0] in {"botocore", "tracebaton"}


def _name(handler: Any) -> str:
    name = getattr(handler, "__qualname__", type(handler).__qualname__)
    return f"{getattr(handler, '__module__', '')}.{name}"
