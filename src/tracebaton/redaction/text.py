"""
Free text without its secrets: log messages, exceptions, URLs.

The work grows with the text and never faster: no pattern can start twice in one run of characters,
or what it looks at is bounded.
"""

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from tracebaton.redaction.names import MASK, is_query_secret, is_sensitive
from tracebaton.redaction.shapes import (
    may_have_a_shape,
    without_pem,
    without_shapes,
    without_url_password,
)

__all__ = ["TEXT_LIMIT", "are_clean_texts", "redact_text", "redact_url"]

#: Characters of one text that are kept. Docker splits a log line at 16 KiB.
TEXT_LIMIT: Final = 8192
#: Characters of the shortest shape that has neither a space nor a colon: a card number.
_SHORTEST: Final = 13
#: The longest run without a space that is dropped where a text is cut: half a secret has no shape.
_LONGEST_WORD: Final = 4096

#: A name and its separator: ``name=``, ``name: ``, ``"name": ``, ``\"name\":``, ``a[name]=``,
#: ``(name)=``, and ``('name', `` before a value in quotes.
_NAME: Final = re.compile(
    r"""(?<![\w.%\-])([\w.%\-]++)(?:\\*+["']|\]|\)(?==))?\s{0,8}+"""
    r"""(?:[=:]{1,3}+>?|(,)(?=\s{0,4}[bBuU]?["']))\s{0,16}+(?:-\s)?"""
)
_IN_PAIR: Final = re.compile(r"""\([bBuU]?["']\Z""")
#: The word before a name, ``API key: ``.
_WORD_BEFORE: Final = re.compile(r"([A-Za-z]{2,12}) \Z")
#: The same inside a percent-encoded URL, up to its next ``%26``.
_ENCODED: Final = re.compile(
    r"(?:(?<=%[0-9A-Fa-f]{2})|(?<![\w.%\-]))([\w.\-]++)%3[Dd](?:[^\s&%]|%(?!26))++"
)
_QUOTE: Final = re.compile(r"""[bBuUrRfF]{0,2}+(\\*+["'])""")
#: Up to the closing quote, past escaped ones and SQL's doubled ones.
_CLOSED: Final = {
    quote: re.compile(rf"(?:[^{quote}\\]|\\.|{quote}{quote})*+{quote}", re.DOTALL)
    for quote in ('"', "'")
}
_BRACKET: Final = re.compile(r"[\[\](){}]")
_NEXT: Final = r"""[,;](?!\s|\Z|[\w.%\-]{1,64}+["']?[=:])"""
#: Up to a space, an ampersand, or a comma or semicolon that ends the value.
_WORD: Final = re.compile(rf"(?:[^\s&,;]++|{_NEXT})++")
#: Up to the end of the line, or to the next name on it.
_LINE: Final = re.compile(r"""(?:[^\n,;]++|[,;](?!\s{0,8}+[\w.%\-]{1,64}+["']?[=:]))++""")
#: Characters before a name that may be its line's indent.
_INDENT: Final = 16
#: Values that tell that there is no secret, which is what one looks for in a log.
_NOTHING: Final = frozenset({"none", "null", "nil", "true", "false", "undefined", ""})
#: Half of a surrogate pair, of a file name say: one of them costs an exporter its whole batch.
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def redact_text(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """
    Return *text* without its secrets, cut after about *limit* characters, and as Unicode.

    Without anything suspicious this is a handful of substring searches.
    """
    if not text.isascii():
        text = _SURROGATE.sub("\ufffd", text)
    if len(text) < _SHORTEST and "=" not in text and ":" not in text and " " not in text:
        return text
    if len(text) > limit:
        return _cut(text, limit)
    if "-----B" in text:
        text = without_pem(text)
    if "=" in text or ":" in text or "%3" in text or "('" in text or "(b'" in text:
        if "@" in text and "://" in text:
            text = without_url_password(text)
        if _may_name_a_secret(text.lower()):
            text = _without_named(text)
    return without_shapes(text)


def are_clean_texts(texts: Iterable[str]) -> bool:
    """
    Tell, at the cost of one, that `redact_text()` would leave each of *texts* as it is.

    False is no verdict. What makes one of them suspicious does so among the others too, because no
    suspicion asks for more around it than the end of a line.
    """
    text = "\n".join(texts)
    if not text.isascii() or len(text) > TEXT_LIMIT or "-----B" in text:
        return False
    names = "=" in text or ":" in text or "%3" in text or "('" in text or "(b'" in text
    if names and (("@" in text and "://" in text) or _may_name_a_secret(text.lower())):
        return False
    return not may_have_a_shape(text)


def _cut(text: str, limit: int) -> str:
    head = text[:limit]
    space = max(head.rfind(mark) for mark in " \n\t")
    head = head[: max(space, limit - _LONGEST_WORD, 0)]
    return f"{redact_text(head, limit=limit)}… [{len(text) - len(head)} more characters]"


def _may_name_a_secret(low: str) -> bool:
    return (
        "pass" in low
        or "secret" in low
        or "token" in low
        or "auth" in low
        or "cookie" in low
        or "key" in low
        or "cred" in low
        or "sig" in low
        or "pwd" in low
        or "jwt" in low
        or "bearer" in low
        or "input_value" in low
    )


def _without_named(text: str) -> str:
    if "%3" in text:
        text = _ENCODED.sub(_without_encoded, text)
    parts, done = [], 0
    for found in _NAME.finditer(text):
        if found.start() < done or not _names_a_secret(found):
            continue
        begin, end = _value(found)
        value = text[begin:end]
        if value.lower() in _NOTHING or value.startswith(MASK) or _is_count(found[1], value):
            continue
        parts += [text[done:begin], MASK]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


def _without_encoded(found: re.Match[str]) -> str:
    begin = found.end(1) - found.start() + len("%3D")
    return found[0][:begin] + MASK if is_sensitive(found[1]) else found[0]


def _names_a_secret(found: re.Match[str]) -> bool:
    name = found[1]
    if found[2] and not _IN_PAIR.search(_before(found, 3)):
        return False
    if _before(found) in {"", "?", "&"}:
        return is_query_secret(name)
    if name.lower() in {"key", "keys"} and (word := _WORD_BEFORE.search(_before(found, 13))):
        name = f"{word[1]} {name}"
    return is_sensitive(unquote(name) if "%" in name else name)


def _is_count(name: str, value: str) -> bool:
    """Tell whether *value* is a number of tokens."""
    return value.isdigit() and name.lower().endswith("tokens")


def _value(found: re.Match[str]) -> tuple[int, int]:
    """Return where the value after a name begins and ends."""
    text, start = found.string, found.end()
    if text.startswith(MASK, start):
        return start, start + len(MASK)
    if quote := _QUOTE.match(text, start):
        return quote.end(), _closing_quote(text, quote.end(), quote[1])
    if text.startswith(("[", "{", "("), start):
        return start, _closing_bracket(text, start)
    value = text[start : _open_end(found)]
    return start, start + len(value.rstrip(")]}>.,;\"'\\ \r"))


def _open_end(found: re.Match[str]) -> int:
    """Return where a value ends that stands in neither quotes nor brackets."""
    text, start = found.string, found.end()
    if found[1].lower().endswith(("authorization", "cookie")):  # a scheme and more, many cookies
        line = text.find("\n", start)
        line = len(text) if line < 0 else line
        quote = text.find(_before(found), start, line) if _before(found) in {'"', "'"} else -1
        return line if quote < 0 else quote
    word = (_LINE if ":" in found[0] and _opens_its_line(found) else _WORD).match(text, start)
    return word.end() if word else start


def _before(found: re.Match[str], count: int = 1) -> str:
    start = found.start()
    return found.string[max(0, start - count) : start]


def _opens_its_line(found: re.Match[str]) -> bool:
    indent = _before(found, _INDENT)
    whole = "\n" in indent or len(indent) < _INDENT
    return whole and not indent.rpartition("\n")[2].strip(" >")


def _closing_quote(text: str, start: int, quote: str) -> int:
    if len(quote) > 1:  # JSON inside a JSON string
        end = text.find(quote, start)
    else:
        closed = _CLOSED[quote].match(text, start)
        end = closed.end() - 1 if closed else -1
    return len(text) if end < 0 else end


def _closing_bracket(text: str, start: int) -> int:
    depth = 0
    for bracket in _BRACKET.finditer(text, start):
        depth += 1 if bracket[0] in "[({" else -1
        if depth == 0:
            return bracket.end()
    return len(text)


def redact_url(url: str, *, limit: int = TEXT_LIMIT) -> str:
    """
    Return *url* with its password and the values of its sensitive query names masked.

    A query alone is fine too, and a fragment: an OAuth answer has its token there.
    """
    parts = re.split(r"([?&#])", url[:limit])
    return redact_text("".join(map(_without_query_value, parts)), limit=limit)


def _without_query_value(pair: str) -> str:
    name, _, value = pair.partition("=")
    return (
        f"{name}={MASK}" if value and is_query_secret(name) and not _is_count(name, value) else pair
    )
