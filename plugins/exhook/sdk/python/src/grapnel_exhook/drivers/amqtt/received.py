"""Messages of QoS 2 before their PUBREL. As in aMQTT, plugins get each message once, with its
PUBREL. The driver passes the packets; this module calls no hook.

They are stored in `session.inflight_in`, as in aMQTT. Clients decide their number, so there are
limits. A message beyond them is reported at once, and only its packet identifier is recorded.
"""

from __future__ import annotations

from typing import Any

from .sessions import Incoming, Session

# Most messages and payload bytes of one session, and most bytes of all.
_SESSION_MESSAGES_MAX = 1024
_SESSION_BYTES_MAX = 1024 * 1024
_BYTES_MAX = 64 * 1024 * 1024


class Received:
    """The messages of one worker's clients."""

    def __init__(self) -> None:
        self.bytes = 0

    def publish(self, session: Session | None, packet: Any) -> list[Incoming]:
        """A PUBLISH has come. Returns the messages to report now."""
        message = Incoming(packet.packet_id, packet.topic_name, packet.qos, packet.data or b"", packet.retain_flag)
        message.publish_packet = packet
        if packet.qos != 2 or session is None:
            return [message]
        ident = packet.packet_id
        before = self._take(session, ident)
        was_told = ident in session.told_early
        if packet.dup_flag and (before is not None or was_told):
            # A retransmission.
            if before is not None:
                self._hold(session, ident, message)
            return []
        session.told_early.discard(ident)
        # A message with the same identifier that was not released had been refused, which ends its
        # exchange in MQTT 5.
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
        """A PUBREL has come. Returns the message to report."""
        if session is None:
            return None
        session.told_early.discard(ident)
        return self._take(session, ident)

    def drop(self, session: Session) -> None:
        """The session has ended."""
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
