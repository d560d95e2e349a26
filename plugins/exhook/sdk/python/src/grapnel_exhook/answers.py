"""What hooks return. None always means: nothing changes, the next hook is asked.

The own driver turns them into answers of the protocol. An answer that does not belong to the point of its hook, or has a
value that MQTT does not know, is a failure of the hook.
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
    """Lets the client in (`client_authenticate`) or do it (`client_authorize`). `True` is short for it."""

    superuser: bool | None = None
    """Authentication only: no authorisation is asked about this client."""
    auth_data: bytes | None = None
    """Authentication only: goes into CONNACK, for enhanced authentication."""
    last: bool = True
    """Whether hooks of other plugins after this one are not asked."""


@dataclass(frozen=True)
class Deny:
    """Keeps it out. `False` is short for it."""

    reason: int | None = None
    """The reason code of MQTT 5 that the client gets; the broker chooses by default."""
    last: bool = True
    """Whether hooks of other plugins after this one are not asked."""


@dataclass(frozen=True)
class Challenge:
    """Another round of enhanced authentication: the client gets AUTH with this (`client_authenticate`)."""

    auth_data: bytes


@dataclass(frozen=True)
class Refuse:
    """Refuses: the connection at `client_connect`, one filter at `client_subscribe` and `client_unsubscribe`."""

    reason: int = NOT_AUTHORIZED
    """A reason code of MQTT 5, 0x80 or more."""
    text: str | None = None
    """The reason string; at `client_connect` only."""


@dataclass(frozen=True)
class Limits:
    """Lets CONNECT go on with other limits (`client_connect`)."""

    keep_alive_s: int | None = None
    session_expiry_s: int | None = None


@dataclass(frozen=True)
class Rewrite:
    """Another filter or other options for one filter of `client_subscribe` or, without options, `client_unsubscribe`."""

    filter: str | None = None
    options: Options | None = None


@dataclass(frozen=True)
class Modify:
    """Changes the message (`message_publish`). What is None stays as it is."""

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
    """User properties that are added."""


@dataclass(frozen=True)
class Drop:
    """The message goes nowhere, its publisher is told that all is well (`message_publish`)."""


@dataclass(frozen=True)
class Reject:
    """The message goes nowhere, its publisher is told so where MQTT has a way to (`message_publish`)."""

    reason: int = NOT_AUTHORIZED
    text: str | None = None


@dataclass(frozen=True)
class Disconnect:
    """The message goes nowhere and its publisher is disconnected (`message_publish`)."""

    reason: int = ADMINISTRATIVE_ACTION
    text: str | None = None


ConnectAnswer = Union[None, Refuse, Limits]
AuthenticateAnswer = Union[None, bool, Allow, Deny, Challenge]
AuthorizeAnswer = Union[None, bool, Allow, Deny]
FilterAnswer = Union[None, str, Refuse, Rewrite]
#: One item for each filter of the packet, in its order: None leaves it, text is another filter.
FiltersAnswer = Union[None, "list[FilterAnswer]"]
PublishAnswer = Union[None, Modify, Drop, Reject, Disconnect]
