"""What a plugin may ask of the broker, from hooks, from its own tasks and threads.

Nothing is waited for: what the broker cannot do stands in its log with the worker's name. Raises `ValueError` and `TypeError`
for what cannot be meant, `RuntimeError` where there is no broker.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import _commands
from .answers import ADMINISTRATIVE_ACTION
from .events import Options


def publish(
    topic: str,
    payload: bytes | str = b"",
    *,
    qos: int = 0,
    retain: bool = False,
    publisher: str | None = None,
    content_type: str | None = None,
    response_topic: str | None = None,
    correlation_data: bytes | None = None,
    message_expiry_s: int | None = None,
    properties: Iterable[tuple[str, str]] = (),
) -> None:
    """Publish a message. It does not come back to hooks of this plugin. Text is sent as UTF-8."""
    if not isinstance(topic, str) or not topic or "+" in topic or "#" in topic or "\0" in topic:
        raise ValueError(f"{topic!r} is no topic to publish to")
    if qos not in (0, 1, 2):
        raise ValueError(f"qos {qos!r} is not 0, 1 or 2")
    message: dict[str, object] = {
        "topic": topic,
        "payload": payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else bytes(payload),
        "qos": int(qos),
        "retain": bool(retain),
    }
    more = {
        "from": publisher,
        "content_type": content_type,
        "response_topic": response_topic,
        "correlation_data": correlation_data,
        "message_expiry_s": message_expiry_s,
        "user": [[str(key), str(value)] for key, value in properties] or None,
    }
    message.update((key, value) for key, value in more.items() if value is not None)
    _commands.give(["publish", message])


def kick(client_id: str, reason: int = ADMINISTRATIVE_ACTION) -> None:
    """Disconnect a client with a reason code of MQTT 5."""
    _commands.give(["kick", client_id, reason])


def subscribe(client_id: str, topic_filter: str, options: Options | int = 0) -> None:
    """Subscribe a session to a filter. A number is the QoS."""
    byte = options.to_byte() if isinstance(options, Options) else Options(qos=options).to_byte()
    _commands.give(["subscribe", client_id, topic_filter, byte])


def unsubscribe(client_id: str, topic_filter: str) -> None:
    """Take a subscription from a session."""
    _commands.give(["unsubscribe", client_id, topic_filter])


def invalidate(client_id: str | None = None) -> None:
    """What `client_authorize` has decided is asked again: of one client, or of all."""
    _commands.give(["invalidate", client_id])
