"""Clients as aMQTT's `Session`, and messages as its `ApplicationMessage`. Made for the driver and for the stand-in broker.

aMQTT's own constructor builds a state machine, half a millisecond each; here it is built when a plugin looks at it.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Collection, MutableMapping
from typing import Any

from amqtt.mqtt.publish import PublishPacket
from amqtt.session import IncomingApplicationMessage
from amqtt.session import Session as AmqttSession

from .packets import Aliases


def _text(value: Any) -> str | None:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


class Shown(dict[str, Any]):
    """Attributes of a session that another connection asks for: plugins see them at its login, and what they set is noted, because
    it alone is kept where the session ends instead of going on."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__(attributes)
        self._set: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        self._set.add(name)
        super().__setitem__(name, value)

    # In terms of the above.
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def own(self) -> dict[str, Any]:
        """What was set here."""
        return {name: value for name, value in self.items() if name in self._set}


class Unknown(dict[str, Any]):
    """Attributes of a session of which this worker does not know all: what is looked for in vain is told to `missed`. `lost` names
    those that are not known where it is no others."""

    def __init__(
        self,
        missed: Callable[[str], None],
        found: Callable[[str], None],
        known: dict[str, Any] | None = None,
        lost: Collection[str] | None = None,
    ) -> None:
        super().__init__(known or {})
        self._missed = missed
        self._found = found
        #: None for all that is not there.
        self.lost = None if lost is None else set(lost)
        self._set: set[str] = set()

    def own(self) -> dict[str, Any]:
        """What was set here."""
        return {name: value for name, value in dict.copy(self).items() if name in self._set}

    def _look_for(self, name: str) -> None:
        if self.lost is None or name in self.lost:
            self._missed(name)

    def __getitem__(self, name: str) -> Any:
        if not super().__contains__(name):
            self._look_for(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        # From here on it is known.
        self._found(name)
        if self.lost is not None:
            self.lost.discard(name)
        self._set.add(name)
        super().__setitem__(name, value)

    def __contains__(self, name: object) -> bool:
        there = super().__contains__(name)
        if not there:
            self._look_for(str(name))
        return there

    def _look_at_all(self) -> None:
        if self.lost is None or self.lost:
            self._missed("all of them")

    def __iter__(self) -> Any:
        self._look_at_all()
        return super().__iter__()

    def __len__(self) -> int:
        self._look_at_all()
        return super().__len__()

    def copy(self) -> dict[str, Any]:
        """All that is known."""
        self._look_at_all()
        return super().copy()

    def __eq__(self, other: object) -> bool:
        self._look_at_all()
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    # In terms of the above.
    get = MutableMapping.get
    pop = MutableMapping.pop
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault
    keys = MutableMapping.keys
    values = MutableMapping.values
    items = MutableMapping.items


class Session(AmqttSession):
    """A session of the broker's, in this worker."""

    _machine: Any = None
    _aliases: dict[str, Aliases] | None = None
    _password: str | None = None
    _told_username: str | None = None
    _is_asking = 0
    _comes_in = 0
    #: Bytes of the messages in `inflight_in`.
    held_bytes = 0
    #: Whether this worker has seen the login of its client, or has been told what that gave.
    knows_login = False
    #: What was kept of it outside of this worker, if anything.
    kept: bytes | None = None
    #: The same where another session begins than the one that its client wants to go on with.
    kept_anew: bytes | None = None
    #: The same, as another worker has said it last.
    told: bytes | None = None
    #: Called where plugins look at the attributes, which they may change then.
    touched: Callable[[Session], None] | None = None
    #: How many calls of plugins about it go on, and whether one of them has looked at the attributes.
    calls = 0
    looked_at = False
    #: Whether this worker knows with which password its client has come in.
    knows_password = False
    #: Whether its client goes on with a session of whose attributes this worker does not know all.
    goes_on_unknown = False
    #: Whether the broker has no session that it could go on with.
    is_new = False

    def __init__(self) -> None:
        self._attributes: dict[str, Any] = {}
        self._missed: set[str] = set()
        #: Packet identifiers of QoS 2 whose messages plugins have heard of before PUBREL.
        self.told_early: set[int] = set()
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if self.touched is not None and (name not in _NAMES or name == "username") and name[0] != "_":
            # Something that plugins keep with the session beside its attributes.
            self.looked_at = True
            self.touched(self)

    # aMQTT has attributes since 0.12.

    @property
    def attributes(self) -> dict[str, Any]:
        """What plugins keep with the session."""
        if self.touched is not None:
            self.looked_at = True
            self.touched(self)
        return self._attributes

    @attributes.setter
    def attributes(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    @property
    def password(self) -> str | None:
        """What CONNECT has said."""
        if self._password is None and not self.knows_password:
            self._miss("password")
        return self._password

    @password.setter
    def password(self, password: str | None) -> None:
        self._password = password

    def begin_call(self) -> None:
        """A plugin is called about it, and may change its attributes as long as the call goes on."""
        self.calls += 1

    def end_call(self) -> None:
        """It has come to its end."""
        self.calls -= 1
        if self.looked_at and self.touched is not None:
            self.touched(self)
            self.looked_at = self.calls > 0

    # What a login gave

    def _miss(self, name: str) -> None:
        if self._is_asking:
            self._missed.add(name)

    def _find(self, name: str) -> None:
        if not self._comes_in:
            self._missed.discard(name)

    def forget_login(self) -> None:
        """It was there before this worker, which does not know what plugins have kept at it."""
        self._attributes = Unknown(self._miss, self._find)

    def miss_session(self, before: Session | None = None) -> None:
        """Its client goes on with a session, and what plugins have kept there is not known here, or only what `before` has."""
        known: dict[str, Any] = {}
        lost: Collection[str] | None = None
        if before is not None:
            known, lost = dict.copy(before._attributes), getattr(before._attributes, "lost", None)
        own = dict.copy(self._attributes)
        self._attributes = Unknown(self._miss, self._find, known, lost)
        self._attributes.update(own)
        self.goes_on_unknown = True

    def ask(self, comes_in: bool = False) -> None:
        """A plugin is asked something, and may want to know what a login gave. Where its client `comes_in`, what the plugin then puts
        in the place of something unknown does not make up for that."""
        self._comes_in += comes_in
        if not self._is_asking:
            self._missed.clear()
        self._is_asking += 1

    def asked(self, comes_in: bool = False) -> str:
        """It has answered: what it has looked for and is not known here; empty for nothing."""
        self._comes_in -= comes_in
        self._is_asking -= 1
        return ", ".join(sorted(self._missed))

    def keepsake(self, complain: Callable[[str, BaseException], None], anew: bool = False) -> bytes:
        """What a login gave, for a worker that comes after this one; `anew` where its client does not go on with the session that it
        wants to go on with."""
        plain = dict.copy(self._attributes)
        if anew and isinstance(self._attributes, (Shown, Unknown)):
            plain = self._attributes.own()
        more = {name: value for name, value in vars(self).items() if name not in _NAMES and not name.startswith("_")}
        own_name = self.username if self.username != self._told_username else None
        lost: list[str] | None = []
        if isinstance(self._attributes, Unknown) and not anew:
            lost = None if self._attributes.lost is None else sorted(self._attributes.lost)
        if not (plain or more or own_name or self.is_anonymous or self._password or lost != []):
            return b""
        login: dict[str, Any] = {"password": self._password, "is_anonymous": self.is_anonymous, "username": own_name, "lost": lost}
        try:
            return pickle.dumps({**login, "attributes": plain, "more": more}, protocol=4)
        except Exception:
            # Something in it; the rest is kept all the same.
            login["attributes"] = _what_pickles(plain, "the attributes of sessions", complain)
            login["more"] = _what_pickles(more, "what is set on sessions", complain)
            if lost is not None:
                login["lost"] = [*lost, *(name for name in plain if name not in login["attributes"])]
            return pickle.dumps(login, protocol=4)

    def remember(self, kept: bytes) -> None:
        """Take over what another worker kept. Raises whatever unpickling does."""
        login = pickle.loads(kept) if kept else {}
        self._attributes = dict(login.get("attributes") or {})
        lost = login.get("lost", [])
        if lost is None or lost:
            self._attributes = Unknown(self._miss, self._find, self._attributes, lost)
        self.is_anonymous = bool(login.get("is_anonymous"))
        self._password = login.get("password")
        if login.get("username") is not None:
            self.username = login["username"]
        for name, value in (login.get("more") or {}).items():
            setattr(self, name, value)
        self.knows_password = self.knows_login = True
        self.kept = self.told = kept

    def show(self, before: Session) -> None:
        """Somebody wants to go on with a session: plugins see what they have kept at it, before it is anybody's."""
        if isinstance(before._attributes, Unknown):
            self.miss_session(before)
            self.parent = 1
            return
        self._attributes = Shown(dict.copy(before._attributes))
        self.parent = 1

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

    @property
    def is_shown(self) -> bool:
        """Whether it shows what plugins have kept at the session that its client wants to go on with, or that this is not known."""
        return isinstance(self._attributes, (Shown, Unknown))

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

    def begin(self, before: Session | None) -> None:
        """The client is in, with the session that was there before, if it goes on: what plugins have kept at it goes over."""
        shown = self._attributes
        own = shown.own() if isinstance(shown, Shown) or self.goes_on_unknown else dict.copy(shown)
        if before is None:
            if isinstance(shown, Shown):
                self._attributes, self.parent = own, 0
            elif self.goes_on_unknown:
                self._attributes = own
                self.miss_session()
            return
        mine = vars(self)
        for name, value in vars(before).items():
            # Not what aMQTT or this class has, but what plugins have set themselves.
            if name not in mine and name not in _OF_ONE and not name.startswith("_"):
                setattr(self, name, value)
        if isinstance(before._attributes, Unknown) and (self.goes_on_unknown or not isinstance(shown, Unknown)):
            self._attributes = own
            self.miss_session(before)
        elif not isinstance(shown, Unknown):
            self._attributes = {**dict.copy(before._attributes), **own}
        self.retained_messages = before.retained_messages
        self.inflight_in, self.held_bytes, self.told_early = before.inflight_in, before.held_bytes, before.told_early
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
        if raw.get("username") != self._told_username:
            # Only then: a plugin may have given it another name.
            self.username = self._told_username = raw.get("username")
        if raw.get("password") is not None:
            # Told only while the client is being let in.
            self.password = _text(raw["password"])
        self.remote_address = raw.get("peer_host")
        self.remote_port = raw.get("peer_port")
        if "clean_start" not in raw:
            # The broker knows the rest only while the client is being let in.
            return
        if not raw.get("earlier"):
            if isinstance(self._attributes, Unknown) and not self.knows_login:
                # It was heard of before its login.
                self._attributes = dict.copy(self._attributes)
            self.knows_login = True
        self.clean_session = bool(raw["clean_start"])
        self.keep_alive = raw.get("keep_alive_s") or 0
        # Without a will, what aMQTT has of such a CONNECT.
        will = raw.get("will") or {"topic": None, "payload": None}
        self.will_flag = bool(raw.get("will"))
        self.will_topic = will["topic"]
        self.will_message = will["payload"]
        self.will_qos = will.get("qos") or 0
        self.will_retain = bool(will.get("retain"))


# What is no other connection's.
_OF_ONE = frozenset(("goes_on_unknown", "is_new", "told"))
_KEPT = {"kept", "kept_anew"}
_NAMES = frozenset(vars(Session())) | _KEPT | {"touched", "calls", "looked_at", "knows_login", "knows_password", "held_bytes"} | _OF_ONE


def _what_pickles(values: dict[str, Any], where: str, complain: Callable[[str, BaseException], None]) -> dict[str, Any]:
    """Those values that another process can have."""
    there = {}
    for name, value in values.items():
        try:
            pickle.dumps(value, protocol=4)
        except Exception as error:
            complain(f"{name!r} among {where}", error)
            continue
        there[name] = value
    return there


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
