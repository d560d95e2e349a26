"""The events that hooks get. Each event is a thin view of the broker's data: fields are decoded on
access.

Created by the driver and by `grapnel_exhook.testing`. Do not change events, clients and messages; a
hook returns its changes (`grapnel_exhook.answers`).
"""

from __future__ import annotations

from typing import Any

from ._views import Action as Action
from ._views import Certificate as Certificate
from ._views import Change as Change
from ._views import Client as Client
from ._views import Message as Message
from ._views import Options as Options
from ._views import Tls as Tls
from ._views import Verdict as Verdict
from ._views import Will as Will

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
