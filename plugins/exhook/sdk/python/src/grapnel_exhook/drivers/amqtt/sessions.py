"""Clients as aMQTT's `Session`, and messages as its `ApplicationMessage`. Used by the driver and
the stand-in broker.

aMQTT's own constructor builds a state machine, which takes half a millisecond. Here it is built on
first access.
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
    """Attributes of a session that a connecting client wants to resume. Plugins see them at its
    login. What they set is recorded, because only that is stored if a new session begins."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__(attributes)
        self._set: set[str] = set()

    def __setitem__(self, name: str, value: Any) -> None:
        self._set.add(name)
        super().__setitem__(name, value)

    # Use the methods above.
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault

    def own(self) -> dict[str, Any]:
        """The values that were set here."""
        return {name: value for name, value in self.items() if name in self._set}


class Unknown(dict[str, Any]):
    """Attributes of a session whose data this worker does not have completely. `missed` is called
    for a name that is not found. `lost` are the missing names, if they are known."""

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
        #: None if any name may be missing.
        self.lost = None if lost is None else set(lost)
        self._set: set[str] = set()

    def own(self) -> dict[str, Any]:
        """The values that were set here."""
        return {name: value for name, value in dict.copy(self).items() if name in self._set}

    def _look_for(self, name: str) -> None:
        if self.lost is None or name in self.lost:
            self._missed(name)

    def __getitem__(self, name: str) -> Any:
        if not super().__contains__(name):
            self._look_for(name)
        return super().__getitem__(name)

    def __setitem__(self, name: str, value: Any) -> None:
        # From here on its value is known.
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
        """All known attributes."""
        self._look_at_all()
        return super().copy()

    def __eq__(self, other: object) -> bool:
        self._look_at_all()
        return super().__eq__(other)

    __hash__ = None

    # Use the methods above.
    get = MutableMapping.get  # type: ignore[assignment]
    pop = MutableMapping.pop
    update = MutableMapping.update
    setdefault = MutableMapping.setdefault
    keys = MutableMapping.keys  # type: ignore[assignment]
    values = MutableMapping.values  # type: ignore[assignment]
    items = MutableMapping.items  # type: ignore[assignment]


class Session(AmqttSession):
    """A session of the broker, in this worker."""

    retained_messages: Any
    inflight_in: Any
    _machine: Any = None
    _aliases: dict[str, Aliases] | None = None
    _password: str | None = None
    _told_username: str | None = None
    _is_asking = 0
    _comes_in = 0
    #: Bytes of the messages in `inflight_in`.
    held_bytes = 0
    #: Whether this worker has seen the login of its client, or has its login data.
    knows_login = False
    #: The login data that the broker stores, if any.
    kept: bytes | None = None
    #: The data to use if a new session begins instead of the requested one.
    kept_anew: bytes | None = None
    #: The login data as last described by the broker.
    reported: bytes | None = None
    #: Called when plugins access the attributes, which they may then change.
    touched: Callable[[Session], None] | None = None
    #: Number of running plugin calls about it, and whether one has accessed the attributes.
    calls = 0
    looked_at = False
    #: Whether this worker knows the client's password.
    knows_password = False
    #: Whether its client resumes a session whose attributes are not completely known here.
    goes_on_unknown = False
    #: Whether the broker has no session to resume.
    is_new = False
    #: The broker's number of the session; None if it has none, or if it is not known.
    session_number: int | None = None
    #: The number of the session whose attributes it shows.
    shown_number: int | None = None

    def __init__(self) -> None:
        self._attributes: dict[str, Any] = {}
        self._missed: set[str] = set()
        #: Packet identifiers of QoS 2 whose messages were reported before PUBREL.
        self.told_early: set[int] = set()
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)
        if self.touched is not None and (name not in _NAMES or name == "username") and name[0] != "_":
            # Plugins store a value besides the attributes.
            self.looked_at = True
            self.touched(self)

    # aMQTT has attributes since 0.12.

    @property
    def attributes(self) -> dict[str, Any]:
        """Plugins' values of the session."""
        if self.touched is not None:
            self.looked_at = True
            self.touched(self)
        return self._attributes

    @attributes.setter
    def attributes(self, attributes: dict[str, Any]) -> None:
        self._attributes = attributes

    @property
    def password(self) -> str | None:
        """The password of CONNECT."""
        if self._password is None and not self.knows_password:
            self._miss("password")
        return self._password

    @password.setter
    def password(self, password: str | None) -> None:
        self._password = password

    def begin_call(self) -> None:
        """A plugin call about it begins; the call may change its attributes until it ends."""
        self.calls += 1

    def end_call(self) -> None:
        """The call has ended."""
        self.calls -= 1
        if self.looked_at and self.touched is not None:
            self.touched(self)
            self.looked_at = self.calls > 0

    # Login data

    def _miss(self, name: str) -> None:
        if self._is_asking:
            self._missed.add(name)

    def _find(self, name: str) -> None:
        if not self._comes_in:
            self._missed.discard(name)

    def forget_login(self) -> None:
        """Its client connected before this worker started, so its attributes are not known here."""
        self._attributes = Unknown(self._miss, self._find)

    def miss_session(self, before: Session | None = None) -> None:
        """Its client resumes a session whose attributes are not known here, except those of
        `before`."""
        known: dict[str, Any] = {}
        lost: Collection[str] | None = None
        if before is not None:
            known, lost = dict.copy(before._attributes), getattr(before._attributes, "lost", None)
        own = dict.copy(self._attributes)
        self._attributes = Unknown(self._miss, self._find, known, lost)
        self._attributes.update(own)
        self.goes_on_unknown = True

    def request(self, comes_in: bool = False) -> None:
        """A plugin is about to decide, and may need login data. If its client `comes_in`, a value
        that the plugin sets for an unknown attribute does not make it known."""
        self._comes_in += comes_in
        if not self._is_asking:
            self._missed.clear()
        self._is_asking += 1

    def requested(self, comes_in: bool = False) -> str:
        """The plugin has decided. Returns the name of an attribute that it needed and that is not
        known; empty for none."""
        self._comes_in -= comes_in
        self._is_asking -= 1
        return ", ".join(sorted(self._missed))

    def stored_state(self, complain: Callable[[str, BaseException], None], anew: bool = False) -> bytes:
        """The login data for a later worker; `anew` if its client does not resume the requested
        session."""
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
            # One value cannot be pickled; the others are stored.
            login["attributes"] = _what_pickles(plain, "the attributes of sessions", complain)
            login["more"] = _what_pickles(more, "what is set on sessions", complain)
            if lost is not None:
                login["lost"] = [*lost, *(name for name in plain if name not in login["attributes"])]
            return pickle.dumps(login, protocol=4)

    def remember(self, kept: bytes) -> None:
        """Take over login data of another worker. Raises whatever unpickling raises."""
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
        self.kept = self.reported = kept

    def is_other_than(self, number: int | None) -> bool:
        """Whether the session with this number is another one. If a number is not known, it may be
        this one."""
        return None not in (self.session_number, number) and self.session_number != number

    def show(self, before: Session) -> None:
        """Show a pending login the plugins' data of the session that it wants to resume."""
        self.shown_number = before.session_number
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
            # The base method sets this property.
            super()._init_states()
            machine: Any = self._machine
            machine.set_state(self._state)
        return self._machine

    @transitions.setter
    def transitions(self, machine: Any) -> None:
        self._machine = machine

    @property
    def is_shown(self) -> bool:
        """Whether it shows data of the session that its client wants to resume, or records that
        this is unknown."""
        return isinstance(self._attributes, (Shown, Unknown))

    def is_from(self, raw: dict[str, Any]) -> bool:
        """Whether a description is of the same connection."""
        return (self.remote_address, self.remote_port) == (raw.get("peer_host"), raw.get("peer_port"))

    @property
    def is_connected(self) -> bool:
        """Whether the client is connected."""
        return self._state == "connected"

    def topic_aliases(self, way: str) -> Aliases:
        """The topic aliases of this connection, for packets `received` or `sent`."""
        if self._aliases is None:
            self._aliases = {}
        return self._aliases.setdefault(way, Aliases())

    def begin_connection(self) -> None:
        """A CONNECT has come: no alias is known."""
        self._aliases = None

    def begin(self, before: Session | None) -> None:
        """The client is in. If it resumes the session `before`, plugins' values are taken over."""
        shown = self._attributes
        if isinstance(shown, Shown) or (isinstance(shown, Unknown) and self.goes_on_unknown):
            own = shown.own()
        else:
            own = dict.copy(shown)
        if before is None:
            if isinstance(shown, Shown):
                self._attributes, self.parent = own, 0
            elif self.goes_on_unknown:
                self._attributes = own
                self.miss_session()
            return
        mine = vars(self)
        for name, value in vars(before).items():
            # Only values that plugins have set, not those of aMQTT or this class.
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
        """The client has connected or disconnected."""
        if self._machine is not None:
            self._machine.set_state(state)
        self._state = state
        now = int(time.time())
        if state == "connected":
            self.last_connect_time, self.last_disconnect_time = now, None
        else:
            self.last_disconnect_time = now

    def describe(self, raw: dict[str, Any]) -> None:
        """Take over the broker's description of the client. Other values of plugins remain."""
        self.client_id = raw.get("client_id")
        if raw.get("username") != self._told_username:
            # Only on a change: a plugin may have set another name.
            self.username = self._told_username = raw.get("username")
        if raw.get("password") is not None:
            # Described only while the client connects.
            self.password = _text(raw["password"])
        if "session" in raw:
            self.session_number = raw["session"]
        if self.shown_number is not None and self.is_other_than(self.shown_number):
            # It has another session than the one that it was shown.
            self.shown_number = None
            self.begin(None)
        self.remote_address = raw.get("peer_host")
        self.remote_port = raw.get("peer_port")
        if "clean_start" not in raw:
            # The rest is described only while the client connects.
            return
        if not raw.get("earlier"):
            if isinstance(self._attributes, Unknown) and not self.knows_login:
                # It was described before its login.
                self._attributes = dict.copy(self._attributes)
            self.knows_login = True
        self.clean_session = bool(raw["clean_start"])
        self.keep_alive = raw.get("keep_alive_s") or 0
        # Without a will, the values that aMQTT has for such a CONNECT.
        will = raw.get("will") or {"topic": None, "payload": None}
        self.will_flag = bool(raw.get("will"))
        self.will_topic = will["topic"]
        self.will_message = will["payload"]
        self.will_qos = will.get("qos") or 0
        self.will_retain = bool(will.get("retain"))


# Values that belong to one connection only.
_OF_ONE = frozenset(("goes_on_unknown", "is_new", "reported", "session_number", "shown_number"))
_KEPT = {"kept", "kept_anew"}
_NAMES = frozenset(vars(Session())) | _KEPT | {"touched", "calls", "looked_at", "knows_login", "knows_password", "held_bytes"} | _OF_ONE


def _what_pickles(values: dict[str, Any], where: str, complain: Callable[[str, BaseException], None]) -> dict[str, Any]:
    """The values that can be pickled."""
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
        """The PUBLISH packet of the message."""
        if self._packet is None:
            self._packet = self.build_publish_packet()
        return self._packet

    @publish_packet.setter
    def publish_packet(self, packet: PublishPacket | None) -> None:
        self._packet = packet


def incoming(raw: Any) -> Incoming:
    """The `ApplicationMessage` of a message of the protocol."""
    return Incoming(None, raw[1], raw[3], raw[2], bool(raw[4]))
