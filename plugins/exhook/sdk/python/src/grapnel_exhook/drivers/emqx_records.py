"""The records that EMQX passes to hooks: lists of (bytes key, value), text as `str`, what is absent as the empty string.

Only the EMQX driver uses it. Bytes that are no UTF-8 become surrogates (`surrogateescape`), because the SDK would raise on
bytes and hooks expect text.
"""

from __future__ import annotations

from typing import Any

from .._clients import Clients, Known

Record = list[tuple[bytes, Any]]

_REASONS = {
    0: "success", 1: "qos1", 2: "qos2", 4: "disconnect_with_will_message", 16: "no_matching_subscribers",
    17: "no_subscription_existed", 24: "continue_authentication", 25: "re_authenticate", 128: "unspecified_error",
    129: "malformed_Packet", 130: "protocol_error", 131: "implementation_specific_error",
    132: "unsupported_protocol_version", 133: "client_identifier_not_valid", 134: "bad_username_or_password",
    135: "not_authorized", 136: "server_unavailable", 137: "server_busy", 138: "banned", 139: "server_shutting_down",
    140: "bad_authentication_method", 141: "keepalive_timeout", 142: "session_taken_over", 143: "topic_filter_invalid",
    144: "topic_name_invalid", 145: "packet_identifier_inuse", 146: "packet_identifier_not_found",
    147: "receive_maximum_exceeded", 148: "topic_alias_invalid", 149: "packet_too_large", 150: "message_rate_too_high",
    151: "quota_exceeded", 152: "administrative_action", 153: "payload_format_invalid", 154: "retain_not_supported",
    155: "qos_not_supported", 156: "use_another_server", 157: "server_moved",
    158: "shared_subscriptions_not_supported", 159: "connection_rate_exceeded", 160: "maximum_connect_time",
    161: "subscription_identifiers_not_supported", 162: "wildcard_subscriptions_not_supported",
}  # fmt: skip


def reason_name(code: Any) -> str:
    """EMQX's name of a reason code of MQTT 5."""
    return _REASONS.get(code, "unknown_error") if isinstance(code, int) else str(code or "")


def text_of(value: Any) -> str:
    """Text of text or bytes. Raises `TypeError`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    raise TypeError(f"{value!r} is neither text nor bytes")


def _text(value: Any) -> str:
    return "" if value is None else value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


class Records:
    """The clients that the broker has described, as EMQX shows them."""

    def __init__(self, node: str) -> None:
        self._node = (b"node", node)
        self._clients = Clients()

    def describe(self, number: int, client: dict[str, Any]) -> None:
        """A client is described, or described again."""
        self._clients.describe(number, client).thing = None

    def forget(self, number: int) -> None:
        """It will not be named again."""
        self._clients.forget(number)

    def clientinfo(self, number: int) -> Record:
        """A list of its own for each call."""
        known = self._clients.get(number) or Known({}, None)
        record: Record | None = known.thing
        if record is None:
            raw = known.raw
            record = known.thing = [
                self._node,
                (b"clientid", _text(raw.get("client_id"))),
                (b"username", _text(raw.get("username"))),
                (b"password", _text(raw.get("password"))),
                (b"peerhost", _text(raw.get("peer_host"))),
                (b"sockport", raw.get("local_port") or 0),
                (b"protocol", "mqtt"),
                (b"mountpoint", ""),
                (b"is_superuser", bool(raw.get("superuser"))),
                (b"anonymous", bool(raw.get("anonymous"))),
            ]
        return record.copy()

    def conninfo(self, number: int) -> Record:
        """The connection, as client_connect and client_connack see it."""
        raw = self._clients.raw(number)
        version = raw.get("version") or 4
        return [
            self._node,
            (b"clientid", _text(raw.get("client_id"))),
            (b"username", _text(raw.get("username"))),
            (b"peerhost", _text(raw.get("peer_host"))),
            (b"sockport", raw.get("local_port") or 0),
            (b"proto_name", "MQIsdp" if version == 3 else "MQTT"),
            (b"proto_ver", version),
            (b"keepalive", raw.get("keep_alive_s") or 0),
        ]

    def connect_props(self, number: int) -> dict[str, Any]:
        """The properties of CONNECT, by their names in EMQX; empty before MQTT 5."""
        raw = self._clients.raw(number)
        if raw.get("version") != 5:
            return {}
        props = self.props(raw.get("properties"))
        if raw.get("session_expiry_s"):
            props["Session-Expiry-Interval"] = raw["session_expiry_s"]
        # Its largest value is what the broker says where the client has said nothing.
        if raw.get("receive_maximum") not in (None, 0, 0xFFFF):
            props["Receive-Maximum"] = raw["receive_maximum"]
        return props

    def props(self, pairs: Any, subscription_id: int | None = None) -> dict[str, Any]:
        """The properties of a packet: user properties as pairs, and the subscription identifier."""
        props: dict[str, Any] = {}
        if pairs:
            props["User-Property"] = [(str(key), str(value)) for key, value in pairs]
        if subscription_id is not None:
            props["Subscription-Identifier"] = subscription_id
        return props

    def options(self, options: int, is_new: bool | None = None) -> Record:
        """Subscription options (MQTT 5, 3.8.3.1)."""
        record: Record = [
            (b"nl", options >> 2 & 1),
            (b"qos", options & 3),
            (b"rap", options >> 3 & 1),
            (b"rh", options >> 4 & 3),
        ]
        return record if is_new is None else [(b"is_new", is_new), *record]

    def message(self, raw: Any) -> Record:
        """A message."""
        ident = raw[0]
        return [
            self._node,
            (b"id", ident.hex() if isinstance(ident, bytes) else f"{ident:032X}" if isinstance(ident, int) else str(ident)),
            (b"qos", raw[3]),
            (b"from", raw[6] or ""),
            (b"topic", raw[1]),
            (b"payload", raw[2].decode("utf-8", "surrogateescape")),
            (b"timestamp", raw[7]),
        ]
