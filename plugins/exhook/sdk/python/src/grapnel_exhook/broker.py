"""What a plugin may ask of the broker, from hooks, from its own tasks and threads.

Nothing is waited for: what the broker cannot do stands in its log with the worker's name. Raises `ValueError` and `TypeError`
for what cannot be meant, `RuntimeError` where there is no broker.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import _commands, _values
from .answers import ADMINISTRATIVE_ACTION
from .events import Client, Options


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
    on_behalf_of: Client | str | None = None,
) -> None:
    """Publish a message. It does not come back to hooks of this plugin. Text is sent as UTF-8.

    Nobody authorises it: it is the plugin's own word. Where a client has chosen the topic or the payload, name it, or its
    client identifier, with `on_behalf_of`: `client_authorize` is asked as for its own PUBLISH, and the message comes from it.
    One that is refused has no effect, and the broker's log says so.
    """
    message: dict[str, object] = {
        "topic": _values.topic("topic", topic),
        "payload": _values.payload("payload", payload),
        "qos": _values.number("qos", qos, 2),
        "retain": bool(retain),
    }
    if publisher is not None:
        message["from"] = _values.text("publisher", publisher)
    if content_type is not None:
        message["content_type"] = _values.text("content_type", content_type)
    if response_topic is not None:
        message["response_topic"] = _values.topic("response_topic", response_topic)
    if correlation_data is not None:
        message["correlation_data"] = _values.data("correlation_data", correlation_data)
    if message_expiry_s is not None:
        message["message_expiry_s"] = _values.number("message_expiry_s", message_expiry_s, 0xFFFFFFFF)
    user = _values.pairs("properties", properties)
    if user:
        message["user"] = user
    if on_behalf_of is not None:
        client_id = on_behalf_of.client_id if isinstance(on_behalf_of, Client) else on_behalf_of
        if not _values.text("on_behalf_of", client_id):
            raise ValueError("on_behalf_of: a client identifier is not empty")
        message["on_behalf_of"] = client_id
    _commands.give(["publish", message])


def kick(client_id: str, reason: int = ADMINISTRATIVE_ACTION) -> None:
    """Disconnect a client with a reason code of MQTT 5."""
    _commands.give(["kick", _values.text("client_id", client_id), _values.number("reason", reason, 0xFF)])


def subscribe(
    client_id: str, topic_filter: str, options: Options | int = 0, *, authorize: bool = False
) -> None:
    """Subscribe a session to a filter. A number is the QoS.

    Nobody is asked, unless `authorize` is true: then `client_authorize` is, as for the client's own SUBSCRIBE.
    """
    byte = (options if isinstance(options, Options) else Options(qos=options)).to_byte()
    topic_filter = _values.topic_filter("topic_filter", topic_filter)
    command: list[object] = ["subscribe", _values.text("client_id", client_id), topic_filter, byte]
    _commands.give([*command, True] if authorize else command)


def unsubscribe(client_id: str, topic_filter: str, *, authorize: bool = False) -> None:
    """Take a subscription from a session.

    `authorize` is what the subscription was made with: if it is true, this waits for its turn behind that. Nobody is asked.
    """
    topic_filter = _values.topic_filter("topic_filter", topic_filter)
    command: list[object] = ["unsubscribe", _values.text("client_id", client_id), topic_filter]
    _commands.give([*command, True] if authorize else command)


def invalidate(client_id: str | None = None) -> None:
    """What `client_authorize` has decided is asked again: of one client, or of all."""
    _commands.give(["invalidate", None if client_id is None else _values.text("client_id", client_id)])
