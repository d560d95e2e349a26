"""Checks values against the limits of MQTT, for `broker` and for answers of our own API. So a
mistake raises an error where it was made, instead of creating a message that the broker cannot
send.

All raise `ValueError` or `TypeError`; the text begins with the name of the value.
"""

from __future__ import annotations

from typing import Any

from ._match import check

_TEXT_BYTES_MAX = 0xFFFF
# A text with at most this many characters fits, whatever they are.
_SURELY_FITS_CHARS = _TEXT_BYTES_MAX // 4


def text(name: str, value: Any) -> str:
    """Text of at most 65,535 bytes in UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{name} of type {type(value).__name__}, not text")
    if len(value) > _SURELY_FITS_CHARS and len(value.encode("utf-8", "surrogatepass")) > _TEXT_BYTES_MAX:
        raise ValueError(f"{name} is longer than the {_TEXT_BYTES_MAX} bytes that MQTT has for it")
    return value


def topic(name: str, value: Any) -> str:
    """A topic to publish to: no wildcards."""
    if not isinstance(value, str) or not value or "+" in value or "#" in value or "\0" in value:
        raise ValueError(f"{name} {value!r:.200} is no topic to publish to")
    return text(name, value)


def topic_filter(name: str, value: Any) -> str:
    """A topic filter."""
    return text(name, check(value))


def payload(name: str, value: Any) -> bytes:
    """Bytes. Text is encoded as UTF-8; surrogates become the bytes that they stand for."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else data(name, value)


def data(name: str, value: Any) -> bytes:
    """Bytes. A number is refused: `bytes(5)` would be five zeros."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name} of type {type(value).__name__}, not bytes")


def number(name: str, value: Any, most: int) -> int:
    """An integer from 0 to `most`."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} {value!r:.200} is not 0 to {most}")
    return int(value)


def pairs(name: str, values: Any) -> list[list[str]]:
    """User properties."""
    return [[text(name, str(key)), text(name, str(value))] for key, value in values]
