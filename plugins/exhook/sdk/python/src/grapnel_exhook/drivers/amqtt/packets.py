"""Converts the bytes of packets into aMQTT's classes.

aMQTT supports MQTT 3.1.1. Packets of MQTT 5 are converted: without properties, with reason codes in
place of return codes, and with topic aliases resolved. aMQTT has no class for AUTH. The driver
calls it for packet hooks.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from amqtt.adapters import BufferReader
from amqtt.mqtt import packet_dict
from amqtt.mqtt.packet import PUBLISH, MQTTFixedHeader
from amqtt.mqtt.publish import PublishPacket, PublishPayload, PublishVariableHeader

CONNECT, CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, DISCONNECT = 8, 9, 10, 11, 14
_TOPIC_ALIAS = 0x23
# The properties of PUBLISH, and the lengths of their values: 0 for a two-byte length prefix, -1 for
# two of those, -2 for a variable byte integer.
_PUBLISH_PROPERTIES = {0x01: 1, 0x02: 4, 0x03: 0, 0x08: 0, 0x09: 0, 0x0B: -2, 0x23: 2, 0x26: -1}


class Aliases:
    """The topic aliases of one connection in one direction."""

    __slots__ = ("_topics",)

    def __init__(self) -> None:
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int | None) -> str:
        """The topic of a packet. Records it if the packet has both topic and alias."""
        if alias is None:
            return topic
        if topic:
            self._topics[alias] = topic
            return topic
        return self._topics.get(alias, "")


def decode(data: bytes, version: int, aliases: Aliases | None) -> Any:
    """The packet; None if aMQTT has no class for it. Raises what aMQTT raises for invalid bytes."""
    kind = data[0] >> 4
    if kind == PUBLISH:
        return publish(data, version, aliases)
    if kind not in packet_dict:
        return None
    body_at = _varint(data, 1)[1]
    body = data[body_at:]
    flags = data[0] & 0x0F
    if version == 5:
        body = _without_properties(kind, body)
    header = MQTTFixedHeader(kind, flags, len(body))
    return _at_once(packet_dict[kind].from_stream(BufferReader(body), header))


def publish(data: bytes, version: int, aliases: Aliases | None) -> PublishPacket:
    """A PUBLISH. It is built directly, since most packets are PUBLISH."""
    at = _varint(data, 1)[1]
    topic, at = _text(data, at)
    flags = data[0] & 0x0F
    ident = None
    if flags & 0x06:
        ident = int.from_bytes(data[at : at + 2], "big")
        at += 2
    if version == 5:
        length, at = _varint(data, at)
        if aliases is not None:
            topic = aliases.resolve(topic, _alias(data, at, at + length))
        at += length
    header = PublishVariableHeader(topic, ident)
    payload = data[at:]
    size = 2 + len(topic.encode("utf-8", "surrogateescape")) + (2 if ident is not None else 0) + len(payload)
    packet = PublishPacket(MQTTFixedHeader(PUBLISH, flags, size), header, PublishPayload(payload))
    packet.protocol_ts = datetime.now(timezone.utc)
    return packet


def _alias(data: bytes, at: int, end: int) -> int | None:
    while at < end:
        kind, at = data[at], at + 1
        if kind == _TOPIC_ALIAS:
            return int.from_bytes(data[at : at + 2], "big")
        length = _PUBLISH_PROPERTIES[kind]
        if length > 0:
            at += length
        elif length == -2:
            at = _varint(data, at)[1]
        else:
            for _ in range(1 - length):
                at += 2 + int.from_bytes(data[at : at + 2], "big")
    return None


def _without_properties(kind: int, body: bytes) -> bytes:
    """The body of a packet of MQTT 5 in the format of MQTT 3.1.1."""
    if kind == CONNECT:
        return _connect(body)
    if kind == CONNACK:
        return body[:2]
    if kind in (PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK):
        return body[:2]
    if kind in (SUBACK, SUBSCRIBE, UNSUBSCRIBE):
        length, at = _varint(body, 2)
        rest = body[at + length :]
        return body[:2] + (_only_qos(rest) if kind == SUBSCRIBE else rest)
    if kind == DISCONNECT:
        return b""
    return body


def _only_qos(filters: bytes) -> bytes:
    """Filters of SUBSCRIBE without the options that 3.1.1 lacks."""
    out = bytearray(filters)
    at = 0
    while at < len(out):
        at += 2 + int.from_bytes(out[at : at + 2], "big")
        out[at] &= 0x03
        at += 1
    return bytes(out)


def _connect(body: bytes) -> bytes:
    head = 2 + int.from_bytes(body[:2], "big") + 1
    flags = body[head]
    length, at = _varint(body, head + 3)
    at += length
    ident = body[at : at + 2 + int.from_bytes(body[at : at + 2], "big")]
    at += len(ident)
    if flags & 0x04:
        length, at = _varint(body, at)
        at += length
    return body[: head + 3] + ident + body[at:]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    return data[at + 2 : end].decode("utf-8", "surrogateescape"), end


def _at_once(coroutine: Any) -> Any:
    """The result of a coroutine that never suspends: aMQTT's readers are async, but a buffer needs
    no waiting."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise RuntimeError("aMQTT's decoder waits for more than the packet has")
