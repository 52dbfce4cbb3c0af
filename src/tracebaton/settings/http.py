"""The API: who may ask it, and what of a caller is believed."""

from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator

from tracebaton.settings.values import Contradiction, Names, http_url, on_loopback

__all__ = ["HttpSettings"]

#: Signatures that can be checked without being able to make them (RFC 7518).
JWT_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)


class HttpSettings(BaseModel):
    """Authentication, limits and the border."""

    auth: Literal["none", "api-key", "jwt"] = Field("none", alias="TRACEBATON_AUTH")
    api_keys_file: Path | None = Field(None, alias="TRACEBATON_API_KEYS_FILE")
    jwt_jwks: str | None = Field(None, alias="TRACEBATON_JWT_JWKS")
    jwt_issuer: str | None = Field(None, alias="TRACEBATON_JWT_ISSUER")
    jwt_audience: str | None = Field(None, alias="TRACEBATON_JWT_AUDIENCE")
    jwt_algorithms: Names = Field(frozenset({"RS256", "ES256"}), alias="TRACEBATON_JWT_ALGORITHMS")
    jwt_leeway_seconds: float = Field(60.0, alias="TRACEBATON_JWT_LEEWAY_SECONDS", ge=0, le=600)
    jwt_user_claim: str = Field("sub", alias="TRACEBATON_JWT_USER_CLAIM")
    api_url: str = Field("http://127.0.0.1:8000", alias="TRACEBATON_API_URL")
    api_key: str | None = Field(None, alias="TRACEBATON_API_KEY", repr=False)
    rate_per_minute: int | None = Field(None, alias="TRACEBATON_RATE_PER_MINUTE", ge=0, le=10**6)
    trusted_proxies: Names = Field(frozenset(), alias="TRACEBATON_TRUSTED_PROXIES")
    trust_baggage: Names = Field(frozenset(), alias="TRACEBATON_TRUST_BAGGAGE")
    trust_sampling: bool = Field(False, alias="TRACEBATON_TRUST_SAMPLING")
    propagate_trace_to: Names | None = Field(None, alias="TRACEBATON_PROPAGATE_TRACE_TO")
    propagate_baggage_to: Names = Field(frozenset(), alias="TRACEBATON_PROPAGATE_BAGGAGE_TO")

    @field_validator("api_url")
    @classmethod
    def _api_address(cls, value: str) -> str:
        return http_url(value)

    @field_validator("jwt_jwks")
    @classmethod
    def _safe_jwks(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme in {"http", "https"}:
            http_url(value)
            if parts.scheme == "http" and not on_loopback(value):
                raise ValueError("has to be an https URL, or a file")
        return value

    @field_validator("jwt_algorithms")
    @classmethod
    def _asymmetric(cls, names: frozenset[str]) -> frozenset[str]:
        if not names or (unknown := names - set(JWT_ALGORITHMS)):
            said = ", ".join(sorted(unknown)) if names else "none"
            raise ValueError(f"does not take {said}, use some of {', '.join(JWT_ALGORITHMS)}")
        return names

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, names: frozenset[str]) -> frozenset[str]:
        for name in sorted(names):
            try:
                ip_network(name, strict=False)
            except ValueError:
                raise ValueError("has to list addresses or networks, as 10.0.0.0/8") from None
        return names

    def _contradicting_auth(self) -> Iterator[Contradiction]:
        needed = {
            "TRACEBATON_JWT_JWKS": self.jwt_jwks,
            "TRACEBATON_JWT_ISSUER": self.jwt_issuer,
            "TRACEBATON_JWT_AUDIENCE": self.jwt_audience,
        }
        if self.auth == "jwt":
            for name in [name for name, value in needed.items() if value is None]:
                yield {name}, f"TRACEBATON_AUTH=jwt needs {name}"
        if self.auth == "api-key" and self.api_keys_file is None:
            yield set(), "TRACEBATON_AUTH=api-key needs TRACEBATON_API_KEYS_FILE"

    @property
    def write_rate(self) -> int | None:
        """Return the writes a user may make in a minute, None for any number."""
        if self.rate_per_minute is None:
            return None if self.auth == "none" else 600
        return self.rate_per_minute or None
