"""
Protobuf's encoding, written straight to bytes: https://protobuf.dev/programming-guides/encoding/.
"""

from typing import Final

__all__ = ["sized", "varint"]


def varint(number: int) -> bytes:
    """Return the non-negative *number*, seven bits a byte, the lowest first."""
    return _SMALL[number] if number < len(_SMALL) else _written(number)


def sized(tag: bytes, content: bytes) -> bytes:
    """Return *content* behind its *tag* and its length."""
    return tag + varint(len(content)) + content


def _written(number: int) -> bytes:
    said = bytearray()
    while number > 0x7F:
        said.append(number & 0x7F | 0x80)
        number >>= 7
    said.append(number)
    return bytes(said)


#: What is written most, by its number: lengths, and values of an enum.
_SMALL: Final = tuple(_written(number) for number in range(1024))
