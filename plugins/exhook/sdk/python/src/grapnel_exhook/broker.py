"""Commands to the broker, for use in hooks, and in a plugin's own tasks and threads.

No function waits for the result. If the broker cannot run a command, its log says so with the
worker's name. `ValueError` and `TypeError` are raised for invalid values, `RuntimeError` if there
is no broker.
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
    """Publish a message. Hooks of this plugin do not get it. Text is sent as UTF-8.

    It is not authorized, because the plugin itself publishes it. If a client has chosen the topic
    or the payload, pass that client or its identifier as `on_behalf_of`: then `client_authorize` is
    called as for the client's own PUBLISH, and the client is its publisher. A refused message has
    no effect except a line in the broker's log.
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

    It is not authorized, unless `authorize` is true: then `client_authorize` is called as for the
    client's own SUBSCRIBE.
    """
    byte = (options if isinstance(options, Options) else Options(qos=options)).to_byte()
    topic_filter = _values.topic_filter("topic_filter", topic_filter)
    command: list[object] = ["subscribe", _values.text("client_id", client_id), topic_filter, byte]
    _commands.give([*command, True] if authorize else command)


def unsubscribe(client_id: str, topic_filter: str, *, authorize: bool = False) -> None:
    """Remove a subscription from a session.

    Pass the same `authorize` as for the subscription: if it is true, this command is queued after
    the subscription's authorization. It is not authorized itself.
    """
    topic_filter = _values.topic_filter("topic_filter", topic_filter)
    command: list[object] = ["unsubscribe", _values.text("client_id", client_id), topic_filter]
    _commands.give([*command, True] if authorize else command)


def invalidate(client_id: str | None = None) -> None:
    """Discard cached decisions of `client_authorize`, for one client or for all. They are requested
    again."""
    _commands.give(["invalidate", None if client_id is None else _values.text("client_id", client_id)])
