"""What is a secret, by name and by shape, and that nothing else is touched."""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracebaton.redaction import (
    MASK,
    Limits,
    are_clean,
    is_clean,
    is_sensitive,
    redact_mapping,
    redact_text,
    redact_url,
    redact_value,
)

CANARY = "c4n4ry-Hunter2"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mB92K27uhbUJU1p1r"
API_KEY = "tb_0123456789ab_abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nx9s=\n-----END RSA PRIVATE KEY-----"

SENSITIVE = [
    "password",
    "PASSWORD",
    "db_password",
    "user.password",
    "newPassword",
    "password2",
    "dbpassword",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "client_secret",
    "clientSecret",
    "token",
    "access-token",
    "accessToken",
    "refresh_token",
    "csrfmiddlewaretoken",
    "id_token",
    "X-Auth-Token",
    "Authorization",
    "proxy-authorization",
    "http.request.header.authorization",
    "cookie",
    "cookies",
    "Set-Cookie",
    "api_key",
    "apiKey",
    "APIKey",
    "apikey",
    "X-Api-Key",
    "OPENAI_API_KEY",
    "private_key",
    "privateKey",
    "aws_secret_access_key",
    "access_key",
    "TRACEBATON_MESSAGE_KEY",
    "credential",
    "credentials",
    "jwt",
    "smtp_pass",
    "otp",
    "pin",
]
PLAIN = [
    "",
    "path",
    "status",
    "tokenizer",
    "secretary",
    "passwordless",
    "cookiecutter",
    "keyboard",
    "monkey",
    "author",
    "authority",
    "passes",
    "pass_count",
    "key",
    "idempotency_key",
    "partition_key",
    "correlation_id",
    "token_id",
    "api_key_id",
    "access_key_id",
    "AWS_ACCESS_KEY_ID",
    "token_expires_at",
    "password_changed_at",
    "token_ttl",
    "token_type",
    "gen_ai.token.type",
    "token_count",
    "password_length",
    "api_keys_file",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "мой",
]


@pytest.mark.parametrize("name", SENSITIVE)
def test_a_sensitive_name_masks_its_value(name: str) -> None:
    """Alone, in a mapping, nested, and in every list below it."""

    assert is_sensitive(name)
    assert redact_value(name, CANARY) == MASK
    assert redact_mapping({"a": {name: CANARY}}) == {"a": {name: MASK}}
    assert redact_mapping({name: [{"x": CANARY}, CANARY]}) == {name: [{"x": MASK}, MASK]}


@pytest.mark.parametrize("name", PLAIN)
def test_another_name_does_not(name: str) -> None:
    """Whole segments only; ids, timestamps and measures of a secret are none."""

    assert not is_sensitive(name)
    assert redact_mapping({name: CANARY}) == {name: CANARY}


#: Too short to be told from words in free text.
FIELDS_ONLY = {"otp", "pin"}


@pytest.mark.parametrize("name", [name for name in SENSITIVE if name not in FIELDS_ONLY])
@pytest.mark.parametrize(
    "template",
    [
        "{name}={value}",
        "{name} = {value}",
        "{name}: {value}",
        "{name}:{value}",
        "{name}='{value}'",
        '{{"{name}": "{value}", "page": 7}}',
        "{{'page': 7, '{name}': '{value}'}}",
        '"{{\\"{name}\\":\\"{value}\\"}}"',
        "Client(page=7, {name}='{value}')",
        "connect failed ({name}={value})",
        "GET /x?page=7&{name}={value} HTTP/1.1",
        "Traceback:\n  File x\nValueError: bad {name}={value}\n",
        "--{name}={value} --verbose",
        "f[{name}]={value}",
        "Key ({name})=({value}) already exists",
        "headers=[('host', 'h'), ('{name}', '{value}')]",
        "headers=[(b'{name}', b'{value}')]",
        "{name} => {value}",
        "{name}: [{value}, {value}]",
        "{name}={{'x': '{value}'}}",
        "next=%2Fcb%3F{name}%3D{value}%26page%3D7",
    ],
)
def test_a_sensitive_name_in_text_masks_its_value(name: str, template: str) -> None:
    """As people and programs write it; what stands around it stays."""
    text = redact_text(template.format(name=name, value=CANARY))

    assert CANARY not in text
    assert MASK in text
    assert name in text
    assert redact_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=a&page=2", "password=[redacted]&page=2"),
        ("password=a, user=bob", "password=[redacted], user=bob"),
        ("password=a,b;c next", "password=[redacted] next"),
        ("password: a b c", "password: [redacted]"),
        ("password: a b, user: bob", "password: [redacted], user: bob"),
        ("bad password: a b", "bad password: [redacted] b"),
        ("Authorization: Digest a=b, c=d\nHost: x", "Authorization: [redacted]\nHost: x"),
        ("curl -H 'Authorization: X y' http://h/", "curl -H 'Authorization: [redacted]' http://h/"),
        ("Cookie: a=b; c=d\r\nHost: x", "Cookie: [redacted]\r\nHost: x"),
        ("password='it''s', x=1", "password='[redacted]', x=1"),
        ("password='a\\'b', x=1", "password='[redacted]', x=1"),
        ("password='cut off", "password='[redacted]"),
        ("tokens=[a, b], x=1", "tokens=[redacted], x=1"),
        ("tokens=[a, b", "tokens=[redacted]"),
        ("secrets:\n  - abc", "secrets:\n  - [redacted]"),
        ("?X-Amz-Signature=abc&x=1", "?X-Amz-Signature=[redacted]&x=1"),
        ("the signature=abc", "the signature=abc"),
        ("wrong API key: abc", "wrong API key: [redacted]"),
        ("wrong sort key: abc", "wrong sort key: abc"),
        ("key: abc", "key: abc"),
        ("one of 'token', 'other'", "one of 'token', 'other'"),
        (
            "password\n  too short [type=short, input_value='abc', input_type=str]",
            "password\n  too short [type=short, input_value='[redacted]', input_type=str]",
        ),
    ],
)
def test_how_far_a_value_reaches(text: str, expected: str) -> None:
    """As far as it can be meant, and no further."""

    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=100 prompt_tokens: 12",
        "token=None password='' secret: null",
        "author=bob tokenizer=x secretary: y monkey=z keyboard: q",
        "password",
        "Basic authentication is required, or a bearer token",
        "Basic usage",
        "task-0123456789abcdefghij risk-assessment-of-something",
        "0af7651916cd43dd8448eb211c80319c 1763934260939237000",
        "019a1f6e-7d3c-7c1e-9a55-4111111111111111",
        "2026-11-23T21:00:00.123456Z http.request 202",
        "4111111111111112 1234567812345670",
        "aws s3 ls 2fd4e1c67a2d28fced849ee1bb76e7391b93eb12",
        "aws /usr/local/lib/Python3/site/packages/abcd",
        "http://localhost:8080/v1/tasks?page=2&limit=50#top",
        "mail bob@example.org about http://example.org/x",
        "eyJust a word",
        "AKIA is a prefix",
        "sk-learn and tb_stats",
        "key=value idempotency_key=abc",
        "",
        "x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """Ordinary lines are returned as they are."""

    assert redact_text(text) == text


@pytest.mark.parametrize(
    "secret",
    [
        JWT,
        JWT.rpartition(".")[0],
        API_KEY,
        PEM,
        PEM[:60],
        "sk-proj-abcdefghijklmnop1234",
        "sk_live_abcdefghijklmnop",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-123456789012-abcdefghijkl",
        "AIzaSyA-1234567890abcdefghijklmnopqrstu",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "4111111111111111",
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
    ],
)
@pytest.mark.parametrize("around", ["{}", "saw {} in it", "({})", "x={},", '{{"value": "{}"}}'])
def test_a_shape_is_masked_wherever_it_stands(secret: str, around: str) -> None:
    """Tokens, keys, PEM blocks and card numbers need no name."""
    text = redact_text(around.format(secret))

    assert secret not in text
    assert MASK in text
    assert redact_mapping({"note": [secret]}) == {"note": [MASK]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bearer abcdefg", "Bearer [redacted]"),
        ("sent bearer abc.def", "sent bearer [redacted]"),
        ("Basic dXNlcjpwYXNz", "Basic [redacted]"),
        ("https://bob:p@ss@h/x", "https://bob:[redacted]@h/x"),
        ("https://abcdef@h/x", "https://[redacted]@h/x"),
        ("postgres://app:pw@db:5432/x?a=1", "postgres://app:[redacted]@db:5432/x?a=1"),
        ("aws wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws [redacted]"),
        (f"a\n{PEM}\nb\n{PEM}\nc", "a\n[redacted]\nb\n[redacted]\nc"),
    ],
)
def test_a_credential_with_a_context(text: str, expected: str) -> None:
    """The scheme, the user and the host stay, so that a line still says what happened."""

    assert redact_text(text) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://h/a?q=1", "https://h/a?q=1"),
        ("https://h/a", "https://h/a"),
        ("https://h/a?token=x&q=1", "https://h/a?token=[redacted]&q=1"),
        ("https://h/a?api%5Fkey=x", "https://h/a?api%5Fkey=[redacted]"),
        ("https://h/a?q=1&sig=x&max_tokens=5", "https://h/a?q=1&sig=[redacted]&max_tokens=5"),
        ("https://u:p@h/a?x=", "https://u:[redacted]@h/a?x="),
        ("https://h/cb#access_token=x&q=1", "https://h/cb#access_token=[redacted]&q=1"),
        ("token=x&q=1", "token=[redacted]&q=1"),
        (f"/reset/{JWT}", "/reset/[redacted]"),
    ],
)
def test_urls(url: str, expected: str) -> None:
    """Passwords, sensitive query names and shapes; the rest of the query stays."""

    assert redact_url(url) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_tokens", 4096, 4096),
        ("token", 1, 1),
        ("token", 1.5, 1.5),
        ("password", None, None),
        ("secret", True, True),
        ("token", "", ""),
        ("token", datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        ("day", date(2026, 1, 2), "2026-01-02"),
        ("pin", 1234, MASK),
        ("pin", True, True),
        ("token", b"abc", MASK),
        ("token", UUID(int=7), MASK),
        ("body", b"abc", "<3 bytes>"),
        ("id", UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        ("price", Decimal("1.50"), "1.50"),
        ("ratio", float("nan"), "nan"),
        ("ratio", float("-inf"), "-inf"),
        ("error", ValueError("password=x"), "password=[redacted]"),
        ("items", (1, "a"), [1, "a"]),
        ("headers", [("x-api-key", "a"), ("host", "h")], [["x-api-key", MASK], ["host", "h"]]),
        ("headers", [(b"Cookie", b"a")], [["<6 bytes>", MASK]]),
        ("words", ["token", ["a"]], ["token", ["a"]]),
        ("items", {1}, [1]),
        ("m", {1: 2, None: 3}, {"1": 2, "None": 3}),
    ],
)
def test_values_become_json_data(name: str, value: Any, expected: Any) -> None:
    """Numbers and moments stay under any name, but for those that are numeric secrets."""

    assert redact_value(name, value) == expected


def test_an_integer_that_python_does_not_write_is_described() -> None:
    """Past 4,300 digits `str()` refuses, and the line would be lost."""

    assert redact_value("big", 10**5000) == "<int of 16610 bits>"


def test_size_and_depth_are_capped() -> None:
    """What is left out is counted."""
    deep: list[Any] = [1]
    for _ in range(50):
        deep = [deep]
    limits = Limits(text=10, depth=2, items=3, nodes=100)

    assert redact_value("x", deep, limits=limits) == [["<list of 1>"]]
    assert redact_value("x", range(9), limits=limits) == "range(0,… [3 more characters]"
    assert redact_value("x", [1, 2, 3, 4, 5], limits=limits) == [1, 2, 3, "… 2 more"]
    assert redact_mapping(dict.fromkeys("abcde", 1), limits=limits) == {
        "a": 1,
        "b": 1,
        "c": 1,
        "…": "2 more",
    }
    assert redact_value("x", "one two three", limits=limits) == "one two… [6 more characters]"
    assert redact_mapping({"k" * 300: 1}) == {"k" * 256: 1}


def test_the_whole_is_capped_too() -> None:
    """A tree of small nodes does not escape the caps."""
    tree: Any = 1
    for _ in range(8):
        tree = [tree] * 60
    counted = 0
    todo = [redact_value("x", tree)]
    while todo:
        counted += 1
        if isinstance(node := todo.pop(), list):
            todo.extend(node)

    assert counted < 3000


def test_a_circle_ends() -> None:
    """At the depth cap."""
    ring: list[Any] = []
    ring.append(ring)

    assert "<list of 1>" in str(redact_value("x", ring))


def test_foreign_code_that_raises_costs_nothing() -> None:
    """Its type is what is shown."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert redact_value("x", Hostile()) == "<Hostile that raises RuntimeError>"


def test_a_text_is_cut_between_words() -> None:
    """Half a secret has no shape, so the word at the cut goes."""
    text = "x" * 30 + " " + API_KEY

    assert redact_text(text, limit=60) == "x" * 30 + "… [60 more characters]"
    assert redact_text("a" * 9000, limit=8192) == "a" * 4096 + "… [4904 more characters]"
    assert redact_text("a" * 900, limit=100) == "… [900 more characters]"


def test_an_id_that_looks_like_a_card_is_clean() -> None:
    """Of a hundred random ids a few do: they are no reason to look at each text by itself."""
    assert are_clean(
        ["5d41ac1e-9b7f-4c2d-8a3e-000000000007", "00000000-0000-0000-0000-000000000000"]
    )


#: Parts of texts, some of which are secrets, or become ones beside others.
PIECES = [
    *("token", "password=", "sig=", "key: ", "a", " ", "=", ":", "\n", "('", "%3D", "é", "\ud800"),
    *(
        "://u:p@h",
        "aws ",
        "Bearer ",
        "AKIAIOSFODNN7EXAMPLE",
        "AIza",
        "x" * 12,
        "4111 1111 1111 1111",
    ),
    *(
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        JWT,
        API_KEY,
        PEM,
        "4111111111111111",
        "b" * 8190,
    ),
]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map("".join), max_size=4))
def test_texts_that_are_clean_together_are_clean_alone(texts: list[str]) -> None:
    """So that one look at all of a span's attributes is enough."""
    assert not are_clean(texts) or [redact_text(text) for text in texts] == texts


@pytest.mark.parametrize(
    "value",
    [True, None, 7, 1.5, "text", 10**400, float("nan"), ["text"], {"a": 1}, (1, 2)],
    ids=str,
)
def test_values_are_clean_together_as_they_are_alone(value: Any) -> None:
    """Numbers beyond JSON and containers are looked at one by one."""
    assert are_clean(["text", value]) == is_clean("name", value)


@given(st.text(alphabet=st.sampled_from("token=:'\" {}[]&;,\\\n-@/?%3Da1"), max_size=60))
def test_redacting_twice_changes_nothing(text: str) -> None:
    """A line passes several sinks; and nothing raises on any text."""
    once = redact_text(text)

    assert redact_text(once) == once


@given(
    before=st.text(alphabet="ab =:,;'\"()[]{}\n", max_size=12),
    after=st.text(alphabet="ab =:,;'\"()[]{}\n", max_size=12),
)
def test_a_canary_never_survives(before: str, after: str) -> None:
    """Whatever stands around ``password=``."""

    assert CANARY not in redact_text(f"{before} password={CANARY} {after}")


HOSTILE: list[Callable[[int], str]] = [
    lambda n: "a" * n,
    lambda n: "token" * (n // 5),
    lambda n: "token=" * (n // 6),
    lambda n: "token: " * (n // 7),
    lambda n: "token='" * (n // 7),
    lambda n: 'token=\\"' * (n // 8),
    lambda n: "token=[" * (n // 7),
    lambda n: "token=a " * (n // 8),
    lambda n: "token=a,b" * (n // 9),
    lambda n: "token=" + "," * n,
    lambda n: "('token', " * (n // 10),
    lambda n: "('token', 'a'), " * (n // 16),
    lambda n: "api key: a " * (n // 11),
    lambda n: "(token)=(" * (n // 9),
    lambda n: "token=" + ",a" * (n // 2),
    lambda n: "token=" + "'" * n,
    lambda n: "token='" + "\\" * n,
    lambda n: "token" + " " * n,
    lambda n: "token" + "\\" * n,
    lambda n: "a-" * (n // 2) + "token:",
    lambda n: "cookie: a\n" * (n // 10),
    lambda n: "'cookie: a\n" * (n // 11),
    lambda n: "token%3D" * (n // 8),
    lambda n: "%" * n + "token=",
    lambda n: "://" * (n // 3) + "@",
    lambda n: "://a:" * (n // 5) + "@",
    lambda n: "://" + "a" * n + ":",
    lambda n: "://" + "a@" * (n // 2),
    lambda n: "eyJ" * (n // 3),
    lambda n: "eyJ-" * (n // 4),
    lambda n: "eyJaaaaaaaa." * (n // 12),
    lambda n: "sk-" * (n // 3),
    lambda n: "sk-" + "a" * n,
    lambda n: "AKIA" * (n // 4),
    lambda n: "aws" + "A1b/" * (n // 4),
    lambda n: "-----BEGIN " * (n // 11),
    lambda n: "-----BEGIN a-----END " * (n // 21),
    lambda n: "bearer " * (n // 7),
    lambda n: "basic" + " " * n,
    lambda n: "1" * n,
    lambda n: "1 " * (n // 2),
    lambda n: "1111 " * (n // 5),
    lambda n: "4111-" * (n // 5),
]


def seconds(work: Callable[[], object]) -> float:
    """Return the processor time of *work*, the best of three."""
    best = float("inf")
    for _ in range(3):
        start = time.thread_time()
        work()
        best = min(best, time.thread_time() - start)
    return best


@pytest.mark.parametrize("text", HOSTILE, ids=lambda make: make(40)[:20])
@pytest.mark.parametrize("redact", [redact_text, redact_url])
def test_the_work_grows_with_the_text(redact: Any, text: Callable[[int], str]) -> None:
    """Ten times the text, about ten times the work; a hundred times it would be quadratic."""
    small, large = text(10_000), text(100_000)
    ratio = seconds(lambda: redact(large, limit=200_000)) / max(
        seconds(lambda: redact(small, limit=200_000)), 2e-5
    )

    assert ratio < 40
