"""What MQTT can carry. `broker` and the own API's answers check here what user code wants sent, so that a mistake is a sentence
where it was made and not a message that the broker cannot send.

All raise `ValueError` or `TypeError` with a sentence that begins with the name of the value.
"""

from __future__ import annotations

from typing import Any

from ._match import check

_TEXT_BYTES_MAX = 0xFFFF
# Texts of no more characters fit whatever stands in them.
_SURELY_FITS_CHARS = _TEXT_BYTES_MAX // 4


def text(name: str, value: Any) -> str:
    """Text of at most 65,535 bytes in UTF-8."""
    if not isinstance(value, str):
        raise TypeError(f"{name} of type {type(value).__name__}, not text")
    if len(value) > _SURELY_FITS_CHARS and len(value.encode("utf-8", "surrogatepass")) > _TEXT_BYTES_MAX:
        raise ValueError(f"{name} is longer than the {_TEXT_BYTES_MAX} bytes that MQTT has for it")
    return value


def topic(name: str, value: Any) -> str:
    """A topic that messages go to: no wildcards."""
    if not isinstance(value, str) or not value or "+" in value or "#" in value or "\0" in value:
        raise ValueError(f"{name} {value!r:.200} is no topic to publish to")
    return text(name, value)


def topic_filter(name: str, value: Any) -> str:
    """A topic filter."""
    return text(name, check(value))


def payload(name: str, value: Any) -> bytes:
    """Bytes; text becomes UTF-8, what came as surrogates the bytes it was."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else data(name, value)


def data(name: str, value: Any) -> bytes:
    """Bytes. A number is refused: `bytes(5)` is five zeros, which nobody means."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name} of type {type(value).__name__}, not bytes")


def number(name: str, value: Any, most: int) -> int:
    """A whole number from 0 to `most`."""
    if not isinstance(value, int) or not 0 <= value <= most:
        raise ValueError(f"{name} {value!r:.200} is not 0 to {most}")
    return int(value)


def pairs(name: str, values: Any) -> list[list[str]]:
    """User properties."""
    return [[text(name, str(key)), text(name, str(value))] for key, value in values]
