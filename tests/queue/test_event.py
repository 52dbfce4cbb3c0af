"""The message body: a CloudEvents 1.0 event in the JSON format."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebaton.errors import UndecodableMessage
from tracebaton.queue.event import TaskEvent, decode, encode, parse

EVENT = TaskEvent(
    id="0191",
    source="/tracebaton-api",
    type="ai.chat",
    time="2026-11-23T21:00:00Z",
    data={"message": "hi"},
    correlation_id="order-7",
    user_id="u 1/ü",
    delay_seconds=5,
    carrier={
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "baggage": "tracebaton.user_id=u%201",
    },
)
MINIMAL = {"specversion": "1.0", "id": "1", "source": "/a", "type": "t"}


def test_the_document_of_an_event() -> None:
    """The attributes of the contract, under their CloudEvents names."""

    assert json.loads(encode(EVENT)) == {
        "specversion": "1.0",
        "id": "0191",
        "source": "/tracebaton-api",
        "type": "ai.chat",
        "time": "2026-11-23T21:00:00Z",
        "datacontenttype": "application/json",
        "schemaversion": "1",
        "correlationid": "order-7",
        "userid": "u 1/ü",
        "delayseconds": 5,
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate": "vendor=1",
        "baggage": "tracebaton.user_id=u%201",
        "data": {"message": "hi"},
    }


def test_extension_names_are_legal() -> None:
    """CloudEvents allows lower-case letters and digits only."""

    assert [
        name for name in json.loads(encode(EVENT)) if not (name.isalnum() and name.islower())
    ] == []


def test_what_is_unset_is_left_out() -> None:
    """No null in the envelope."""
    event = TaskEvent(id="1", source="/a", type="t", time="", data=None)

    assert set(json.loads(encode(event))) == {
        "specversion",
        "id",
        "source",
        "type",
        "time",
        "datacontenttype",
        "schemaversion",
        "data",
    }


def test_an_event_comes_back_as_it_was() -> None:
    """Encode and decode are one another's inverse."""

    assert decode(encode(EVENT)) == EVENT


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(data=JSON, text=st.text(min_size=1), ids=st.none() | st.text())
def test_any_event_comes_back(data: Any, text: str, ids: str | None) -> None:
    """Whatever JSON the data is, and whatever text an id has."""
    event = replace(EVENT, id=text, data=data, correlation_id=ids, user_id=ids, carrier={})

    assert decode(encode(event)) == event


def test_data_that_json_does_not_know_is_refused() -> None:
    """NaN would be a document that others cannot read."""
    with pytest.raises(ValueError, match="JSON compliant"):
        encode(replace(EVENT, data=float("nan")))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "{",
        "[" * 100_000,
        "null",
        "3",
        "[]",
        "{}",
        json.dumps(MINIMAL | {"specversion": "0.3"}),
        json.dumps(MINIMAL | {"specversion": 1.0}),
    ],
    ids=lambda body: body[:20],
)
def test_what_is_no_event_is_undecodable(body: str) -> None:
    """Not JSON, nested too deep, no object, or of another version."""
    with pytest.raises(UndecodableMessage):
        decode(body)


@pytest.mark.parametrize("name", ["id", "source", "type"])
@pytest.mark.parametrize("value", [None, "", 7, ["x"], "a\ud800"])
def test_a_required_attribute_that_lacks_is_named(name: str, value: object) -> None:
    """Absent, empty, or of another type."""
    with pytest.raises(UndecodableMessage, match=f"lacks {name}"):
        decode(json.dumps(MINIMAL | {name: value}))


def test_a_minimal_foreign_event_is_read() -> None:
    """Everything optional has a default."""

    assert decode(json.dumps(MINIMAL)) == TaskEvent(
        id="1", source="/a", type="t", time="", data=None
    )


def test_extensions_of_another_type_are_ignored() -> None:
    """A forged envelope never puts an object where a string is expected."""
    forged = {
        "correlationid": 7,
        "userid": ["root"],
        "traceparent": {},
        "schemaversion": 2,
        "delayseconds": "5",
        "time": 0,
    }

    assert decode(json.dumps(MINIMAL | forged)) == decode(json.dumps(MINIMAL))


def test_extensions_that_are_no_unicode_are_ignored() -> None:
    """Half of a surrogate pair can be escaped in JSON, and nothing behind can write it."""
    names = ("correlationid", "userid", "time", "traceparent", "tracestate", "baggage")
    forged = dict.fromkeys(names, "a\ud800")

    assert decode(json.dumps(MINIMAL | forged)) == decode(json.dumps(MINIMAL))


@pytest.mark.parametrize("delay", [-1, 901, 10**400, 5.0, True, "5", None])
def test_a_delay_that_sqs_does_not_know_is_none(delay: object) -> None:
    """The sender cannot have asked for it."""

    assert decode(json.dumps(MINIMAL | {"delayseconds": delay})).delay_seconds == 0


def test_half_a_surrogate_pair_that_is_no_escape_is_read_like_one() -> None:
    """SNS can wrap one as text: an unfit message, and no mistake of ours."""
    with pytest.raises(UndecodableMessage):
        parse("\ud800")

    assert parse('{"text": "\ud800"}') == {"text": "\ud800"}
