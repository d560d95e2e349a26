"""The values that EMQX passes to hooks, in the types of its driver: `bytes` for every text, name
and payload, at any depth; lists of (bytes key, value) for records and properties; numbers;
booleans. An absent value is the empty binary.

Only the EMQX driver uses it. The SDK's decorator decodes bytes as strict UTF-8, which raises for
other payloads; `Binary` does not raise.
"""

from __future__ import annotations

from typing import Any

from .._clients import Clients, Known

Record = list[tuple[bytes, Any]]


class Binary(bytes):
    """Bytes whose `decode()` never fails: bytes that are not UTF-8 become surrogates. With an error
    handler or another encoding it behaves like `bytes.decode`."""

    def decode(self, encoding: str = "utf-8", errors: str | None = None) -> str:
        """The text; encoding it with `surrogateescape` gives the same bytes again."""
        try:
            return super().decode(encoding, errors or "strict")
        except UnicodeDecodeError:
            if errors is not None or encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
                raise
            return super().decode("utf-8", "surrogateescape")


EMPTY = Binary()

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


def reason_name(code: Any) -> Binary:
    """EMQX's name of a reason code of MQTT 5."""
    return binary(_REASONS.get(code, "unknown_error") if isinstance(code, int) else str(code or ""))


def text_of(value: Any) -> str:
    """The text of text or bytes. Raises `TypeError`."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "surrogateescape")
    raise TypeError(f"{value!r} is neither text nor bytes")


def binary(value: Any) -> Binary:
    """The bytes of text or bytes; empty if absent."""
    if not value:
        return EMPTY
    return Binary(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value)


class Records:
    """The described clients, as EMQX shows them."""

    def __init__(self, node: str) -> None:
        self._node = (b"node", binary(node))
        self._clients = Clients()

    def describe(self, number: int, client: dict[str, Any]) -> None:
        """A client is described, or described again."""
        self._clients.describe(number, client).thing = None

    def forget(self, number: int) -> None:
        """The number will not be used again."""
        self._clients.forget(number)

    def clientinfo(self, number: int) -> Record:
        """A new list for each call."""
        known = self._clients.get(number) or Known({}, None)
        record: Record | None = known.thing
        if record is None:
            raw = known.raw
            record = known.thing = [
                self._node,
                (b"clientid", binary(raw.get("client_id"))),
                (b"username", binary(raw.get("username"))),
                (b"password", binary(raw.get("password"))),
                (b"peerhost", binary(raw.get("peer_host"))),
                (b"sockport", raw.get("local_port") or 0),
                (b"protocol", Binary(b"mqtt")),
                (b"mountpoint", EMPTY),
                (b"is_superuser", bool(raw.get("superuser"))),
                (b"anonymous", bool(raw.get("anonymous"))),
            ]
        return record.copy()

    def conninfo(self, number: int) -> Record:
        """The connection, for client_connect and client_connack."""
        raw = self._clients.raw(number)
        version = raw.get("version") or 4
        return [
            self._node,
            (b"clientid", binary(raw.get("client_id"))),
            (b"username", binary(raw.get("username"))),
            (b"peerhost", binary(raw.get("peer_host"))),
            (b"sockport", raw.get("local_port") or 0),
            (b"proto_name", Binary(b"MQIsdp" if version == 3 else b"MQTT")),
            (b"proto_ver", version),
            (b"keepalive", raw.get("keep_alive_s") or 0),
        ]

    def connect_props(self, number: int) -> Record:
        """The properties of CONNECT, by their names in EMQX; none before MQTT 5."""
        raw = self._clients.raw(number)
        if raw.get("version") != 5:
            return []
        props = self.props(raw.get("properties"))
        if raw.get("session_expiry_s"):
            props.append((b"Session-Expiry-Interval", raw["session_expiry_s"]))
        # The broker sends the largest value if the client has not set one.
        if raw.get("receive_maximum") not in (None, 0, 0xFFFF):
            props.append((b"Receive-Maximum", raw["receive_maximum"]))
        return props

    def props(self, pairs: Any, subscription_id: int | None = None) -> Record:
        """The properties of a packet: user properties as pairs, and the subscription identifier."""
        props: Record = []
        if pairs:
            props.append((b"User-Property", [(binary(key), binary(value)) for key, value in pairs]))
        if subscription_id is not None:
            props.append((b"Subscription-Identifier", subscription_id))
        return props

    def topics(self, filters: Any) -> Record:
        """Filters with the requested QoS: a number, as EMQX's handler derives from the options."""
        return [(binary(topic), options & 3) for topic, options in filters]

    def options(self, options: int, is_new: bool) -> Record:
        """Subscription options (MQTT 5, 3.8.3.1)."""
        return [
            (b"is_new", is_new),
            (b"nl", options >> 2 & 1),
            (b"qos", options & 3),
            (b"rap", options >> 3 & 1),
            (b"rh", options >> 4 & 3),
        ]

    def message(self, raw: Any) -> Record:
        """A message."""
        ident = raw[0]
        return [
            self._node,
            (b"id", binary(ident.hex() if isinstance(ident, bytes) else f"{ident:032X}" if isinstance(ident, int) else str(ident))),
            (b"qos", raw[3]),
            (b"from", binary(raw[6])),
            (b"topic", binary(raw[1])),
            (b"payload", Binary(raw[2])),
            (b"timestamp", raw[7]),
        ]
