"""JSON Web Tokens: whose word counts, and every way in which it does not."""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from http_service import StoreService

from tracebaton.context import current
from tracebaton.errors import ConfigurationError
from tracebaton.http import tokens
from tracebaton.http.app import create_app
from tracebaton.http.auth import authenticator
from tracebaton.settings import Settings

ISSUER, AUDIENCE = "https://id.example", "tracebaton"
RSA = rsa.generate_private_key(65_537, 2048)
OTHER = rsa.generate_private_key(65_537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def jwk(key: Any, algorithm: str, **fields: Any) -> dict[str, Any]:
    """Return the public half of *key*."""
    public = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return dict(public) | {"alg": algorithm, "use": "sig"} | fields


KEYS = {"keys": [jwk(RSA, "RS256", kid="one"), jwk(EC, "ES256", kid="two")]}


def token(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **changes: Any) -> str:
    """Return a token that is good unless *changes* make it another; None takes a claim out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "iat": now,
        "exp": now + 300,
    } | changes
    kept = {name: value for name, value in claims.items() if value is not None}
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(kept, key, algorithm=algorithm, headers=headers)


def settings(jwks: Any, **more: str) -> Settings:
    """Return settings for the keys at *jwks*."""
    return Settings.load(
        {
            "TRACEBATON_AUTH": "jwt",
            "TRACEBATON_JWT_JWKS": str(jwks),
            "TRACEBATON_JWT_ISSUER": ISSUER,
            "TRACEBATON_JWT_AUDIENCE": AUDIENCE,
        }
        | more
    )


@pytest.fixture
def jwks(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(KEYS))
    return path


Ask = Callable[..., Any]


@pytest.fixture
def whoami(ask: Any) -> Ask:
    """Return what asks a service with *settings* who the bearer of each token is."""

    async def route(request: Any) -> dict[str, Any]:
        return {"user_id": current().user_id}

    async def asked(chosen: Settings, *bearers: str) -> list[Any]:
        service = StoreService(
            None, authenticator=authenticator(chosen), routes=[("/whoami", route, ["GET"])]
        )
        async with ask(create_app(service)) as client:
            return [
                await client.get("/whoami", headers={"authorization": f"Bearer {bearer}"})
                for bearer in bearers
            ]

    return asked


async def test_a_good_token_says_who_asks(whoami: Ask, jwks: Path) -> None:
    """Signed by any key of the set, for one audience or several."""
    answers = await whoami(
        settings(jwks),
        token(),
        token(EC, "ES256", "two"),
        token(aud=["other", AUDIENCE], sub="bob"),
        token(exp=int(time.time()) - 30),  # clocks differ
    )

    assert [answer.json().get("user_id") for answer in answers] == ["ann", "ann", "bob", "ann"]


def forged(header: dict[str, Any], signature: bytes = b"") -> str:
    """Return a token of *header* whose claims are good and whose signature is made up."""
    first = jwt.utils.base64url_encode(json.dumps(header).encode()).decode()
    last = jwt.utils.base64url_encode(signature).decode()
    return f"{first}.{token().split('.')[1]}.{last}"


def confused() -> str:
    """Return a token signed with the public key as if it were a shared secret."""
    header = json.dumps({"alg": "HS256", "kid": "one"}).encode()
    first = jwt.utils.base64url_encode(header).decode()
    signed = f"{first}.{token().split('.')[1]}"
    signature = hmac.digest(json.dumps(KEYS["keys"][0]).encode(), signed.encode(), "sha256")
    return f"{signed}.{jwt.utils.base64url_encode(signature).decode()}"


NOW = int(time.time())
BAD: dict[str, str] = {
    "expired": token(exp=NOW - 3_600),
    "not yet": token(nbf=NOW + 3_600),
    "no expiry": token(exp=None),
    "other issuer": token(iss="https://evil.example"),
    "no issuer": token(iss=None),
    "other audience": token(aud="other"),
    "no audience": token(aud=None),
    "no user": token(sub=None),
    "empty user": token(sub=""),
    "long user": token(sub="x" * 300),
    "user with a line": token(sub="ann\nroot"),
    "other key": token(OTHER),
    "unknown key": token(OTHER, kid="three"),
    "key of another kind": token(EC, "ES256", "one"),
    "algorithm not taken": token(RSA, "RS512"),
    "none": forged({"alg": "none", "kid": "one"}),
    "confused": confused(),
    "kid a list": forged({"alg": "RS256", "kid": ["one"]}, b"x"),
    "no signature": forged({"alg": "RS256", "kid": "one"}),
    "half": token().rsplit(".", 1)[0],
    "garbage": "x.y.z",
    "not a token": "tb_abc_def",
    "changed": token()[:-6] + "AAAAAA",
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_says_nothing(whoami: Ask, jwks: Path, name: str) -> None:
    """401 with a challenge, and nothing about why or who."""
    [answer] = await whoami(settings(jwks), BAD[name])

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_a_single_key_needs_no_name(whoami: Ask, tmp_path: Path) -> None:
    """There is nothing to choose from; a key for encryption is none. Of two one has to be named."""
    path, both = tmp_path / "one.json", tmp_path / "both.json"
    pair = [jwk(RSA, "RS256", kid="a"), jwk(OTHER, "RS256", kid="b")]
    both.write_text(json.dumps({"keys": pair}))
    encryption = jwk(OTHER, "RS256", use="enc")
    path.write_text(json.dumps({"keys": [jwk(RSA, "RS256"), encryption]}))
    answers = await whoami(settings(path), token(kid=None), token(OTHER, kid=None))
    answers += await whoami(settings(both), token(kid=None), token(kid="a"))

    assert [answer.status_code for answer in answers] == [200, 401, 401, 200]


async def test_the_settings_decide(whoami: Ask, jwks: Path) -> None:
    """The claim that names the user, the algorithms, and how far clocks may differ."""
    chosen = settings(
        jwks,
        TRACEBATON_JWT_USER_CLAIM="email",
        TRACEBATON_JWT_ALGORITHMS="ES256",
        TRACEBATON_JWT_LEEWAY_SECONDS="0",
    )
    good = token(EC, "ES256", "two", email="ann@example.com")
    expired = token(EC, "ES256", "two", email="ann@example.com", exp=NOW - 5)
    answers = await whoami(chosen, good, token(email="ann@example.com"), expired)

    assert [answer.status_code for answer in answers] == [200, 401, 401]
    assert answers[0].json() == {"user_id": "ann@example.com"}


async def test_no_token_or_two_are_none(ask: Any, jwks: Path) -> None:
    """The challenge says what is wanted."""
    service = StoreService(None, authenticator=authenticator(settings(jwks)))
    two = [("authorization", f"Bearer {token(sub=user)}") for user in ("ann", "bob")]
    async with ask(create_app(service)) as client:
        answers = [await client.get("/"), await client.get("/", headers=two)]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert answers[0].headers["www-authenticate"] == "Bearer"


def replace(path: Path, text: str) -> None:
    """Write *text* to *path*."""
    path.write_text(text)


async def test_a_changed_file_counts_at_once(jwks: Path, lines: Any) -> None:
    """A key that is taken out stops; a file that is broken changes nothing but the log."""
    found = tokens.tokens(settings(jwks))
    before = await found.user_of(token())
    replace(jwks, "{")
    broken = await found.user_of(token())
    replace(jwks, json.dumps({"keys": [jwk(OTHER, "RS256", kid="new")]}))
    after = await found.user_of(token(OTHER, kid="new"))

    assert (before, broken, after) == ("ann", "ann", "ann")
    with pytest.raises(tokens.Unauthenticated):
        await found.user_of(token())
    assert len(lines.of("jwks.unreadable")) == 1


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"keys": {}}'])
def test_a_file_that_is_no_key_set_stops_the_start(tmp_path: Path, content: str | None) -> None:
    """Naming the variable and the file."""
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigurationError, match="TRACEBATON_JWT_JWKS"):
        tokens.tokens(settings(path))


class Issuer:
    """An issuer's key set over HTTP."""

    def __init__(self) -> None:
        self.body, self.status, self.asked = json.dumps(KEYS).encode(), 200, 0
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked += 1
                self.send_response(issuer.status)
                self.send_header("content-length", str(len(issuer.body)))
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/jwks.json"


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    served = Issuer()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    served.server.shutdown()
    thread.join()
    served.server.server_close()


async def test_a_url_is_asked_once_for_many(whoami: Ask, issuer: Issuer) -> None:
    """Its keys are kept, and a made-up name does not make us ask again each time."""
    answers = await whoami(
        settings(issuer.url), *[token()] * 5, *[token(kid=f"k-{n}") for n in range(5)]
    )

    assert [answer.status_code for answer in answers] == [200] * 5 + [401] * 5
    assert issuer.asked == 1


async def test_a_new_key_is_fetched_when_a_token_names_it(issuer: Issuer) -> None:
    """Ten seconds after the last question at the earliest; old ones are asked about again."""
    clock = [1_000.0]
    source = tokens._Url(issuer.url, now=lambda: clock[0])
    await source.keys("one")
    issuer.body = json.dumps({"keys": [jwk(OTHER, "RS256", kid="new")]}).encode()
    early = await source.keys("new")
    clock[0] += 11
    late = await source.keys("new")
    asked = issuer.asked
    clock[0] += 299
    await source.keys("new")
    still = issuer.asked
    clock[0] += 2
    await source.keys("new")

    assert (early, [key["kid"] for key in late]) == ([], ["new"])
    assert (asked, still, issuer.asked) == (2, 2, 3)


@pytest.mark.parametrize(("status", "body"), [(500, b"x"), (200, b"{"), (200, b"x" * 300_000)])
async def test_an_issuer_that_is_away_is_bridged(
    whoami: Ask, issuer: Issuer, lines: Any, status: int, body: bytes
) -> None:
    """By the keys that were there; without any the answer is 503 and not 401."""
    clock = [1_000.0]
    source = tokens._Url(issuer.url, now=lambda: clock[0])
    await source.keys("one")
    issuer.status, issuer.body = status, body
    clock[0] += 1_000
    kept = await source.keys("one")
    [never] = await whoami(settings(issuer.url), token())

    assert [key["kid"] for key in kept] == ["one"]
    assert (never.status_code, never.json()["code"]) == (503, "dependency")
    assert "retry-after" in never.headers
    assert lines.of("jwks.unreadable")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRACEBATON_JWT_JWKS", "http://id.example/jwks"),
        ("TRACEBATON_JWT_JWKS", ""),
        ("TRACEBATON_JWT_ISSUER", ""),
        ("TRACEBATON_JWT_AUDIENCE", ""),
        ("TRACEBATON_JWT_ALGORITHMS", "HS256"),
        ("TRACEBATON_JWT_ALGORITHMS", "none"),
        ("TRACEBATON_JWT_ALGORITHMS", ","),
        ("TRACEBATON_JWT_LEEWAY_SECONDS", "-1"),
        ("TRACEBATON_RATE_PER_MINUTE", "-1"),
        ("TRACEBATON_TRUSTED_PROXIES", "10.0.0.0/8,nginx"),
    ],
)
def test_a_bad_setting_names_its_variable(name: str, value: str) -> None:
    """Before anything is served."""
    with pytest.raises(ConfigurationError, match=name):
        settings("jwks.json", **{name: value})
