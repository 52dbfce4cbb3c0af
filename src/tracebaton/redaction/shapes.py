"""Values that are recognised as secrets by what they look like."""

import re
from typing import Final

from tracebaton.redaction.names import MASK

__all__ = ["may_have_a_shape", "without_pem", "without_shapes", "without_url_password"]

_USERINFO: Final = re.compile(r"""://([^\s/?#"'@:]*+)(:[^\s/?#"']*)?@""")
_SCHEME: Final = re.compile(r"(?i)\b(bearer|basic) {1,4}+([\w.~+/=\-]++)")
#: What one says about bearer tokens without showing one.
_ABOUT_BEARER: Final = frozenset({"token", "tokens", "auth", "authentication", "authorization"})
_PREFIXED: Final = re.compile(
    r"(?<![\w\-])(?:sk-|[sr]k_(?:live|test)_|tb_[0-9a-f]{12}_|gh[pousr]_|github_pat_|glpat-"
    r"|xox[abeprs]-|AIza)[\w\-]{12,}+"
)
_JWT: Final = re.compile(r"(?<![\w\-])eyJ[\w\-]{8,}+\.[\w\-]{4,}+(?:\.[\w\-]*+)?")
_AWS_ID: Final = re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}(?![A-Z0-9])")
_AWS_SECRET: Final = re.compile(r"(?<![\w/+=])[A-Za-z0-9/+]{40}(?![\w/+=])")
#: Digits as they are printed on cards, or in one piece.
_CARD: Final = re.compile(
    r"[0-9][0-9]{3}(?:[0-9]{9,15}+|[ \-][0-9]{4}[ \-][0-9]{4}[ \-][0-9]{1,7}+"
    r"|[ \-][0-9]{6}[ \-][0-9]{4,5}+)"
)
#: First digits and lengths of the card networks; what starts with 1 is a moment.
_NETWORK: Final = re.compile(
    r"4(?:.{12}|.{15}|.{18})|(?:5[1-5]|2[2-7]).{14}|3[47].{13}|3(?:0[0-5]|[68].).{11}|35.{14}"
    r"|6(?:011|4[4-9].|5..|2..).{12,15}"
)


def without_pem(text: str) -> str:
    """Return *text* with each PEM block masked; one without its end was cut and goes to the end."""
    parts, start = [], 0
    while (begin := text.find("-----BEGIN ", start)) >= 0:
        parts += [text[start:begin], MASK]
        end = text.find("-----END ", begin)
        close = text.find("-----", end + 9) if end >= 0 else -1
        start = close + 5 if close >= 0 else len(text)
    return "".join([*parts, text[start:]])


def without_url_password(text: str) -> str:
    """Return *text* with the password of each URL masked, or a user that has none."""
    return _USERINFO.sub(_without_password, text)


def _without_password(found: re.Match[str]) -> str:
    return f"://{MASK}@" if found[2] is None else f"://{found[1]}:{MASK}@"


def without_shapes(text: str) -> str:
    """Return *text* without credentials, keys and card numbers."""
    if " " in text or "=" in text or ":" in text:
        text = _without_contexts(text)
    if _may_have_a_prefix(text):
        text = _PREFIXED.sub(MASK, text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    if "A" in text and ("AKIA" in text or "ASIA" in text or "AROA" in text or "AIDA" in text):
        text = _AWS_ID.sub(MASK, text)
    return _CARD.sub(_without_card, text) if _CARD.search(text) else text


def may_have_a_shape(text: str) -> bool:
    """Tell whether `without_shapes()` finds anything to look at in *text*, or in a part of it."""
    return (
        ((" " in text or "=" in text or ":" in text) and _may_have_a_context(text))
        or _may_have_a_prefix(text)
        or "eyJ" in text
        or ("A" in text and _AWS_ID.search(text) is not None)
        or _has_a_card(text)
    )


def _has_a_card(text: str) -> bool:
    # Digits of an id look like one now and then, so they are looked at: no card has two lines.
    return _CARD.search(text) is not None and _CARD.sub(_without_card, text) != text


def _may_have_a_context(text: str) -> bool:
    low = text.lower()
    if "bearer " in low or "basic " in low:
        return True
    return "aws" in low and _AWS_SECRET.search(text) is not None


def _without_contexts(text: str) -> str:
    """Mask what is a secret after a certain word only."""
    low = text.lower()
    if "bearer " in low or "basic " in low:
        text = _SCHEME.sub(_without_credential, text)
    return _AWS_SECRET.sub(_without_aws_secret, text) if "aws" in low else text


def _may_have_a_prefix(text: str) -> bool:
    return (
        ("_" in text and ("k_" in text or "tb_" in text or "gh" in text))
        or ("-" in text and ("sk-" in text or "glpat-" in text or "xox" in text))
        or "AIza" in text
    )


def _without_credential(found: re.Match[str]) -> str:
    word = found[2]
    is_prose = word.isalpha() and word[1:].islower()  # "Basic authentication", "a bearer token"
    if is_prose and (found[1].lower() == "basic" or word.lower() in _ABOUT_BEARER):
        return found[0]
    return f"{found[1]} {MASK}"


def _without_aws_secret(found: re.Match[str]) -> str:
    """Mask 40 characters of base64, but no SHA-1 and no path."""
    word = found[0]
    is_mixed = word != word.lower() and word != word.upper() and word.count("/") < 4
    return MASK if is_mixed and any(map(str.isdigit, word)) else word


def _without_card(found: re.Match[str]) -> str:
    text, digits = found.string, re.sub(r"[ \-]", "", found[0])
    start, end = found.span()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    is_part = (
        before.isalnum() or after.isalnum() or before in {"_", "-", "."} or after in {"_", "-"}
    )
    return MASK if not is_part and _NETWORK.fullmatch(digits) and _luhn(digits) else found[0]


def _luhn(digits: str) -> bool:
    """Tell whether the check digit is right (ISO/IEC 7812-1, annex B)."""
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0
