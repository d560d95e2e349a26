"""The return values of hooks. None always means: no change, the next hook is called.

The driver turns them into answers of the protocol. A return value of the wrong type for the hook
point, or with a value that MQTT does not allow, is a failure of the hook.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Union

from .events import Options

NOT_AUTHORIZED = 0x87
ADMINISTRATIVE_ACTION = 0x98


@dataclass(frozen=True)
class Allow:
    """Accepts the login (`client_authenticate`) or the action (`client_authorize`). `True` is short
    for it."""

    superuser: bool | None = None
    """Authentication only: `client_authorize` is not called for this client."""
    auth_data: bytes | None = None
    """Authentication only: data for CONNACK, for enhanced authentication."""
    last: bool = True
    """Whether later hooks of other plugins are skipped."""


@dataclass(frozen=True)
class Deny:
    """Refuses the login or the action. `False` is short for it."""

    reason: int | None = None
    """The reason code of MQTT 5 for the client; by default the broker chooses one."""
    last: bool = True
    """Whether later hooks of other plugins are skipped."""


@dataclass(frozen=True)
class Challenge:
    """Another round of enhanced authentication: the client gets AUTH with this data
    (`client_authenticate`)."""

    auth_data: bytes


@dataclass(frozen=True)
class Refuse:
    """Refuses the connection at `client_connect`, or one filter at `client_subscribe` and
    `client_unsubscribe`."""

    reason: int = NOT_AUTHORIZED
    """A reason code of MQTT 5, 0x80 or more."""
    text: str | None = None
    """The reason string; at `client_connect` only."""


@dataclass(frozen=True)
class Limits:
    """Continues CONNECT with other limits (`client_connect`)."""

    keep_alive_s: int | None = None
    session_expiry_s: int | None = None


@dataclass(frozen=True)
class Rewrite:
    """Replaces one filter or its options (`client_subscribe`; without options also
    `client_unsubscribe`)."""

    filter: str | None = None
    options: Options | None = None


@dataclass(frozen=True)
class Modify:
    """Changes the message (`message_publish`). None leaves a field unchanged."""

    topic: str | None = None
    payload: bytes | str | None = None
    """Text is sent as UTF-8."""
    qos: int | None = None
    retain: bool | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    message_expiry_s: int | None = None
    add_properties: Iterable[tuple[str, str]] = ()
    """User properties to add."""


@dataclass(frozen=True)
class Drop:
    """Drops the message; its publisher gets a successful acknowledgement (`message_publish`)."""


@dataclass(frozen=True)
class Reject:
    """Drops the message; its publisher gets an error if MQTT has a way to send one
    (`message_publish`)."""

    reason: int = NOT_AUTHORIZED
    text: str | None = None


@dataclass(frozen=True)
class Disconnect:
    """Drops the message and disconnects its publisher (`message_publish`)."""

    reason: int = ADMINISTRATIVE_ACTION
    text: str | None = None


ConnectAnswer = Union[None, Refuse, Limits]
AuthenticateAnswer = Union[None, bool, Allow, Deny, Challenge]
AuthorizeAnswer = Union[None, bool, Allow, Deny]
FilterAnswer = Union[None, str, Refuse, Rewrite]
#: One item for each filter of the packet, in order: None for no change, text for another filter.
FiltersAnswer = Union[None, "list[FilterAnswer]"]
PublishAnswer = Union[None, Modify, Drop, Reject, Disconnect]
