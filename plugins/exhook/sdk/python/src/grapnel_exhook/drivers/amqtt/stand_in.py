"""Stands for aMQTT's `Broker` behind the context of plugins: sends their commands to the broker,
and its tables show what this worker was notified of.

Plugins reach it through `amqtt.broker.BrokerContext`; the driver updates its tables. It must not
call hooks, except on_broker_retained_message for messages that plugins retain themselves, as aMQTT
does.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from amqtt.broker import BrokerContext, RetainedApplicationMessage

from ... import _commands, _values
from ... import broker as commands
from .sessions import Session

logger = logging.getLogger("grapnel_exhook.amqtt")
# Memory of an entry of the table besides topic and payload, bytes.
_RETAINED_BYTES = 500


class Retained(RetainedApplicationMessage):
    """A retained message of the table. It does not reference its publisher's session, which may
    have ended."""

    __slots__ = ("_source",)

    @property
    def source_session(self) -> Session | None:
        """The publisher's session, while it exists."""
        return None if self._source is None else self._source()

    @source_session.setter
    def source_session(self, session: Session | None) -> None:
        self._source = None if session is None else weakref.ref(session)


class RetainedTable(dict[str, Any]):
    """Retained messages by topic. Setting an item retains the message in the broker."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__()
        self._bytes_max = bytes_max
        self._costs: dict[str, int] = {}
        # Bytes of all entries.
        self._bytes = 0
        #: Number of messages that had no room.
        self.missed = 0

    def __setitem__(self, topic: str, message: Any) -> None:
        self.keep(topic, message)
        _store(topic, bytes(message.data), message.qos)

    def __delitem__(self, topic: str) -> None:
        if topic not in self:
            raise KeyError(topic)
        self.forget(topic)
        _store(topic, b"")

    def pop(self, topic: str, *default: Any) -> Any:
        """Clear one and return it."""
        if default and topic not in self:
            return default[0]
        message = self[topic]
        del self[topic]
        return message

    # Use the methods above, so that the broker is informed.
    popitem = MutableMapping.popitem
    clear = MutableMapping.clear
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def keep(self, topic: str, message: Any) -> None:
        """The broker has retained it."""
        self.forget(topic)
        cost = _cost(topic, message)
        if self._bytes + cost > self._bytes_max:
            self.missed += 1
            if self.missed & (self.missed - 1) == 0:
                # Only the first, second, fourth, eighth … time.
                logger.warning(
                    "plugins do not see all retained messages: those that they see take %d bytes, and retained_bytes_max is %d "
                    "(%d so far)", self._bytes, self._bytes_max, self.missed,
                )  # fmt: skip
            return
        self._bytes += cost
        # Plugins may change a message, so its size is recorded.
        self._costs[topic] = cost
        super().__setitem__(topic, message)

    def forget(self, topic: str) -> None:
        """The broker has removed it."""
        if topic in self:
            super().__delitem__(topic)
            self._bytes -= self._costs.pop(topic)


def _cost(topic: str, message: Any) -> int:
    return _RETAINED_BYTES + len(topic) + len(message.data)


class Context(BrokerContext):
    """aMQTT's context of plugins, without methods that create sessions: here only clients create
    them."""

    async def add_subscription(self, client_id: str, topic: str | None, qos: int | None) -> None:
        """Subscribe a client. The broker logs an error if that client has no session."""
        if topic is not None and qos is not None:
            commands.subscribe(client_id, topic, qos)
        elif self.get_session(client_id) is None:
            self._broker_instance.say_absent(self.logger, client_id)


class StandIn:
    """The broker that plugins see."""

    def __init__(self, config: Any, retained: Callable[[Any], Awaitable[None]], mirror: bool, retained_bytes_max: int) -> None:
        """Without `mirror` session ends are not notified, so the tables contain only what plugins
        put into them."""
        self.config = config
        self._mirror = mirror
        self.logger = logger
        self.plugins_manager: Any = None
        self._retained = retained
        self._sessions: dict[str, tuple[Session, Any]] = {}
        self._filters: dict[str, dict[str, int]] = {}
        self._retained_messages = RetainedTable(retained_bytes_max)
        self._absent = 0

    # Called by BrokerContext

    @property
    def sessions(self) -> dict[str, tuple[Session, Any]]:
        """Sessions by client identifier, paired with None instead of aMQTT's connection handler."""
        return self._sessions

    @property
    def retained_messages(self) -> RetainedTable:
        """Retained messages by topic."""
        return self._retained_messages

    @property
    def subscriptions(self) -> dict[str, list[tuple[Session, int]]]:
        """Subscriptions by filter, in a new dict."""
        table: dict[str, list[tuple[Session, int]]] = {}
        for client_id, filters in self._filters.items():
            known = self._sessions.get(client_id)
            if known is not None:
                for topic, qos in filters.items():
                    table.setdefault(topic, []).append((known[0], qos))
        return table

    _subscriptions = subscriptions

    async def internal_message_broadcast(self, topic: str, data: bytes, qos: int | None = None) -> None:
        """Publish. Without a QoS each subscriber gets its own, as if published with QoS 2."""
        commands.publish(topic, bytes(data), qos=_qos(qos))

    async def retain_message(
        self, source_session: Any, topic_name: str | None, data: bytes | bytearray | None, qos: int | None = None
    ) -> None:
        """Retain the message, without data remove it. Subscribers get nothing."""
        if topic_name is None:
            return
        if data:
            message = RetainedApplicationMessage(source_session, topic_name, data, qos)
            _store(topic_name, bytes(data), qos)
            self._retained_messages.keep(topic_name, message)
            await self._retained(message)
        else:
            _store(topic_name, b"")
            cleared = self._retained_messages.get(topic_name)
            if cleared is not None:
                self._retained_messages.forget(topic_name)
                cleared.data = b""
                await self._retained(cleared)

    def say_absent(self, log: logging.Logger, client_id: str) -> None:
        """Log that a plugin requested a session that no client has begun: the first, second,
        fourth, eighth … time."""
        self._absent += 1
        if self._absent & (self._absent - 1) == 0:
            text = "add_subscription: there is no session of %s, and only its client can begin one (%d so far)"
            log.warning(text, client_id, self._absent)

    def create_offline_session(self, client_id: str) -> tuple[Any, Session]:
        """A session for an unknown client. It is not added to the tables."""
        session = Session()
        session.client_id = client_id
        session.become("disconnected")
        return None, session

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
        """Subscribe a session. Returns the requested QoS; the table changes when the broker
        notifies the worker."""
        topic, qos = subscription
        commands.subscribe(session.client_id, topic, qos)
        return qos

    # Called by the driver

    def session(self, client_id: str | None) -> Session | None:
        """The session of a client, if there is one."""
        return self._sessions.get(client_id or "", (None, None))[0]

    def session_of(self, raw: dict[str, Any]) -> Session | None:
        """The session of a described client, if it is known here. One that has ended, without a
        notification, is removed."""
        client_id, number = raw["client_id"], raw.get("session")
        known = self.session(client_id)
        if known is None or known.session_number is None or "session" not in raw:
            return known
        if number is not None and number > known.session_number:
            self._sessions.pop(client_id, None)
            self._filters.pop(client_id, None)
        return known if number == known.session_number else None

    def is_in(self, session: Session) -> bool:
        """Whether `connected` was called for its client."""
        return self.session(session.client_id) is not None if self._mirror else session.is_connected

    def has(self, session: Session) -> bool:
        """Whether it is the present or last session of its client."""
        return self.session(session.client_id) is session if self._mirror else session.is_connected

    def keep(self, session: Session) -> None:
        """Add a session of the broker whose client is not connected."""
        self._sessions[session.client_id or ""] = (session, None)

    def connected(self, session: Session) -> None:
        """A client is in. Plugins' values of its session are taken over."""
        if not self._mirror:
            session.become("connected")
            return
        client_id = session.client_id or ""
        before = self._sessions.get(client_id, (None, None))[0]
        if before is not session:
            if before is not None and (session.is_new or before.is_other_than(session.session_number)):
                # The end of the known session was not notified.
                self._filters.pop(client_id, None)
                before = None
            session.begin(None if session.clean_session else before)
        session.become("connected")
        self._sessions[client_id] = (session, None)

    def ended(self, session: Session) -> None:
        """A session has ended."""
        known = self._sessions.get(session.client_id or "")
        if known is None or known[0].is_other_than(session.session_number):
            return
        if known[0] is session or not known[0].is_connected:
            self._sessions.pop(session.client_id or "", None)
            self._filters.pop(session.client_id or "", None)

    def subscribed(self, client_id: str, topic: str, qos: int) -> None:
        """A subscription was added."""
        if self._mirror:
            self._filters.setdefault(client_id, {})[topic] = qos

    def unsubscribed(self, client_id: str, topic: str) -> None:
        """A subscription was removed."""
        filters = self._filters.get(client_id)
        if filters is not None:
            filters.pop(topic, None)
            if not filters:
                self._filters.pop(client_id, None)


def _store(topic: str, data: bytes, qos: int | None = 0) -> None:
    """Retain without sending to subscribers, as aMQTT does."""
    message = {
        "topic": _values.topic("topic", topic), "payload": data, "qos": _values.number("qos", _qos(qos), 2), "retain": True,
        "store_only": True,
    }  # fmt: skip
    _commands.give(["publish", message])


def _qos(qos: int | None) -> int:
    return 2 if qos is None else qos
