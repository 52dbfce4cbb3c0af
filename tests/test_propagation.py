"""The propagator: what is joined, what is believed, what is written, and to whom."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as otel
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.instrumentation.asgi import asgi_getter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from tracebaton.baggage import incoming_sentry_members
from tracebaton.context import RequestStore, current, detach, entered
from tracebaton.context import attach as attach_store
from tracebaton.propagation import Propagator, trusted_parent, undecided_parent

TRACE = "12345678901234567890123456789012"
SPAN = "1234567890123456"
PARENT = f"00-{TRACE}-{SPAN}-01"


@dataclass(frozen=True)
class Members:
    """Sentry's side as the propagator sees it."""

    public_key: str = "ours"
    org: str | None = "42"
    own: tuple[tuple[str, str], ...] = (("sentry-transaction", "POST /v1/{x}"),)

    def items(self, context: Context) -> Sequence[tuple[str, str]]:
        return incoming_sentry_members(context) or self.own


def extracted(
    *headers: tuple[str, str], propagator: Propagator | None = None, context: Context | None = None
) -> Context:
    """Return what the propagator makes of an ASGI request with *headers*."""
    scope = {"headers": [(key.encode(), value.encode("latin-1")) for key, value in headers]}
    return (propagator or Propagator()).extract(
        scope, Context() if context is None else context, asgi_getter
    )


def parent_of(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def in_span(span: SpanContext, context: Context | None = None) -> Context:
    return trace.set_span_in_context(NonRecordingSpan(span), context or Context())


def span_context(*, flags: int = 1, state: TraceState | None = None) -> SpanContext:
    return SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(flags), state)


class TestTraceparent:
    """W3C Trace Context, level 2."""

    @pytest.mark.parametrize(
        ("value", "flags"),
        [
            (PARENT, 1),
            (f"00-{TRACE}-{SPAN}-00", 0),
            (f"00-{TRACE}-{SPAN}-02", 2),
            (f"00-{TRACE}-{SPAN}-03", 3),
            (f"00-{TRACE}-{SPAN}-ff", 3),
            (f"cc-{TRACE}-{SPAN}-01", 1),
            (f"cc-{TRACE}-{SPAN}-01-", 1),
            (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
            (f"\t {PARENT} \t", 1),
        ],
    )
    def test_a_valid_one_is_the_parent(self, value: str, flags: int) -> None:
        """Flags beyond level 2 are not passed on, a future version's tail is not looked at."""
        parent = parent_of(extracted(("traceparent", value)))

        assert (f"{parent.trace_id:032x}", f"{parent.span_id:016x}") == (TRACE, SPAN)
        assert parent.is_remote
        assert parent.trace_flags == flags

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "garbage",
            f"ff-{TRACE}-{SPAN}-01",
            f"{PARENT}.",
            f"{PARENT}-tail",
            f"cc-{TRACE}-{SPAN}-01.tail",
            f"000-{TRACE}-{SPAN}-01",
            f"0-{TRACE}-{SPAN}-01",
            f".0-{TRACE}-{SPAN}-01",
            f"00-{TRACE[:-1]}-{SPAN}-01",
            f"00-{TRACE}0-{SPAN}-01",
            f"00-{'0' * 32}-{SPAN}-01",
            f"00-{TRACE}-{'0' * 16}-01",
            f"00-{TRACE}-{SPAN[:-1]}-01",
            f"00-{TRACE}-{SPAN}0-01",
            f"00-{TRACE}-{SPAN}-1",
            f"00-{TRACE}-{SPAN}-001",
            f"00-{TRACE}-{SPAN}-.0",
            f"00-{'A' * 32}-{SPAN}-01",
            f"00-{'١' * 32}-{SPAN}-01".encode().decode("latin-1"),
            f"{PARENT}\n",
        ],
    )
    def test_a_malformed_one_is_no_parent(self, value: str) -> None:
        """A wrong length, digit, version or zero id starts a new trace and fails nothing."""
        assert not parent_of(extracted(("traceparent", value))).is_valid

    def test_two_headers_are_no_parent(self) -> None:
        """Nobody can tell which of the two is true."""
        context = extracted(("traceparent", PARENT), ("traceparent", PARENT))

        assert not parent_of(context).is_valid

    @settings(max_examples=200, deadline=None)
    @given(st.text(max_size=80))
    def test_no_text_raises_or_becomes_an_invalid_id(self, text: str) -> None:
        """Whatever arrives, there is a valid remote parent or none."""
        parent = parent_of(Propagator().extract({"traceparent": text}, Context()))

        assert parent.is_valid == parent.is_remote

    def test_the_tracestate_alone_is_nothing(self) -> None:
        """Without a parent there is no state to keep."""
        assert extracted(("tracestate", "a=1")) == Context()


class TestTracestate:
    """The combined header, by the letter or, where they differ, by the W3C's suite."""

    @pytest.mark.parametrize(
        ("headers", "expected"),
        [
            (["foo=1,bar=2"], "foo=1,bar=2"),
            (["foo=1", "", "bar=2,baz=3"], "foo=1,bar=2,baz=3"),
            (["foo=1 \t,\t bar=2", "\tbaz=3 "], "foo=1,bar=2,baz=3"),
            (["foo=1,foo=2"], "foo=1"),
            (["foo=1", "foo=1"], "foo=1"),
            (["foo@=1,a@@b=2,0key=3,a-*/_=4"], "foo@=1,a@@b=2,0key=3,a-*/_=4"),
            (["foo= spaced out"], "foo= spaced out"),
            (["z" * 256 + "=1"], "z" * 256 + "=1"),
            ([",".join(f"k{n}=1" for n in range(32))], ",".join(f"k{n}=1" for n in range(32))),
            ([], ""),
            ([""], ""),
        ],
    )
    def test_a_valid_one_travels_on(self, headers: list[str], expected: str) -> None:
        """Several headers are one list in order; of a repeated key the first stays."""
        context = extracted(("traceparent", PARENT), *(("tracestate", one) for one in headers))

        carrier = Propagator().inject_message(context)

        assert carrier.get("tracestate", "") == expected
        assert carrier["traceparent"] == PARENT

    @pytest.mark.parametrize(
        "value",
        [
            "foo =1",
            "FOO=1",
            "foo.bar=1,bar=2",
            "@foo=1,bar=2",
            "z" * 257 + "=1,foo=1",
            "foo=bar=baz",
            "foo=,bar=3",
            "foo=ü,bar=3",
            "foo=" + "v" * 257,
            ",".join(f"k{n}=1" for n in range(33)),
        ],
    )
    def test_one_wrong_member_discards_all_but_not_the_parent(self, value: str) -> None:
        """The trace goes on without its vendors' states."""
        context = extracted(("traceparent", PARENT), ("tracestate", value))

        assert Propagator().inject_message(context) == {"traceparent": PARENT}

    def test_a_long_one_is_cut_by_whole_entries(self) -> None:
        """Entries over 128 characters go first, then the oldest at the end, down to 512."""
        long, short = f"long={'x' * 130}", [f"k{n:02}={'v' * 26}" for n in range(20)]
        context = extracted(("traceparent", PARENT), ("tracestate", ",".join([long, *short])))

        state = Propagator().inject_message(context)["tracestate"]

        assert state == ",".join(short[:16])
        assert len(state) <= 512

    def test_a_single_long_entry_stays(self) -> None:
        """An entry is passed on whole or not at all, and one is better than none."""
        entry = f"{'k' * 256}={'v' * 256}"
        context = extracted(("traceparent", PARENT), ("tracestate", entry))

        assert Propagator().inject_message(context)["tracestate"] == entry

    def test_it_can_be_changed_like_any_other(self) -> None:
        """A vendor's library adds its entry in front, as the API promises."""
        context = extracted(("traceparent", PARENT), ("tracestate", "a=1,b=2"))

        state = parent_of(context).trace_state.update("b", "3").add("c", "4").delete("a")

        assert state.to_header() == "c=4,b=3"


class TestSentryTrace:
    """A caller that speaks Sentry's own header only, such as its browser SDK."""

    @pytest.mark.parametrize(
        ("value", "flags", "is_open"),
        [
            (f"{TRACE}-{SPAN}-1", 1, False),
            (f"{TRACE}-{SPAN}-0", 0, False),
            (f"{TRACE}-{SPAN}", 0, True),
        ],
    )
    def test_alone_it_names_the_parent(self, value: str, flags: int, is_open: bool) -> None:
        """Without a flag the decision is left open."""
        context = extracted(("sentry-trace", value))

        assert parent_of(context).trace_flags == flags
        assert (undecided_parent(context), trusted_parent(context)) == (is_open, False)

    @pytest.mark.parametrize("value", ["", f"{'0' * 32}-{SPAN}", f"{TRACE}-{SPAN}-2", "x-y-1"])
    def test_a_malformed_one_is_no_parent(self, value: str) -> None:
        """It fails nothing."""
        assert not parent_of(extracted(("sentry-trace", value))).is_valid

    def test_the_traceparent_wins_and_a_stale_one_is_ignored_whole(self) -> None:
        """Its baggage members belong to the other trace, so they go too."""
        propagator = Propagator(sentry=Members())
        context = extracted(
            ("traceparent", PARENT),
            ("sentry-trace", f"{'a' * 32}-{SPAN}-1"),
            ("baggage", f"sentry-public_key=ours,sentry-trace_id={'a' * 32}"),
            propagator=propagator,
        )

        assert f"{parent_of(context).trace_id:032x}" == TRACE
        assert incoming_sentry_members(context) == ()

    def test_the_same_trace_keeps_its_members(self) -> None:
        """traceparent and sentry-trace of one trace agree."""
        context = extracted(
            ("traceparent", PARENT),
            ("sentry-trace", f"{TRACE}-{SPAN}-1"),
            ("baggage", f"sentry-public_key=ours,sentry-trace_id={TRACE}"),
            propagator=Propagator(sentry=Members()),
        )

        assert dict(incoming_sentry_members(context)) == {
            "sentry-public_key": "ours",
            "sentry-trace_id": TRACE,
        }

    @pytest.mark.parametrize(
        ("header", "is_ours"),
        [
            ("sentry-public_key=ours,sentry-sampled=true", True),
            ("sentry-public_key=theirs,sentry-org_id=42", True),
            ("sentry-public_key=theirs,sentry-org_id=43", False),
            ("sentry-sampled=true", False),
        ],
    )
    def test_members_are_kept_by_public_key_or_org(self, header: str, is_ours: bool) -> None:
        """Another project's sampling context would skew ours."""
        context = extracted(("baggage", header), propagator=Propagator(sentry=Members()))

        assert bool(incoming_sentry_members(context)) == is_ours

    def test_without_sentry_no_members_are_kept(self) -> None:
        """There is no key of ours to compare with."""
        assert extracted(("baggage", "sentry-public_key=ours")) == Context()

    def test_without_an_org_no_org_matches(self) -> None:
        """A self-hosted DSN names none."""
        propagator = Propagator(sentry=Members(org=None))

        assert extracted(("baggage", "sentry-org_id="), propagator=propagator) == Context()


class TestInboundTrust:
    """What an HTTP caller cannot tell us."""

    def test_baggage_is_dropped(self) -> None:
        """Neither the store's keys nor anybody else's get in."""
        context = extracted(("baggage", "tracebaton.user_id=root,user_id=root,vendor=1"))

        assert context == Context()

    def test_an_allowed_key_passes_untouched_to_the_queue(self) -> None:
        """Properties and encoding of the member stay as they came."""
        propagator = Propagator(trust_baggage=frozenset({"vendor"}))
        context = extracted(
            ("baggage", "vendor = a%20b;ttl=5 , other=2"), ("baggage", "x="), propagator=propagator
        )

        assert baggage.get_all(context) == {"vendor": "a b"}
        assert propagator.inject_message(context) == {"baggage": "vendor = a%20b;ttl=5"}

    def test_the_store_keys_cannot_be_allowed(self) -> None:
        """A slip in the settings does not hand out user ids."""
        names = frozenset({"tracebaton.user_id", "sentry-public_key"})
        context = extracted(
            ("baggage", "tracebaton.user_id=root,sentry-public_key=k"),
            propagator=Propagator(trust_baggage=names),
        )

        assert context == Context()

    def test_the_callers_flag_is_marked_as_an_outsiders(self) -> None:
        """Even inside a context that came by the queue."""
        queue = Propagator().extract_message({"traceparent": PARENT}).context

        context = extracted(("traceparent", PARENT), context=queue)

        assert trusted_parent(queue)
        assert not trusted_parent(context)

    def test_the_current_context_survives(self) -> None:
        """contrib's middleware gives no context: ours with the store's cell is the current one."""
        token = attach_store(RequestStore(correlation_id="c-1"))
        try:
            context = Propagator().extract({"traceparent": PARENT})
            inner = otel.attach(context)
            seen = current().correlation_id
            otel.detach(inner)
        finally:
            detach(token)

        assert seen == "c-1"
        assert parent_of(context).is_valid

    def test_a_getter_that_fails_costs_nothing(self) -> None:
        """The request goes on as if it had no headers."""

        class Broken(Getter[object]):
            def get(self, carrier: object, key: str) -> list[str] | None:
                raise RuntimeError("no headers here")

            def keys(self, carrier: object) -> list[str]:
                return []

        assert Propagator().extract(object(), Context(), Broken()) == Context()

    @pytest.mark.parametrize("name", ["tracestate", "baggage", "sentry-trace"])
    def test_a_header_that_cannot_be_read_costs_no_other(self, name: str) -> None:
        """The stock getter gives up on bytes that are neither UTF-8 nor Python's escapes."""
        context = extracted(("traceparent", PARENT), (name, "\\\x80"))

        assert parent_of(context) == parent_of(extracted(("traceparent", PARENT)))

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["traceparent", "tracestate", "baggage", "sentry-trace"]),
                st.text(st.characters(max_codepoint=255), max_size=300),
            ),
            max_size=6,
        )
    )
    def test_hostile_headers_fail_nothing(self, headers: list[tuple[str, str]]) -> None:
        """No header raises, and none makes a store field."""
        propagator = Propagator(trust_baggage=frozenset("abc"), sentry=Members())
        context = extracted(*headers, propagator=propagator)

        with entered(RequestStore(), context):
            assert current() == RequestStore()
            carrier = propagator.inject_message()

        assert len(carrier.get("baggage", "")) <= 8192

    def test_nothing_of_an_attackers_header_is_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A 9 kB header would otherwise be 9 kB of log a request."""
        caplog.set_level(0)
        extracted(
            ("traceparent", "x" * 9000),
            ("tracestate", "y" * 9000),
            ("baggage", "z" * 9000),
            ("sentry-trace", "w" * 9000),
        )

        assert caplog.records == []

    def test_an_oversized_header_is_cut_at_a_whole_member(self) -> None:
        """Half a value would be another value."""
        propagator = Propagator(trust_baggage=frozenset({"a", "b"}))
        header = f"a=1,pad={'x' * 8175},b=cut-here"

        context = extracted(("baggage", header), propagator=propagator)

        assert baggage.get_all(context) == {"a": "1"}


class TestOutboundHttp:
    """What another host learns from us."""

    @staticmethod
    def sent(
        propagator: Propagator,
        *,
        kind: SpanKind = SpanKind.CLIENT,
        attributes: dict[str, Any] | None = None,
    ) -> dict[str, str]:
        """Return the headers of a call made in a span with *attributes*."""
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        carrier: dict[str, str] = {}
        with (
            entered(RequestStore(correlation_id="c-1", user_id="u-1")),
            tracer.start_as_current_span("GET", kind=kind, attributes=attributes),
        ):
            propagator.inject(carrier)
        return carrier

    def test_the_trace_goes_to_every_host_and_baggage_to_none(self) -> None:
        """The default: no id leaves the house."""
        carrier = self.sent(Propagator(), attributes={"server.address": "other.example"})

        assert list(carrier) == ["traceparent"]

    @pytest.mark.parametrize(
        ("attributes", "has_baggage"),
        [
            ({"server.address": "INNER.example"}, True),
            ({"url.full": "https://inner.example:8443/x"}, True),
            ({"http.url": "https://inner.example/x"}, True),
            ({"server.address": "other.example"}, False),
            ({"server.address": "inner.example.evil.example"}, False),
            ({}, False),
        ],
    )
    def test_baggage_goes_to_the_named_hosts_only(
        self, attributes: dict[str, Any], has_baggage: bool
    ) -> None:
        """The host is that of the client span, in either generation of conventions."""
        propagator = Propagator(propagate_baggage_to=frozenset({"inner.example"}))

        carrier = self.sent(propagator, attributes=attributes)

        assert ("baggage" in carrier) == has_baggage

    @pytest.mark.parametrize(
        ("hosts", "expected"),
        [
            (None, {"traceparent"}),
            (frozenset({"Inner.example"}), {"traceparent"}),
            (frozenset({"other.example"}), set()),
            (frozenset(), set()),
        ],
    )
    def test_the_trace_goes_to_the_allowed_hosts_only(
        self, hosts: frozenset[str] | None, expected: set[str]
    ) -> None:
        """Without a list to every host; with one, others get nothing."""
        propagator = Propagator(propagate_trace_to=hosts)

        carrier = self.sent(propagator, attributes={"server.address": "inner.example"})

        assert set(carrier) == expected

    def test_baggage_alone_goes_nowhere(self) -> None:
        """A host that may not know the trace does not get the ids either."""
        propagator = Propagator(
            propagate_trace_to=frozenset({"other.example"}),
            propagate_baggage_to=frozenset({"inner.example"}),
        )

        assert self.sent(propagator, attributes={"server.address": "inner.example"}) == {}

    def test_a_carrier_of_no_known_host_gets_nothing(self) -> None:
        """With a list, what is not a call to a listed host is not told."""
        propagator = Propagator(propagate_trace_to=frozenset({"inner.example"}))

        assert self.sent(propagator, kind=SpanKind.SERVER) == {}

    def test_the_callers_host_header_opens_nothing(self) -> None:
        """On a SERVER span server.address is what the caller wrote into Host."""
        propagator = Propagator(propagate_baggage_to=frozenset({"inner.example"}))

        carrier = self.sent(
            propagator, kind=SpanKind.SERVER, attributes={"server.address": "inner.example"}
        )

        assert "baggage" not in carrier

    @pytest.mark.parametrize("flags", [0, 1])
    def test_sentry_trace_is_written_where_sentry_is_active(self, flags: int) -> None:
        """An unsampled trace says so."""
        carrier: dict[str, str] = {}

        Propagator(sentry=Members()).inject(carrier, in_span(span_context(flags=flags)))

        assert carrier == {
            "traceparent": f"00-{TRACE}-{SPAN}-0{flags}",
            "sentry-trace": f"{TRACE}-{SPAN}-{flags}",
        }

    def test_outside_a_span_nothing_is_written(self) -> None:
        """There is no trace to join."""
        carrier: dict[str, str] = {}

        Propagator(sentry=Members()).inject(carrier, Context())

        assert carrier == {}

    def test_its_fields_are_the_headers(self) -> None:
        """Carriers that are reused are cleared by this list."""
        assert Propagator().fields == {"traceparent", "tracestate", "baggage", "sentry-trace"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant(RequestStore):
    tenant: str | None = None


class TestMessages:
    """The queue: the store travels, the decision is ours."""

    def test_the_store_makes_the_round_trip(self) -> None:
        """Any user id, custom fields included, is the same on the other side."""
        store = Tenant(
            correlation_id="c:1", user_id="ü +,;=%/🎈", task_id="t-1", attempt=3, tenant="a b"
        )
        with entered(store, in_span(span_context())):
            carrier = Propagator().inject_message()

        message = Propagator().extract_message(carrier)

        assert message.fields == {
            "correlation_id": "c:1",
            "user_id": "ü +,;=%/🎈",
            "task_id": "t-1",
            "tenant": "a b",
        }
        assert message.parent.is_remote
        assert trusted_parent(message.context)
        assert "+" not in carrier["baggage"]

    @settings(max_examples=100, deadline=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
    def test_stock_readers_understand_our_encoding(self, user_id: str) -> None:
        """Python's own propagator, which reads a plus as a space, gets the same text."""
        with entered(RequestStore(user_id=user_id)):
            carrier = Propagator().inject_message()

        stock = baggage.get_all(W3CBaggagePropagator().extract(carrier, Context()))

        assert stock.get("tracebaton.user_id", "") == user_id.strip() or not user_id.strip()
        assert Propagator().extract_message(carrier).fields == {"user_id": user_id}

    def test_nothing_to_carry_is_an_empty_carrier(self) -> None:
        """Outside a request and a span."""
        assert Propagator().inject_message(Context()) == {}

    def test_no_message_raises(self) -> None:
        """An empty carrier is a new trace without ids."""
        message = Propagator().extract_message({})

        assert (message.parent.is_valid, message.fields, message.foreign) == (False, {}, {})

    @settings(max_examples=150, deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from(["traceparent", "tracestate", "baggage", "sentry-trace"]),
            st.text(max_size=200),
        ),
        st.text(max_size=80),
        st.booleans(),
    )
    def test_hostile_messages_fail_nothing(
        self, carrier: dict[str, str], header: str, own: bool
    ) -> None:
        """Whatever stands in the attributes, the message can be handled."""
        message = Propagator().extract_message(carrier, aws_trace_header=header, own=own)

        assert own or "user_id" not in message.fields

    def test_a_foreign_message_names_no_user(self) -> None:
        """It keeps its trace and its correlation id; other members need the allow-list."""
        carrier = {
            "traceparent": PARENT,
            "baggage": "tracebaton.user_id=root,tracebaton.correlation_id=c-1,a=1,b=2",
        }
        propagator = Propagator(trust_baggage=frozenset({"b"}))

        message = propagator.extract_message(carrier, own=False)

        assert message.fields == {"correlation_id": "c-1"}
        assert message.foreign == {"b": "2"}
        assert trusted_parent(message.context)

    def test_an_invalid_correlation_id_is_dropped(self) -> None:
        """It would be repeated in headers and logs."""
        message = Propagator().extract_message({"baggage": "tracebaton.correlation_id=a%0Ab"})

        assert message.fields == {}

    def test_foreign_members_of_our_own_messages_travel_on(self) -> None:
        """Queue to queue, in the text they came in."""
        message = Propagator().extract_message({"baggage": "vendor=a%20b;p=1"})

        assert message.foreign == {"vendor": "a b"}
        assert Propagator().inject_message(message.context) == {"baggage": "vendor=a%20b;p=1"}

    def test_baggage_set_by_the_application_is_sent(self) -> None:
        """OpenTelemetry's own API works; a changed member goes out with its new value."""
        context = Propagator().extract_message({"baggage": "vendor=old;p=1"}).context
        context = baggage.set_baggage("vendor", "new", context)
        context = baggage.set_baggage("tenant", "a b", context)
        context = baggage.set_baggage("not a key", "x", context)
        context = baggage.set_baggage("tracebaton.user_id", "root", context)

        assert Propagator().inject_message(context) == {"baggage": "vendor=new,tenant=a%20b"}

    def test_sentry_members_travel_frozen(self) -> None:
        """With Sentry, and through a process without it."""
        members = f"sentry-public_key=ours,sentry-trace_id={TRACE}"
        carrier = {"traceparent": PARENT, "baggage": members}

        for propagator in (Propagator(sentry=Members()), Propagator()):
            context = propagator.extract_message(carrier).context
            assert propagator.inject_message(context)["baggage"] == members

    def test_anothers_sentry_members_end_here(self) -> None:
        """Ours take their place."""
        carrier = {"traceparent": PARENT, "baggage": "sentry-public_key=theirs"}
        propagator = Propagator(sentry=Members())

        context = propagator.extract_message(carrier).context

        assert propagator.inject_message(context)["baggage"] == (
            "sentry-transaction=POST%20%2Fv1%2F%7Bx%7D"
        )

    def test_a_foreign_messages_sentry_members_need_sentry_to_be_judged(self) -> None:
        """A process without a DSN has no key to compare with."""
        message = Propagator().extract_message({"baggage": "sentry-public_key=x"}, own=False)

        assert incoming_sentry_members(message.context) == ()

    def test_what_does_not_fit_is_left_out_our_own_first(self) -> None:
        """8192 bytes: the store, then Sentry's members as a whole, then what is foreign."""
        big = Members(own=tuple((f"sentry-{n}", "x" * 4000) for n in range(2)))
        context = baggage.set_baggage("vendor", "v" * 100, Context())
        with entered(RequestStore(correlation_id="c-1", user_id="u" * 200), context):
            carrier = Propagator(sentry=big).inject_message()

        members = [member.partition("=")[0] for member in carrier["baggage"].split(",")]

        assert members == ["tracebaton.correlation_id", "tracebaton.user_id", "vendor"]

    def test_a_store_larger_than_the_limit_loses_its_largest_field_only(self) -> None:
        """Telemetry never makes a send fail."""
        with entered(RequestStore(correlation_id="c-1", user_id="u" * 9000, task_id="t")):
            carrier = Propagator().inject_message()

        assert carrier == {"baggage": "tracebaton.correlation_id=c-1,tracebaton.task_id=t"}


class TestAwsTraceHeader:
    """The last resort: what AWS services write themselves."""

    ROOT = f"Root=1-{TRACE[:8]}-{TRACE[8:]}"

    @pytest.mark.parametrize(
        ("header", "flags"),
        [
            (f"{ROOT};Parent={SPAN};Sampled=1", 1),
            (f"Parent={SPAN}; {ROOT}; Sampled=0; Lineage=a:b", 0),
            (f"{ROOT};Parent={SPAN}", 0),
        ],
    )
    def test_it_names_the_parent_where_nothing_else_does(self, header: str, flags: int) -> None:
        """X-Ray's sampling is not ours: the decision is open."""
        message = Propagator().extract_message({}, aws_trace_header=header)

        assert message.parent.trace_flags == flags
        assert f"{message.parent.trace_id:032x}" == TRACE
        assert (trusted_parent(message.context), undecided_parent(message.context)) == (False, True)

    @pytest.mark.parametrize(
        "header", ["", "Root=1-x-y;Parent=z", ROOT, f"Root={TRACE};Parent={SPAN}", ";;=;"]
    )
    def test_a_malformed_one_is_no_parent(self, header: str) -> None:
        """It fails nothing."""
        assert not Propagator().extract_message({}, aws_trace_header=header).parent.is_valid

    def test_the_attribute_beats_it(self) -> None:
        """A traceparent is more specific."""
        carrier = {"traceparent": f"00-{'a' * 32}-{SPAN}-01"}

        message = Propagator().extract_message(
            carrier, aws_trace_header=f"{self.ROOT};Parent={SPAN};Sampled=1"
        )

        assert f"{message.parent.trace_id:032x}" == "a" * 32
