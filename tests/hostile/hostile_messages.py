"""Messages that nobody should send, as far as SQS takes them."""

import base64
import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from .hostile_requests import SPAN, TRACE, weighted

#: Who every forger wants to be.
VICTIM = "victim"
#: Stands for the id of a task that waits in the store.
WAITING = "id-of-a-waiting-task"


@dataclass(frozen=True)
class HostileMessage:
    """
    One message.

    Attributes:
        attributes: Name, data type and value of each.
        header: ``AWSTraceHeader``.
    """

    body: str
    attributes: tuple[tuple[str, str, str | bytes], ...] = ()
    header: str | None = None

    def entry(self, number: int) -> dict[str, Any]:
        """Return the entry of a batch."""
        entry: dict[str, Any] = {
            "Id": str(number),
            "MessageBody": self.body,
            "MessageAttributes": {
                name: {"DataType": kind, **_wire(value)} for name, kind, value in self.attributes
            },
        }
        if self.header is not None:
            value = {"DataType": "String", "StringValue": self.header}
            entry["MessageSystemAttributes"] = {"AWSTraceHeader": value}
        return entry

    def document(self) -> Any:
        """Return the body's JSON document, without SNS around it; None where it is none."""
        try:
            found = json.loads(self.body)
            if isinstance(found, dict) and found.get("Type") == "Notification":
                inner = found.get("Message")
                return json.loads(inner) if isinstance(inner, str) else found
        except (ValueError, RecursionError):
            return None
        return found

    @property
    def is_event(self) -> bool:
        """Tell whether it means to be one of ours."""
        document = self.document()
        return isinstance(document, dict) and "specversion" in document


def _wire(value: str | bytes) -> dict[str, str]:
    if isinstance(value, bytes):
        return {"BinaryValue": base64.b64encode(value).decode()}
    return {"StringValue": value}


_odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        (
            "",
            " ",
            "\ud800",
            "a\x00b",
            "\x1b[31m",
            "x" * 300,
            "y" * 70_000,
            "é" * 40,
            "1.0",
            "../../etc/passwd",
            "%s{0.__class__}",
            10**30,
            -(10**30),
            10**400,
            1e308,
            [],
            {},
            [[[]]],
            {"a": {"b": []}},
            VICTIM,
        )
    ),
)
_ids = st.one_of(st.uuids().map(str), _odd)
_traceparents = st.sampled_from(
    (
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{'0' * 32}-{SPAN}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        "x" * 5_000,
        "-",
    )
)
_baggages = st.sampled_from(
    (
        f"tracebaton.user_id={VICTIM}",
        f"tracebaton.user_id={VICTIM},tracebaton.correlation_id=taken,tracebaton.task_id=t",
        "tracebaton.correlation_id=%zz",
        "tracebaton.user_id=%ff%fe",
        "tracebaton.user_id=%00%1b",
        "a=b," * 2_000,
        "=,=;;",
        f"sentry-trace_id={TRACE},sentry-public_key=other,sentry-sampled=true",
    )
)
_FIELDS = (
    ("specversion", st.sampled_from(("1.0", "1.0", "1.0", "0.3", 1.0, None, "2.0"))),
    ("id", _ids),
    ("source", st.one_of(st.just("/api"), _odd)),
    (
        "type",
        st.sampled_from(("note", "note", "note", "nosuch", "", None, 7, "note ", "NOTE", "\ud800")),
    ),
    (
        "time",
        st.sampled_from(("2026-01-01T00:00:00Z", "yesterday", "", None, 0, "9999-99-99", "+1")),
    ),
    ("datacontenttype", st.sampled_from(("application/json", "text/xml", None))),
    ("schemaversion", st.sampled_from(("1", "1", "1", "2", 1, None, ""))),
    ("correlationid", st.one_of(st.sampled_from(("order-7", "a b", "x" * 200, "\n")), _odd)),
    ("userid", st.one_of(st.just(VICTIM), _odd)),
    ("delayseconds", st.one_of(st.integers(-5, 900), _odd)),
    ("propagate", st.sampled_from(("parent", "link", "none", "all", None, 1))),
    ("traceparent", _traceparents | _odd),
    ("tracestate", _odd),
    ("baggage", _baggages | _odd),
    ("signature", st.sampled_from(("v1=" + "0" * 64, "v1=", "v2=x", 1, "\ud800"))),
)
_data = weighted(
    (4, st.just({"text": "hello", "number": 1})),
    (
        1,
        st.fixed_dictionaries(
            {}, optional={"text": _odd, "number": _odd, "tags": _odd, "when": _odd}
        ),
    ),
    (1, _odd),
)


_gone = st.sampled_from(((), (), (), (), ("id",), ("specversion",), ("data",), ("type",)))


@st.composite
def _events(draw: Any) -> dict[str, Any]:
    """A CloudEvents event with a few of its fields changed, or gone."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": WAITING,
        "source": "/api",
        "type": "note",
        "schemaversion": "1",
        "data": draw(_data),
    }
    for name, values in draw(st.lists(st.sampled_from(_FIELDS), max_size=2)):
        event[name] = draw(values)
    for name in draw(_gone):
        event.pop(name, None)
    return event


_plain = st.recursive(
    _odd,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_foreign = st.one_of(st.fixed_dictionaries({"kind": _odd | st.just("note"), "text": _odd}), _plain)


def _dumped(value: Any) -> str:
    return json.dumps(value)


def _notification(value: Any, attributes: Any, message_id: Any) -> str:
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": message_id,
            "TopicArn": "arn:aws:sns:us-east-1:000000000000:t",
            "Message": value,
            "MessageAttributes": attributes,
        }
    )


_sns_attributes = st.one_of(
    st.none(),
    _odd,
    st.dictionaries(
        st.sampled_from(("traceparent", "baggage", "x")),
        st.fixed_dictionaries(
            {"Type": st.sampled_from(("String", "Binary", None)), "Value": _baggages | _odd}
        ),
        max_size=2,
    ),
)
#: What SQS refuses in a body anyway is taken out.
_text = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\ufffe\uffff", min_codepoint=32),
    min_size=1,
    max_size=60,
)
_known = st.sampled_from(
    (
        "[" * 100_000,
        '{"a":' * 5_000 + "1" + "}" * 5_000,
        '{"specversion": "1.0", "id": "a", "source": "b", "type": "note", "data": NaN}',
        '{"specversion": "1.0", "id": "a", "source": "b", "type": "note", "data": 1e999}',
        '{"id": "' + "x" * 200_000 + '"}',
        "9" * 5_000,
        "\ufeff{}",
        "null",
        '""',
        "{",
        '{"specversion": "1.0", "specversion": "2.0"}',
        " ",
    )
)
_bodies = weighted(
    (6, _events().map(_dumped)),
    (2, _foreign.map(_dumped)),
    (
        1,
        st.builds(
            _notification,
            st.one_of(_events(), _foreign).map(_dumped),
            _sns_attributes,
            st.one_of(st.uuids().map(str), _odd),
        ),
    ),
    (1, st.builds(_notification, _odd, _sns_attributes, st.uuids().map(str))),
    (1, st.tuples(_events().map(_dumped), st.integers(1, 30)).map(lambda two: two[0][: -two[1]])),
    (1, _text),
    (1, _known),
)
_attributes = st.one_of(
    st.tuples(st.just("traceparent"), st.just("String"), _traceparents),
    st.tuples(st.just("baggage"), st.just("String"), _baggages),
    st.tuples(st.just("tracestate"), st.just("String"), st.sampled_from(("a=1", "=", "x" * 600))),
    st.tuples(
        st.sampled_from(("traceparent", "baggage", "sentry-trace", "tracebaton-signature", "b")),
        st.sampled_from(("Binary", "Binary.png")),
        st.binary(min_size=1, max_size=30),
    ),
    st.tuples(st.just("n"), st.just("Number.int"), st.sampled_from(("1", "-1e9", "0.1"))),
    st.tuples(
        st.sampled_from(
            (
                "tracebaton-signature",
                "tracebaton-reason",
                "tracebaton-detail",
                "tracebaton-quarantine",
                "sentry-trace",
                "user_id",
            )
        ),
        st.just("String"),
        st.one_of(_text, st.sampled_from(("v1=" + "0" * 64, "{}", "[]", '{"attributes": 1}'))),
    ),
    st.tuples(
        st.integers(0, 12).map("own.{}".format), st.sampled_from(("String", "String.label")), _text
    ),
)
messages = st.builds(
    HostileMessage,
    _bodies,
    weighted(
        (2, st.just(())),
        (2, st.lists(_attributes, max_size=2, unique_by=lambda one: one[0]).map(tuple)),
        (1, st.lists(_attributes, max_size=10, unique_by=lambda one: one[0]).map(tuple)),
    ),
    st.sampled_from(
        (None, None, f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={SPAN};Sampled=1", "Root=;;", "x")
    ),
)
