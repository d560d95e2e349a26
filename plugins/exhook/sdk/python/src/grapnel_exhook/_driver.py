"""What the worker asks of a driver: the own API, EMQX's hooks, aMQTT's plugins.

A driver turns calls of the protocol into calls of user code and what that returns into answers. It must not touch the
socket: what it wants sent goes through `grapnel_exhook.broker`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Union

#: What a call comes to: None goes on unchanged, a pair is (code, value) of the protocol, a coroutine returns one of them; a
#: list of coroutines is for notifications that several hooks get.
Answer = Union[None, "tuple[int, Any]", "list[Coroutine[Any, Any, Any]]", Coroutine[Any, Any, Any]]
Handler = Callable[[int, Any], Answer]

GO_ON = 0
STOP = 1
FAILED = 2

#: The points at which the broker can wait for an answer.
ANSWERING = frozenset(
    (
        "client.connect",
        "client.authenticate",
        "client.authorize",
        "client.subscribe",
        "client.unsubscribe",
        "message.publish",
    )
)


class LoadError(Exception):
    """User code or its configuration cannot be used; the text is what the operator reads."""


class Batch:
    """A batch handler's work at the end of a frame."""

    __slots__ = ("name", "run")

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
        self.name = name
        self.run = run


class Driver:
    """Base of the drivers. The worker calls `load`, `start`, `hooks` and `handlers` once, in this order, then the handlers,
    and at last `stop`."""

    #: Whether handlers may be coroutines, so that the worker runs an event loop. Known after `load`.
    asynchronous = False
    #: Whether a notification of a client waits for the one before it where that is a coroutine that waits.
    in_order = False
    #: Whether it gives the broker what is to be kept of logins. Known after `start`.
    keeps = False

    def __init__(self) -> None:
        #: Set by the worker: logs a failure of user code that no call fails by.
        self.complain: Callable[[str, BaseException], None] = lambda name, error: None
        #: Set by the worker before `stop`: how long that may take.
        self.farewell_s = 2.0

    def load(self) -> None:
        """Import user code and look at it."""

    def start(self) -> Awaitable[None] | None:
        """Bring user code up. A coroutine only if `asynchronous`."""
        return None

    def hooks(self) -> list[dict[str, Any]]:
        """The `hooks` of the ready frame."""
        raise NotImplementedError

    def handlers(self) -> dict[str, Handler]:
        """For each point that `hooks` names, what is called with the number of the client and the call's data."""
        raise NotImplementedError

    def describe(self, number: int, client: dict[str, Any]) -> None:
        """A client is described, or described again."""
        raise NotImplementedError

    def forget(self, number: int) -> None:
        """A client will not be named again."""
        raise NotImplementedError

    def frame_end(self) -> list[Batch]:
        """All calls of a frame have been made, or coroutines have gone on since: what batch handlers have to do."""
        return []

    def settle(self) -> None:
        """What is known of calls goes to the broker next: what it must know before that is given as commands now."""

    def name_of(self, point: str) -> str:
        """What the user calls the hook of a point, for what is logged about it."""
        return point

    def stop(self) -> Awaitable[None] | None:
        """User code's farewell. A coroutine only if `asynchronous`."""
        return None
