"""Clients as aMQTT's `Session`, and messages as its `ApplicationMessage`. Made for the driver and for the stand-in broker.

aMQTT's own constructor builds a state machine, half a millisecond each; here it is built when a plugin looks at it.
"""

from __future__ import annotations

import time
from typing import Any

from amqtt.mqtt.publish import PublishPacket
from amqtt.session import IncomingApplicationMessage
from amqtt.session import Session as AmqttSession

from .packets import Aliases


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Session(AmqttSession):
    """A session of the broker's, in this worker."""

    _machine: Any = None
    _aliases: dict[str, Aliases] | None = None

    def __init__(self) -> None:
        super().__init__()
        if not hasattr(self, "attributes"):
            # aMQTT has them since 0.12.
            self.attributes: dict[str, Any] = {}

    def _init_states(self) -> None:
        self._state = "new"

    @property
    def transitions(self) -> Any:
        """aMQTT's state machine."""
        if self._machine is None:
            # It sets what this property keeps.
            super()._init_states()
            machine: Any = self._machine
            machine.set_state(self._state)
        return self._machine

    @transitions.setter
    def transitions(self, machine: Any) -> None:
        self._machine = machine

    def is_from(self, raw: dict[str, Any]) -> bool:
        """Whether a description is of the same connection."""
        return (self.remote_address, self.remote_port) == (raw.get("peer_host"), raw.get("peer_port"))

    @property
    def is_connected(self) -> bool:
        """Whether the client is there."""
        return self._state == "connected"

    def topic_aliases(self, way: str) -> Aliases:
        """Those of this connection, of packets `received` or `sent`."""
        if self._aliases is None:
            self._aliases = {}
        return self._aliases.setdefault(way, Aliases())

    def begin_connection(self) -> None:
        """A CONNECT has come: no alias is known yet."""
        self._aliases = None

    def take_over(self, before: AmqttSession) -> None:
        """The same session was there before: what plugins have kept at it goes over."""
        own = vars(self)
        for name, value in vars(before).items():
            # Not what aMQTT or this class has, but what plugins have set themselves.
            if name not in own and not name.startswith("_"):
                setattr(self, name, value)
        self.attributes = {**before.attributes, **self.attributes}
        self.retained_messages = before.retained_messages
        self.parent = 1

    def become(self, state: str) -> None:
        """The client is connected, or disconnected."""
        if self._machine is not None:
            self._machine.set_state(state)
        self._state = state
        now = int(time.time())
        if state == "connected":
            self.last_connect_time, self.last_disconnect_time = now, None
        else:
            self.last_disconnect_time = now

    def describe(self, raw: dict[str, Any]) -> None:
        """Take over what the broker says of the client. What plugins have set beside that stays."""
        self.client_id = raw.get("client_id")
        self.username = raw.get("username")
        if raw.get("password") is not None:
            # Told only while the client is being let in.
            self.password = _text(raw["password"])
        self.remote_address = raw.get("peer_host")
        self.remote_port = raw.get("peer_port")
        if "clean_start" not in raw:
            # The broker knows the rest only while the client is being let in.
            return
        self.clean_session = bool(raw["clean_start"])
        self.keep_alive = raw.get("keep_alive_s") or 0
        will = raw.get("will")
        self.will_flag = bool(will)
        if will:
            self.will_topic = will["topic"]
            self.will_message = will["payload"]
            self.will_qos = will.get("qos") or 0
            self.will_retain = bool(will.get("retain"))


class Incoming(IncomingApplicationMessage):
    """A message whose PUBLISH packet is built when a plugin looks at it."""

    __slots__ = ("_packet",)

    _packet: PublishPacket | None

    @property
    def publish_packet(self) -> PublishPacket | None:
        """The packet that it came with."""
        if self._packet is None:
            self._packet = self.build_publish_packet()
        return self._packet

    @publish_packet.setter
    def publish_packet(self, packet: PublishPacket | None) -> None:
        self._packet = packet


def incoming(raw: Any) -> Incoming:
    """The `ApplicationMessage` of a message of the protocol."""
    return Incoming(None, raw[1], raw[3], raw[2], bool(raw[4]))
