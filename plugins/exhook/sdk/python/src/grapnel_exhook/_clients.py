"""The clients that the broker has described. Each driver has one table.

A pending login has its own number, whatever client identifier it claims. When it has connected, its
number becomes the client's. Late calls about an earlier connection may use the same number and must
not be applied to the new one. So the table distinguishes connections by address and port. When the
broker forgets a number, what was described under it of a connecting client is found again under its
next number.
"""

from __future__ import annotations

from typing import Any

# Most connections that are recorded for one client; the one described first is evicted.
_PEERS_MAX = 8
# Most connections that wait for another number; the oldest is evicted.
_WAITING_MAX = 1024


class Known:
    """One connection: its description, and the driver's object for it."""

    __slots__ = ("raw", "thing")

    def __init__(self, raw: dict[str, Any], thing: Any) -> None:
        self.raw = raw
        self.thing = thing

    @property
    def came_in(self) -> bool:
        """Whether the driver has seen the client connect: the description has CONNECT data, and not
        of an earlier login."""
        return "clean_start" in self.raw and not self.raw.get("earlier")


class Clients:
    """The clients that the broker has described, by number."""

    def __init__(self) -> None:
        self._now: dict[int, Known] = {}
        self._peers: dict[int, dict[tuple[Any, Any], Known]] = {}
        self._waiting: dict[tuple[Any, ...], Known] = {}

    def describe(self, number: int, now: dict[str, Any]) -> Known:
        """Record a description. For the same connection, values that are not repeated remain,
        except the password."""
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
        """Its description; empty for an unknown client."""
        known = self._now.get(number)
        return {} if known is None else known.raw

    def forget(self, number: int) -> None:
        """The number will not be used again."""
        gone = self._now.pop(number, None)
        for peer, known in self._peers.pop(number, {}).items():
            if known is gone:
                continue
            # A new dict: queued events of this client still show the password.
            known.raw = {key: value for key, value in known.raw.items() if key != "password"}
            who = (known.raw.get("client_id"), *peer)
            self._waiting[who] = known
            if len(self._waiting) > _WAITING_MAX:
                del self._waiting[next(iter(self._waiting))]
