"""Converts return values of hooks into answers of the protocol. Pure functions; `own.py` calls
them.

Each gets the return value and the data of the call, and returns None or (code, value). For a value
that does not fit the hook point it raises `WrongAnswer`; its text continues a sentence that begins
with the hook's name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .. import _values
from .._driver import GO_ON, STOP
from ..answers import Allow, Challenge, Deny, Disconnect, Drop, Limits, Modify, Refuse, Reject, Rewrite
from ..events import Options


class WrongAnswer(Exception):
    """The hook returned a value that is not allowed at its point."""


Interpreted = tuple[int, Any] | None

_ALLOW: Interpreted = (STOP, {"allow": True})
_DENY: Interpreted = (STOP, {"allow": False})


def _wrong(result: Any, expected: str) -> WrongAnswer:
    if inspect.iscoroutine(result):
        result.close()
        return WrongAnswer("returned a coroutine that nobody awaits; make the hook itself async def")
    text = repr(result)
    return WrongAnswer(f"returned {text if len(text) <= 200 else text[:200] + '…'}, not {expected}")


def _reason(value: Any, least: int = 0x80) -> int:
    if not isinstance(value, int) or not least <= value <= 0xFF:
        raise WrongAnswer(f"gave {value!r} as a reason code; those that refuse are 0x80 to 0xFF")
    return int(value)


def _fit(check: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return check(*arguments)
    except (TypeError, ValueError) as error:
        raise _unfit(error) from None


def _unfit(error: Exception) -> WrongAnswer:
    return WrongAnswer(f"answered what cannot be sent: {error}")


def connect(result: Any, data: Any) -> Interpreted:
    """client.connect"""
    if result is None:
        return None
    if isinstance(result, Refuse):
        value: dict[str, Any] = {"refuse": _reason(result.reason)}
        if result.text is not None:
            value["text"] = _fit(_values.text, "text", result.text)
        return (STOP, value)
    if isinstance(result, Limits):
        limits = (("keep_alive_s", result.keep_alive_s, 0xFFFF), ("session_expiry_s", result.session_expiry_s, 0xFFFFFFFF))
        value = {}
        for key, number, most in limits:
            if number is None:
                continue
            value[key] = _fit(_values.number, key, number, most)
        return (GO_ON, value) if value else None
    raise _wrong(result, "None, Refuse or Limits")


def authenticate(result: Any, data: Any) -> Interpreted:
    """client.authenticate"""
    if result is None:
        return None
    if result is True:
        return _ALLOW
    if result is False:
        return _DENY
    if isinstance(result, Allow):
        value: dict[str, Any] = {"allow": True}
        if result.superuser is not None:
            value["superuser"] = bool(result.superuser)
        if result.auth_data is not None:
            value["auth_data"] = _fit(_values.data, "auth_data", result.auth_data)
        return (STOP if result.last else GO_ON, value)
    if isinstance(result, Deny):
        return _deny(result)
    if isinstance(result, Challenge):
        return (STOP, {"another_round": _fit(_values.data, "auth_data", result.auth_data)})
    raise _wrong(result, "None, a bool, Allow, Deny or Challenge")


def _deny(result: Deny) -> Interpreted:
    value: dict[str, Any] = {"allow": False}
    if result.reason is not None:
        value["reason"] = _reason(result.reason)
    return (STOP if result.last else GO_ON, value)


def authorize(result: Any, data: Any) -> Interpreted:
    """client.authorize"""
    if result is True:
        return _ALLOW
    if result is False:
        return _DENY
    if result is None:
        return None
    if isinstance(result, Allow):
        return (STOP if result.last else GO_ON, {"allow": True})
    if isinstance(result, Deny):
        return _deny(result)
    raise _wrong(result, "None, a bool, Allow or Deny")


def _filters(result: Any, count: int, with_options: bool) -> Interpreted:
    if result is None:
        return None
    if not isinstance(result, (list, tuple)) or len(result) != count:
        raise _wrong(result, f"None or a list with one item for each of the {count} filters of the packet")
    items: list[list[Any]] = []
    for index, item in enumerate(result):
        if item is None:
            continue
        if isinstance(item, str):
            item = Rewrite(item)
        if isinstance(item, Refuse):
            items.append([index, None, None, _reason(item.reason)])
        elif isinstance(item, Rewrite) and (item.options is None or (with_options and isinstance(item.options, Options))):
            topic = None if item.filter is None else _fit(_values.topic_filter, "filter", item.filter)
            items.append([index, topic, None if item.options is None else _fit(Options.to_byte, item.options), None])
        else:
            raise _wrong(item, "None, a filter, Rewrite or Refuse for a filter")
    return (GO_ON, {"filters": items}) if items else None


def subscribe(result: Any, data: Any) -> Interpreted:
    """client.subscribe"""
    return _filters(result, len(data[0]), True)


def unsubscribe(result: Any, data: Any) -> Interpreted:
    """client.unsubscribe"""
    return _filters(result, len(data[0]), False)


def publish(result: Any, data: Any) -> Interpreted:
    """message.publish"""
    if result is None:
        return None
    if isinstance(result, Modify):
        value = _modify(result)
        return (GO_ON, value) if value else None
    if isinstance(result, Drop):
        return (STOP, {"drop": True})
    if isinstance(result, Reject):
        value = {"reject": _reason(result.reason)}
    elif isinstance(result, Disconnect):
        value = {"disconnect": _reason(result.reason)}
    else:
        raise _wrong(result, "None, Modify, Drop, Reject or Disconnect")
    if result.text is not None:
        value["text"] = _fit(_values.text, "text", result.text)
    return (STOP, value)


def _modify(result: Modify) -> dict[str, Any]:
    value: dict[str, Any] = {}
    try:
        for key, check in _OF_MODIFY:
            given = getattr(result, key)
            if given is not None:
                value[key] = check(key, given)
        if result.retain is not None:
            value["retain"] = bool(result.retain)
        added = _values.pairs("add_properties", result.add_properties)
    except (TypeError, ValueError) as error:
        raise _unfit(error) from None
    if added:
        value["user"] = added
    return value


_OF_MODIFY: tuple[tuple[str, Callable[[str, Any], Any]], ...] = (
    ("topic", _values.topic),
    ("payload", _values.payload),
    ("qos", lambda name, value: _values.number(name, value, 2)),
    ("content_type", _values.text),
    ("response_topic", _values.topic),
    ("correlation_data", _values.data),
    ("message_expiry_s", lambda name, value: _values.number(name, value, 0xFFFFFFFF)),
)


INTERPRETERS: dict[str, Callable[[Any, Any], Interpreted]] = {
    "client.connect": connect,
    "client.authenticate": authenticate,
    "client.authorize": authorize,
    "client.subscribe": subscribe,
    "client.unsubscribe": unsubscribe,
    "message.publish": publish,
}


def apply(point: str, data: Any, merged: dict[str, Any], value: dict[str, Any]) -> Any:
    """The data of a call with the change `value`, for the next hook of the same worker. Collects
    all changes in `merged`."""
    if point == "message.publish":
        message = list(data)
        for index, key in ((1, "topic"), (2, "payload"), (3, "qos"), (4, "retain")):
            message[index] = value.get(key, message[index])
        properties = dict((message[8] if len(message) > 8 else None) or {})
        for key in ("content_type", "response_topic", "correlation_data", "message_expiry_s"):
            if key in value:
                properties[key] = value[key]
        if "user" in value:
            properties["user"] = [*(properties.get("user") or ()), *value["user"]]
            value = {**value, "user": [*merged.get("user", ()), *value["user"]]}
        merged.update(value)
        return [*message[:8], properties]
    if point in ("client.subscribe", "client.unsubscribe"):
        known = {item[0]: item for item in merged.get("filters", ())}
        filters = list(data[0])
        for index, topic, options, refuse in value["filters"]:
            before = known.get(index, [index, None, None, None])
            known[index] = [
                index,
                before[1] if topic is None else topic,
                before[2] if options is None else options,
                before[3] if refuse is None else refuse,
            ]
            if point == "client.subscribe":
                old = filters[index]
                filters[index] = [old[0] if topic is None else topic, old[1] if options is None else options]
            elif topic is not None:
                filters[index] = topic
        merged["filters"] = [known[index] for index in sorted(known)]
        return [filters, *data[1:]]
    if point in ("client.authenticate", "client.authorize") and "allow" in value:
        data = list(data)
        data[0 if point == "client.authenticate" else 4] = 1 if value["allow"] else 2
    merged.update(value)
    return data
