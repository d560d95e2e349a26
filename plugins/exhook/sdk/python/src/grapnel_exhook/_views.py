"""What events hold: clients, messages, and the values of their fields. Programs import them from
`grapnel_exhook` or `grapnel_exhook.events`.

Each is a thin view of the broker's data: fields are decoded on access.
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


class Certificate(NamedTuple):
    """A verified TLS certificate of a client. A text is empty where it is not known."""

    subject: str
    """As RFC 4514 writes it."""
    common_name: str
    """The last one of the subject."""
    alternative_names: tuple[str, ...]
    """`DNS:…`, `URI:…`, `email:…` or `IP:…`."""
    issuer: str
    """As RFC 4514 writes it."""
    serial: str
    """Hexadecimal in lower case."""
    fingerprint: str
    """SHA-256 of the certificate (DER), hexadecimal in lower case."""


class Tls(NamedTuple):
    """The TLS connection of a client, to the broker or to a proxy in front of it. A text is empty
    where it is not known."""

    version: str
    """Such as `TLSv1.3`."""
    cipher: str
    """The cipher suite, by its IANA name."""
    server_name: str
    """The server name that the client asked for (SNI)."""
    certificate: Certificate | None
    """The certificate of the client, if it has shown one that was verified."""


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

    CONNECT data (`clean_start` to `connected_at_ms`, `will` and `properties`) and the transport
    (`transport`, `tls`, `certified` and `connect_username`) are known if the module has a hook at
    `client_connect`, `client_authenticate` or, except for the will and `connect_username`,
    `client_connected`. Otherwise they are 0, False, None or empty.
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

    @property
    def transport(self) -> str:
        """How it has reached the broker: `tcp`, `tls`, `ws`, `wss` or `unix`."""
        return self._raw.get("transport") or ""

    @property
    def tls(self) -> Tls | None:
        """Its TLS connection, if it has one."""
        tls = self._raw.get("tls")
        if not tls:
            return None
        raw = tls.get("certificate")
        certificate = None
        if raw:
            certificate = Certificate(
                raw["subject"], raw["common_name"], tuple(raw["alternative_names"]), raw["issuer"], raw["serial"],
                raw["fingerprint"],
            )  # fmt: skip
        return Tls(tls["version"], tls["cipher"], tls["server_name"], certificate)

    @property
    def certified(self) -> bool:
        """Whether the listener took the user name from the certificate, which has authenticated the
        client. It is let in unless a hook at `client_authenticate` refuses it."""
        return bool(self._raw.get("certified"))

    @property
    def connect_username(self) -> str | None:
        """The user name in CONNECT, if there is one. It is another one than `username` only where
        the client is `certified`, and has no effect then."""
        return self._raw.get("connect_username") if self.certified else self.username


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
