"""The events that hooks get. Each event is a thin view of the broker's data: fields are decoded on
access.

Created by the driver and by `grapnel_exhook.testing`. Do not change events, clients and messages; a
hook returns its changes (`grapnel_exhook.answers`).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple


class Action(IntEnum):
    """An action of a client on a topic."""

    PUBLISH = 1
    SUBSCRIBE = 2
    WILL = 3
    """The will of CONNECT."""
    DELIVER = 4
    """A message is about to go to the client; only for hooks with `deliver=True`."""


class Verdict(IntEnum):
    """The decision of earlier hooks."""

    NONE = 0
    ALLOW = 1
    DENY = 2


class Change(IntEnum):
    """The change of a retained message."""

    STORED = 0
    REPLACED = 1
    CLEARED = 2
    EXPIRED = 3


class Will(NamedTuple):
    """The will of a client."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Options(NamedTuple):
    """The options of a subscription (MQTT 5, 3.8.3.1)."""

    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0

    @classmethod
    def from_byte(cls, byte: int) -> Options:
        """From the byte of SUBSCRIBE."""
        return cls(byte & 3, bool(byte & 4), bool(byte & 8), byte >> 4 & 3)

    def to_byte(self) -> int:
        """As in SUBSCRIBE. Raises `ValueError` for invalid options."""
        if self.qos not in (0, 1, 2) or self.retain_handling not in (0, 1, 2):
            raise ValueError(f"{self} has a QoS or a retain handling that is not 0, 1 or 2")
        flags = bool(self.no_local) << 2 | bool(self.retain_as_published) << 3
        return int(self.qos) | flags | int(self.retain_handling) << 4


class Client:
    """A client as the broker described it when the event happened.

    CONNECT data (`clean_start` to `connected_at_ms`, `will` and `properties`) is known if the
    module has a hook at `client_connect`, `client_authenticate` or, except for the will,
    `client_connected`. Otherwise it is 0, False, None or empty.
    """

    __slots__ = ("_raw", "attributes", "number")

    def __init__(self, number: int, raw: dict[str, Any], attributes: dict[str, Any] | None = None) -> None:
        self.number = number
        self._raw = raw
        #: For hooks: values that belong to this connection, until the broker forgets the client.
        self.attributes: dict[str, Any] = {} if attributes is None else attributes

    def __repr__(self) -> str:
        return f"<Client {self.client_id!r} at {self.peer_host}:{self.peer_port}>"

    @property
    def client_id(self) -> str:
        """The client identifier; one that the broker assigned if the client had none."""
        return self._raw.get("client_id") or ""

    @property
    def username(self) -> str | None:
        """The user name, if there is one."""
        return self._raw.get("username")

    @property
    def password(self) -> bytes | None:
        """The password: any bytes. Only at `client_authenticate`."""
        return self._raw.get("password")

    @property
    def password_text(self) -> str | None:
        """The password as text; None if there is none or it is not UTF-8."""
        raw = self._raw.get("password")
        try:
            return None if raw is None else raw.decode("utf-8")
        except UnicodeDecodeError:
            return None

    @property
    def peer_host(self) -> str:
        """The address of the peer."""
        return self._raw.get("peer_host") or ""

    @property
    def peer_port(self) -> int:
        """The port of the peer; 0 if unknown."""
        return self._raw.get("peer_port") or 0

    @property
    def local_port(self) -> int:
        """The port of the listener; 0 if unknown."""
        return self._raw.get("local_port") or 0

    @property
    def listener(self) -> str:
        """The name of the listener."""
        return self._raw.get("listener") or ""

    @property
    def version(self) -> int:
        """3 is MQTT 3.1, 4 is 3.1.1, 5 is 5.0."""
        return self._raw.get("version") or 0

    @property
    def clean_start(self) -> bool:
        """Whether the client requested a new session."""
        return bool(self._raw.get("clean_start"))

    @property
    def keep_alive_s(self) -> int:
        """Keep alive in seconds; 0 for none."""
        return self._raw.get("keep_alive_s") or 0

    @property
    def session_expiry_s(self) -> int:
        """How long its session outlives the connection, in seconds."""
        return self._raw.get("session_expiry_s") or 0

    @property
    def receive_maximum(self) -> int:
        """Most unacknowledged messages that the client accepts; 0 if unknown."""
        return self._raw.get("receive_maximum") or 0

    @property
    def connected_at_ms(self) -> int:
        """When it connected, in milliseconds since 1970; 0 if unknown."""
        return self._raw.get("connected_at_ms") or 0

    @property
    def superuser(self) -> bool:
        """Whether authorization is skipped for the client."""
        return bool(self._raw.get("superuser"))

    @property
    def anonymous(self) -> bool:
        """Whether the client was let in without authentication."""
        return bool(self._raw.get("anonymous"))

    @property
    def will(self) -> Will | None:
        """The will, if there is one."""
        will = self._raw.get("will")
        if not will:
            return None
        return Will(will["topic"], will["payload"], will.get("qos") or 0, bool(will.get("retain")))

    @property
    def properties(self) -> list[tuple[str, str]]:
        """The user properties of its CONNECT."""
        return [(key, value) for key, value in self._raw.get("properties") or ()]


class Message:
    """A message. `payload` is any bytes."""

    __slots__ = ("_raw",)

    def __init__(self, raw: list[Any]) -> None:
        self._raw = raw

    def __repr__(self) -> str:
        return f"<Message {self.topic!r}, {len(self.payload)} bytes, qos {self.qos}>"

    @property
    def id(self) -> int:
        """The broker's number of the message."""
        return self._raw[0]  # type: ignore[no-any-return]

    @property
    def topic(self) -> str:
        """The topic."""
        return self._raw[1]  # type: ignore[no-any-return]

    @property
    def payload(self) -> bytes:
        """The payload; may be empty."""
        return self._raw[2]  # type: ignore[no-any-return]

    @property
    def qos(self) -> int:
        """0, 1 or 2."""
        return self._raw[3]  # type: ignore[no-any-return]

    @property
    def retain(self) -> bool:
        """The retain flag."""
        return bool(self._raw[4])

    @property
    def dup(self) -> bool:
        """Whether it may have been sent before."""
        return bool(self._raw[5])

    @property
    def publisher(self) -> str:
        """The client identifier of the publisher; empty if it is not a client."""
        return self._raw[6] or ""

    @property
    def timestamp_ms(self) -> int:
        """When the broker received it, in milliseconds since 1970."""
        return self._raw[7]  # type: ignore[no-any-return]

    @property
    def content_type(self) -> str | None:
        """Property of MQTT 5."""
        return self._properties.get("content_type")

    @property
    def response_topic(self) -> str | None:
        """Property of MQTT 5."""
        return self._properties.get("response_topic")

    @property
    def correlation_data(self) -> bytes | None:
        """Property of MQTT 5."""
        return self._properties.get("correlation_data")

    @property
    def message_expiry_s(self) -> int | None:
        """Property of MQTT 5, in seconds."""
        return self._properties.get("message_expiry_s")

    @property
    def payload_is_text(self) -> bool:
        """Whether the publisher marked the payload as UTF-8."""
        return self._properties.get("payload_format") == 1

    @property
    def properties(self) -> list[tuple[str, str]]:
        """User properties."""
        return [(key, value) for key, value in self._properties.get("user") or ()]

    @property
    def _properties(self) -> dict[str, Any]:
        return (self._raw[8] if len(self._raw) > 8 else None) or {}


_NOBODY = Client(0, {})


class Event:
    """Base of all events."""

    __slots__ = ("_data", "client")

    def __init__(self, client: Client | None, data: Any) -> None:
        #: The client of the event; without one, a client with an empty identifier.
        self.client = client or _NOBODY
        self._data = data

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.client.client_id!r}: {self._data!r}>"


class ConnectEvent(Event):
    """`client.connect`: CONNECT was received and is not decided yet."""

    __slots__ = ()


class ConnackEvent(Event):
    """`client.connack`: CONNACK is about to be sent, also for a refusal."""

    __slots__ = ()

    @property
    def reason(self) -> int:
        """The reason code of MQTT 5; 0 is success."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def session_present(self) -> bool:
        """Whether the client resumes a stored session."""
        return bool(self._data[1])


class ConnectedEvent(Event):
    """`client.connected`."""

    __slots__ = ()


class DisconnectedEvent(Event):
    """`client.disconnected`."""

    __slots__ = ()

    @property
    def reason(self) -> int:
        """The reason code of MQTT 5."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """The reason as text."""
        return self._data[1] or ""


class AuthenticateEvent(Event):
    """`client.authenticate`: decides a login. User name and password are in `client`."""

    __slots__ = ()

    @property
    def verdict(self) -> Verdict:
        """The decision of earlier hooks."""
        return Verdict(self._data[0])

    @property
    def method(self) -> str | None:
        """The authentication method of MQTT 5."""
        return self._data[1]  # type: ignore[no-any-return]

    @property
    def auth_data(self) -> bytes | None:
        """The authentication data of CONNECT, or of the last AUTH."""
        return self._data[2]  # type: ignore[no-any-return]


class AuthorizeEvent(Event):
    """`client.authorize`: decides whether a client may publish to a topic or subscribe to a
    filter."""

    __slots__ = ()

    @property
    def action(self) -> Action:
        """The requested action."""
        return _ACTIONS[self._data[0]]

    @property
    def topic(self) -> str:
        """The topic; for a subscription the topic filter."""
        return self._data[1]  # type: ignore[no-any-return]

    @property
    def qos(self) -> int:
        """0, 1 or 2."""
        return self._data[2]  # type: ignore[no-any-return]

    @property
    def retain(self) -> bool:
        """The retain flag of the message."""
        return bool(self._data[3])

    @property
    def verdict(self) -> Verdict:
        """The decision of earlier hooks."""
        return Verdict(self._data[4])


_ACTIONS = {int(action): action for action in Action}


class SubscribeEvent(Event):
    """`client.subscribe`: SUBSCRIBE was received."""

    __slots__ = ()

    @property
    def filters(self) -> list[tuple[str, Options]]:
        """Filters with their options, in the order of the packet."""
        return [(topic, Options.from_byte(byte)) for topic, byte in self._data[0]]

    @property
    def subscription_id(self) -> int | None:
        """Subscription identifier of MQTT 5."""
        return self._data[1]  # type: ignore[no-any-return]

    @property
    def properties(self) -> list[tuple[str, str]]:
        """User properties of the packet."""
        return [(key, value) for key, value in self._data[2] or ()]


class UnsubscribeEvent(Event):
    """`client.unsubscribe`: UNSUBSCRIBE was received."""

    __slots__ = ()

    @property
    def filters(self) -> list[str]:
        """Filters, in the order of the packet."""
        return list(self._data[0])

    @property
    def properties(self) -> list[tuple[str, str]]:
        """User properties of the packet."""
        return [(key, value) for key, value in self._data[1] or ()]


class SessionEvent(Event):
    """`session.created`, `.resumed`, `.discarded`, `.takenover`, `.terminated`."""

    __slots__ = ()

    @property
    def persistent(self) -> bool:
        """Whether the session outlives its connection."""
        return bool(self._data[0])

    @property
    def expiry_s(self) -> int:
        """How long it does, in seconds."""
        return self._data[1] or 0

    @property
    def cause(self) -> str | None:
        """Why it ended."""
        return self._data[2]  # type: ignore[no-any-return]

    @property
    def reason(self) -> int | None:
        """The reason code of the cause."""
        return self._data[3]  # type: ignore[no-any-return]


class SubscribedEvent(Event):
    """`session.subscribed`: a subscription was added."""

    __slots__ = ()

    @property
    def filter(self) -> str:
        """The topic filter."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def options(self) -> Options:
        """Its options."""
        return Options.from_byte(self._data[1])

    @property
    def is_new(self) -> bool:
        """Whether the session had no subscription to this filter before."""
        return bool(self._data[2])

    @property
    def subscription_id(self) -> int | None:
        """Subscription identifier of MQTT 5."""
        return self._data[3]  # type: ignore[no-any-return]


class UnsubscribedEvent(Event):
    """`session.unsubscribed`: a subscription was removed."""

    __slots__ = ()

    @property
    def filter(self) -> str:
        """The topic filter."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def cause(self) -> str | None:
        """The cause."""
        return self._data[1]  # type: ignore[no-any-return]


class MessageEvent(Event):
    """`message.publish`, `message.delivered`, `message.acked`."""

    __slots__ = ()

    @property
    def message(self) -> Message:
        """The message."""
        return Message(self._data)


class DroppedEvent(Event):
    """`message.dropped`."""

    __slots__ = ()

    @property
    def message(self) -> Message:
        """The message."""
        return Message(self._data[0])

    @property
    def by(self) -> str | None:
        """The client that it was dropped for, or `node`."""
        return self._data[1]  # type: ignore[no-any-return]

    @property
    def cause(self) -> str | None:
        """The cause."""
        return self._data[2]  # type: ignore[no-any-return]


class RetainedEvent(Event):
    """`message.retained`."""

    __slots__ = ()

    @property
    def message(self) -> Message:
        """The message."""
        return Message(self._data[0])

    @property
    def change(self) -> Change:
        """The change."""
        return Change(self._data[1])


class PacketEvent(Event):
    """`packet.received`, `packet.sent`."""

    __slots__ = ()

    @property
    def type(self) -> int:
        """The packet type: 1 CONNECT to 15 AUTH."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def data(self) -> bytes:
        """The complete packet."""
        return self._data[1]  # type: ignore[no-any-return]


class BrokerEvent(Event):
    """`broker.starting`, `broker.started`, `broker.stopping`, `broker.stopped`."""

    __slots__ = ()

    @property
    def version(self) -> str:
        """The version of the broker."""
        return self._data[0]  # type: ignore[no-any-return]

    @property
    def uptime_ms(self) -> int:
        """How long the broker has run, in milliseconds."""
        return self._data[1]  # type: ignore[no-any-return]


#: The class of events of each hook point.
# Begin: the class of events of each hook point, from plugin-abi/src/point.rs; `just abi` writes it anew
OF_POINT: dict[str, type[Event]] = {
    "client.connect": ConnectEvent,
    "client.authenticate": AuthenticateEvent,
    "client.authorize": AuthorizeEvent,
    "client.connack": ConnackEvent,
    "client.connected": ConnectedEvent,
    "client.disconnected": DisconnectedEvent,
    "client.subscribe": SubscribeEvent,
    "client.unsubscribe": UnsubscribeEvent,
    "session.created": SessionEvent,
    "session.resumed": SessionEvent,
    "session.discarded": SessionEvent,
    "session.takenover": SessionEvent,
    "session.terminated": SessionEvent,
    "session.subscribed": SubscribedEvent,
    "session.unsubscribed": UnsubscribedEvent,
    "message.publish": MessageEvent,
    "message.delivered": MessageEvent,
    "message.acked": MessageEvent,
    "message.dropped": DroppedEvent,
    "message.retained": RetainedEvent,
    "packet.received": PacketEvent,
    "packet.sent": PacketEvent,
    "broker.starting": BrokerEvent,
    "broker.started": BrokerEvent,
    "broker.stopping": BrokerEvent,
    "broker.stopped": BrokerEvent,
}
# End: the class of events of each hook point
