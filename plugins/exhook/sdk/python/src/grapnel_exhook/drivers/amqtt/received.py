"""Messages of QoS 2 that have come and whose PUBREL has not: plugins hear of each once, with its PUBREL, as from aMQTT. The driver
shows it the packets; it calls no hook.

They are kept in `session.inflight_in`, where aMQTT has them. A client decides how many there are, so there are bounds: what is
beyond them is told of at once, and remembered by its packet identifier alone.
"""

from __future__ import annotations

from typing import Any

from .sessions import Incoming, Session

# Messages, and bytes of their payloads, that one session may have here, and bytes of all of them together.
_SESSION_MESSAGES_MAX = 1024
_SESSION_BYTES_MAX = 1024 * 1024
_BYTES_MAX = 64 * 1024 * 1024


class Received:
    """The messages of one worker's clients."""

    def __init__(self) -> None:
        self.bytes = 0

    def publish(self, session: Session | None, packet: Any) -> list[Incoming]:
        """A PUBLISH has come: the messages that plugins hear of now."""
        message = Incoming(packet.packet_id, packet.topic_name, packet.qos, packet.data or b"", packet.retain_flag)
        message.publish_packet = packet
        if packet.qos != 2 or session is None:
            return [message]
        ident = packet.packet_id
        before = self._take(session, ident)
        was_told = ident in session.told_early
        if packet.dup_flag and (before is not None or was_told):
            # Sent again.
            if before is not None:
                self._hold(session, ident, message)
            return []
        session.told_early.discard(ident)
        # One that has the identifier without having been released was refused, which ends its exchange in MQTT 5.
        now = [] if before is None else [before]
        size = len(message.data)
        if (
            len(session.inflight_in) < _SESSION_MESSAGES_MAX
            and session.held_bytes + size <= _SESSION_BYTES_MAX
            and self.bytes + size <= _BYTES_MAX
        ):
            self._hold(session, ident, message)
            return now
        if len(session.told_early) >= _SESSION_MESSAGES_MAX:
            session.told_early.clear()
        session.told_early.add(ident)
        return [*now, message]

    def release(self, session: Session | None, ident: int) -> Incoming | None:
        """A PUBREL has come: the message that plugins hear of."""
        if session is None:
            return None
        session.told_early.discard(ident)
        return self._take(session, ident)

    def drop(self, session: Session) -> None:
        """The session is over."""
        self.bytes -= session.held_bytes
        session.held_bytes = 0
        session.inflight_in.clear()

    def _hold(self, session: Session, ident: int, message: Incoming) -> None:
        session.inflight_in[ident] = message
        session.held_bytes += len(message.data)
        self.bytes += len(message.data)

    def _take(self, session: Session, ident: int) -> Incoming | None:
        message: Any = session.inflight_in.pop(ident, None)
        if message is not None:
            session.held_bytes -= len(message.data)
            self.bytes -= len(message.data)
        return message  # type: ignore[no-any-return]
