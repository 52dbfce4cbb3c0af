"""
Text from outside, made safe for a terminal.
"""

__all__ = ["printable", "printable_lines"]


def printable(value: object) -> str:
    """Return *value* without control characters: text from outside must not drive a terminal."""
    text = value if isinstance(value, str) else str(value)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: object) -> str:
    """Return *text* as `printable()` lines; its own line breaks stay."""
    return "\n".join(map(printable, str(text).expandtabs(4).split("\n")))
