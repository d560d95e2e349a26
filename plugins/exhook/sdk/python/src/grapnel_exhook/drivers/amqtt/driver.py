"""The driver for aMQTT's plugins: passes events to their methods, and converts their decisions
about logins and topics.

Called by the worker. `manager.py` loads plugins; `stand_in.py` is the broker they see. `calls.py`
calls their methods; `logins.py` has what they have learned at logins.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from ..._clients import Clients
from ..._driver import FAILED, STOP, LoadError
from .calls import Calls
from .logins import Logins, are_wanted

ALLOW = (STOP, {"allow": True})
DENY = (STOP, {"allow": False})


class AmqttDriver(Calls):
    """Runs the plugins of one configuration of aMQTT."""

    def __init__(self, setup: dict[str, Any]) -> None:
        super().__init__()
        self._setup = setup
        self._clients = Clients()
        self._has_started = False
        self._is_stopping = False
        self.keeps = False
        self._received: Any = None
        self._broker: Any = None
        self._logins: Any = None

    def load(self) -> None:
        logging.getLogger("transitions").setLevel(logging.WARNING)
        # aMQTT warns about deprecated settings that are supported here.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="amqtt")
        try:
            from . import config
            from .manager import Manager  # noqa: F401

            self._settings = config.read(self._setup)
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] not in ("amqtt", "yaml"):
                raise
            raise LoadError("driver amqtt needs the package amqtt: pip install 'grapnel-exhook[amqtt]'") from error

    def start(self) -> Awaitable[None]:
        return self._start()

    async def _start(self) -> None:
        from .manager import Manager
        from .received import Received
        from .stand_in import Context, StandIn

        settings = self._settings
        self._broker = StandIn(settings.broker, self._notify_retained, settings.mirror, settings.retained_bytes_max)
        context = Context(self._broker)
        context.config = settings.broker
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._manager = Manager(settings.namespace, context, asyncio.get_running_loop(), settings.topic_check)
        self._broker.plugins_manager = self._manager
        self._received = Received()
        self._logins = Logins(self._broker, lambda name, error: self.complain(name, error))
        self.keeps = are_wanted(self._manager, settings.mirror)
        if not self._manager.plugins:
            raise LoadError(f"aMQTT's configuration names no plugins, and {settings.namespace} has no entry points")
        await self._fire("broker_pre_start")
        if self._setup.get("running", True):
            await self._fire("broker_post_start")
            self._has_started = True
        self._mount()

    def describe(self, number: int, client: dict[str, Any]) -> None:
        known = self._clients.describe(number, client)
        if known.thing is not None:
            known.thing.describe(client)
            if "login" in client:
                self._logins.come_late(number, known)

    def forget(self, number: int) -> None:
        self._clients.forget(number)

    def settle(self) -> None:
        if self._logins is not None:
            self._logins.settle()

    def stop(self) -> Awaitable[None]:
        return self._stop()

    async def _stop(self) -> None:
        until = asyncio.get_running_loop().time() + self.farewell_s * _FAREWELL_SHARE

        def left() -> float:
            return max(until - asyncio.get_running_loop().time(), _STAGE_S)

        if not self._is_stopping:
            self._is_stopping = True
            await self._fire("broker_pre_shutdown", left())
        await self._fire("broker_post_shutdown", left())
        closes = [(type(plugin).__name__, getattr(plugin, "close", None)) for plugin in self._manager.plugins]
        await self._beside_each_other([(f"{name}.close", close) for name, close in closes if close is not None], left())

    # What is mounted

    def _mount(self) -> None:
        """Mount only what plugins listen to, and what the context's tables need."""
        mirror = self._settings.mirror
        self._mount_life()
        connected, gone = self._methods("broker_client_connected"), self._methods("broker_client_disconnected")
        if mirror and not self._manager.authenticators:
            # The first gives full descriptions, the second says whether the session is resumed.
            self._on("client.connect", lambda client, data: None)
            self._on("client.connack", self._answered)
        if connected or gone or mirror or self.keeps:
            self._on("client.connected", lambda client, data: self._connected(connected, client), connected)
            self._on("client.disconnected", lambda client, data: self._disconnected(gone, client), gone)
        if mirror:
            self._on("session.terminated", self._ended)
            self._on("session.discarded", self._ended)
        subscribed = self._methods("broker_client_subscribed")
        if subscribed or mirror:
            self._on("session.subscribed", lambda client, data: self._subscribed(subscribed, client, data), subscribed)
        unsubscribed = self._methods("broker_client_unsubscribed")
        if unsubscribed or mirror:
            self._on("session.unsubscribed", lambda client, data: self._unsubscribed(unsubscribed, client, data), unsubscribed)
        self._mount_messages(mirror)
        self._mount_packets()
        self._mount_verdicts()

    def _session(self, number: int, is_in: bool = True) -> Any:
        """The session of a client; None if there is none. `is_in`: only a client that was let in is
        meant."""
        known = self._clients.get(number)
        if known is None or not known.raw.get("client_id"):
            return None
        if known.thing is None:
            from .sessions import Session

            before = None if known.came_in else self._broker.session_of(known.raw)
            if before is not None and (not is_in or known.raw.get("earlier")) and not before.is_from(known.raw):
                # A pending login under the identifier of a client, or of one whose login was not
                # seen here.
                before = None
            known.thing = before or Session()
            known.thing.describe(known.raw)
            if before is None:
                self._logins.recall(known)
                if self.keeps:
                    known.thing.touched = partial(self._logins.touch, number)
        if is_in and not known.came_in and not self._broker.is_in(known.thing):
            # It connected before this worker started.
            self._broker.connected(known.thing)
        return known.thing

    # Life

    def _mount_life(self) -> None:
        if self._methods("broker_post_start"):
            if self._has_started:
                # It may be queued from before the start of this worker.
                self._handlers["broker.started"] = lambda client, data: None
            else:
                self._on("broker.started", lambda client, data: self._late_start())
        if self._methods("broker_pre_shutdown"):
            self._on("broker.stopping", lambda client, data: self._early_stop())

    async def _late_start(self) -> None:
        if not self._has_started:
            self._has_started = True
            await self._fire("broker_post_start")

    async def _early_stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            await self._fire("broker_pre_shutdown")

    # Clients and sessions

    def _answered(self, client: int, data: Any) -> None:
        reason, there = data
        session = None if reason else self._session(client, is_in=False)
        if session is not None:
            self._show_what_is_kept(client, session, there)

    def _connected(self, methods: list[Any], client: int) -> Any:
        session = self._session(client)
        self._broker.connected(session)
        if self.keeps:
            self._logins.enter(client, session)
        return self._notify(methods, {"client_id": session.client_id, "client_session": session}, session)

    def _disconnected(self, methods: list[Any], client: int) -> Any:
        session = self._session(client)
        session.become("disconnected")
        if not self._settings.mirror:
            # The end of its session is not notified.
            self._over(client, session)
        return self._notify(methods, {"client_id": session.client_id, "client_session": session}, session)

    def _ended(self, client: int, data: Any) -> None:
        session = self._session(client)
        self._broker.ended(session)
        self._over(client, session)

    def _over(self, client: int, session: Any) -> None:
        self._received.drop(session)
        if session.kept is not None:
            session.kept = None
            self._logins.give(client, session, None)

    def _subscribed(self, methods: list[Any], client: int, data: Any) -> Any:
        session, topic, qos = self._session(client), data[0], data[1] & 3
        client_id = session.client_id
        self._broker.subscribed(client_id, topic, qos)
        if len(data) > 4 and data[4] == "plugin":
            # aMQTT reports SUBSCRIBE, not subscriptions by plugins.
            return None
        return self._notify(methods, {"client_id": client_id, "topic": topic, "qos": qos}, session)

    def _unsubscribed(self, methods: list[Any], client: int, data: Any) -> Any:
        session, topic = self._session(client), data[0]
        client_id = session.client_id
        self._broker.unsubscribed(client_id, topic)
        if data[1] not in _BY_UNSUBSCRIBE:
            # aMQTT reports UNSUBSCRIBE, not the end of a session.
            return None
        return self._notify(methods, {"client_id": client_id, "topic": topic}, session)

    # Messages

    def _mount_messages(self, mirror: bool) -> None:
        broadcast = self._methods("broker_message_broadcast")
        if broadcast:
            from .sessions import incoming

            def about_to_go(client: int, data: Any) -> Any:
                session = self._session(client)
                if session is None or data[8].get("will"):
                    # aMQTT reports a client's PUBLISH, not its own messages or wills.
                    return None
                return self._notify(broadcast, {"client_id": session.client_id, "message": incoming(data)}, session)

            self._on("message.publish", about_to_go, broadcast)
        retained = self._methods("broker_retained_message")
        if retained or mirror:
            self._on("message.retained", lambda client, data: self._retained(retained, data), retained)

    def _retained(self, methods: list[Any], data: Any) -> Any:
        from amqtt.broker import RetainedApplicationMessage

        from .stand_in import Retained

        raw, change = data
        topic = raw[1]
        if change >= _EXPIRED:
            self._broker.retained_messages.forget(topic)
            return None
        payload = b"" if change == _CLEARED else raw[2]
        # The publisher; a plugin has no session.
        source = self._broker.session(raw[6])
        if change == _CLEARED:
            self._broker.retained_messages.forget(topic)
        else:
            self._broker.retained_messages.keep(topic, Retained(source, topic, payload, raw[3]))
        if not methods:
            return None
        message = RetainedApplicationMessage(source, topic, payload, raw[3])
        return self._notify(methods, {"client_id": None, "retained_message": message})

    async def _notify_retained(self, message: Any) -> None:
        """The broker does not return messages that plugins retain, but aMQTT reports them."""
        arguments = {"client_id": None, "retained_message": message}
        for method in self._methods("broker_retained_message"):
            try:
                await method.call(**method.wants(arguments))
            except Exception as error:
                self.complain(method.name, error)

    # Packets

    def _mount_packets(self) -> None:
        received, published = self._methods("mqtt_packet_received"), self._methods("broker_message_received")
        if received or published:
            methods = [*received, *published]
            self._on("packet.received", lambda client, data: self._packet_in(received, published, client, data), methods)
        sent = self._methods("mqtt_packet_sent")
        if sent:
            self._on("packet.sent", lambda client, data: self._packet_out(sent, client, data), sent)

    def _decode(self, way: str, session: Any, client: int, data: bytes) -> Any:
        from .packets import decode

        version = self._clients.raw(client).get("version") or _version_of(data)
        return decode(data, version, session.topic_aliases(way) if session is not None else None)

    def _packet_in(self, received: list[Any], published: list[Any], client: int, data: Any) -> Any:
        kind, raw = data
        session = self._session(client, is_in=False)
        if kind == _CONNECT and session is not None:
            session.begin_connection()
        if kind == _PUBREL and published:
            message = self._received.release(session, _packet_id(raw))
            calls_received = self._notify_received(published, session, [] if message is None else [message])
            if not received:
                return calls_received
        elif not received and kind != _PUBLISH:
            return None
        else:
            calls_received = []
        packet = self._decode("received", session, client, raw)
        if packet is None:
            return None
        # aMQTT has no session when it reports CONNECT.
        arguments = {"packet": packet, "session": session if kind != _CONNECT else None}
        calls = [self._call(method, arguments, session) for method in received]
        if kind == _PUBLISH and published:
            calls_received = self._notify_received(published, session, self._received.publish(session, packet))
        return calls + calls_received

    def _notify_received(self, methods: list[Any], session: Any, messages: list[Any]) -> list[Any]:
        calls = []
        for message in messages:
            arguments = {"client_id": session.client_id if session else None, "message": message}
            calls += [self._call(method, arguments, session) for method in methods]
        return calls

    def _packet_out(self, sent: list[Any], client: int, data: Any) -> Any:
        session = self._session(client, is_in=False)
        packet = self._decode("sent", session, client, data[1])
        return None if packet is None else self._notify(sent, {"packet": packet, "session": session}, session)

    # Verdicts

    def _mount_verdicts(self) -> None:
        authenticators = self._manager.authenticators
        if authenticators:
            self._on("client.authenticate", self._asking_about_login(authenticators), authenticators, answers=True)
        filters = self._manager.filters
        if filters:
            self._on("client.authorize", self._asking_about_topic(filters), filters, answers=True, deliver=True)

    def _asking_about_login(self, methods: list[Any]) -> Callable[[int, Any], Coroutine[Any, Any, Any]]:
        async def authenticate(number: int, session: Any) -> Any:
            arguments = {"session": session}
            missed = "?"
            session.request(comes_in=True)
            try:
                answers = [await method.call(**method.wants(arguments)) for method in methods]
            finally:
                missed = session.requested(comes_in=True)
            # A login needs at least one plugin that accepts it, and none that refuses it.
            said = [answer for answer in answers if answer is not None]
            if not said or not all(said):
                return DENY
            if missed:
                return (
                    FAILED,
                    f"authenticate looks for {missed} of the session of {session.client_id}, which is older than this worker, and of "
                    "whose login nothing is kept; a client that begins a new session is let in without it",
                )
            if self.keeps:
                self._logins.keep_coming(number, session)
            return ALLOW

        # Looked up now: when the coroutine begins, the client may have gone.
        return lambda client, data: authenticate(client, self._at_login(client, data))

    def _at_login(self, client: int, data: Any) -> Any:
        """The session of a connecting client, with plugins' data of the one to resume."""
        session = self._session(client, is_in=False)
        session.knows_password = True
        self._show_what_is_kept(client, session, data[3] if len(data) > 3 else None)
        return session

    def _show_what_is_kept(self, client: int, session: Any, there: bool | None) -> None:
        """Copy plugins' data of the session to resume. `there`: whether it exists, None if
        unknown."""
        session.is_new = there is False and not self._broker.has(session)
        if there is False or session.clean_session or session.is_shown or self._broker.has(session) or not self._settings.mirror:
            return
        before = self._broker.session_of(self._clients.raw(client))
        stored = self._clients.raw(client).get("stored")
        if before is None and stored is not None:
            before = self._logins.stored(self._clients.raw(client), stored)
        if before is not None:
            session.show(before)
        elif there:
            session.miss_session()

    def _asking_about_topic(self, methods: list[Any]) -> Callable[[int, Any], Coroutine[Any, Any, Any]]:
        from amqtt.contexts import Action

        actions = {1: Action.PUBLISH, 2: Action.SUBSCRIBE, 3: Action.PUBLISH, 4: Action.RECEIVE}

        async def topic_filtering(session: Any, data: Any) -> Any:
            arguments = {"session": session, "topic": data[1], "action": actions[data[0]]}
            missed = "?"
            session.request()
            session.begin_call()
            try:
                answers = [await method.call(**method.wants(arguments)) for method in methods]
            finally:
                missed = session.requested()
                session.end_call()
            said = [answer for answer in answers if answer is not None]
            if not all(said):
                return DENY
            if missed:
                # Missing data must not turn a denial into a permission.
                return (
                    FAILED,
                    f"topic_filtering looks for {missed} of the session of {session.client_id}, whose login this worker has not seen; "
                    "it has that when the client has come anew",
                )
            return ALLOW if said else None

        # The will of a client that is not in must not use the session of the client it names.
        return lambda client, data: topic_filtering(self._session(client, is_in=data[0] != _WILL), data)


# Part of the shutdown time that its three steps may use, and the least time of a step.
_FAREWELL_SHARE = 0.9
_STAGE_S = 0.05
_CONNECT = 1
#: Value of `action` at client.authorize for a will.
_WILL = 3
_PUBLISH = 3
_PUBREL = 6
_CLEARED = 2
_EXPIRED = 3
#: Values of `cause` at session.unsubscribed for an UNSUBSCRIBE.
_BY_UNSUBSCRIBE = (None, "unsubscribe")


def _version_of(data: bytes) -> int:
    """The protocol version in a CONNECT, before the client is described."""
    if data[0] >> 4 != 1:
        return 4
    at = 1
    while data[at] & 0x80:
        at += 1
    at += 1
    return data[at + 2 + int.from_bytes(data[at : at + 2], "big")]


def _packet_id(data: bytes) -> int:
    """The packet identifier, if it follows the fixed header."""
    at = 1
    while data[at] & 0x80:
        at += 1
    return int.from_bytes(data[at + 1 : at + 3], "big")
