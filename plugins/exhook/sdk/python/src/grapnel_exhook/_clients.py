"""What the broker has said of clients. Each driver keeps one table.

A connection that wants to come in has a number of its own, whichever client identifier it names; when it has come in, that is the
client's number. What comes late of a connection before it may go under that number, too, and must not be taken for what is said of the
one that is in, so the table tells them apart by where they come from. Where the broker forgets a number, what was said under it of
another connection while that came in is found again under its next one.
"""

from __future__ import annotations

from typing import Any

# Connections of one client identifier that are told apart; the one described first is forgotten for one more.
_PEERS_MAX = 8
# Connections that wait for another number; the oldest is forgotten for one more.
_WAITING_MAX = 1024


class Known:
    """One connection: what the broker said of it, and what the driver has made of that."""

    __slots__ = ("raw", "thing")

    def __init__(self, raw: dict[str, Any], thing: Any) -> None:
        self.raw = raw
        self.thing = thing

    @property
    def came_in(self) -> bool:
        """Whether the driver has seen it come in: the broker has said what only CONNECT has, and not afterwards."""
        return "clean_start" in self.raw and not self.raw.get("earlier")


class Clients:
    """The clients that the broker has described, by number."""

    def __init__(self) -> None:
        self._now: dict[int, Known] = {}
        self._peers: dict[int, dict[tuple[Any, Any], Known]] = {}
        self._waiting: dict[tuple[Any, ...], Known] = {}

    def describe(self, number: int, now: dict[str, Any]) -> Known:
        """A client is described. What is not repeated still holds of the same connection, but for the password."""
        peers = self._peers.setdefault(number, {})
        if "peer_host" not in now and peers:
            peer = next(reversed(peers))
        else:
            peer = (now.get("peer_host"), now.get("peer_port"))
        before = peers.pop(peer, None)
        if before is None and self._waiting:
            before = self._waiting.pop((now.get("client_id"), *peer), None)
        raw = now
        if before is not None:
            raw = {**before.raw, **now}
            if "password" not in now:
                raw.pop("password", None)
        elif len(peers) >= _PEERS_MAX:
            del peers[next(iter(peers))]
        known = peers[peer] = self._now[number] = Known(raw, None if before is None else before.thing)
        return known

    def get(self, number: int) -> Known | None:
        """The connection that was described last."""
        return self._now.get(number)

    def raw(self, number: int) -> dict[str, Any]:
        """What was said of it; nothing of one that is not known."""
        known = self._now.get(number)
        return {} if known is None else known.raw

    def forget(self, number: int) -> None:
        """It will not be named again."""
        gone = self._now.pop(number, None)
        for peer, known in self._peers.pop(number, {}).items():
            if known is gone:
                continue
            # Another dict: events that were not handled yet still show the password.
            known.raw = {key: value for key, value in known.raw.items() if key != "password"}
            who = (known.raw.get("client_id"), *peer)
            self._waiting[who] = known
            if len(self._waiting) > _WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
