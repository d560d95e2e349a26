"""The interface between the worker and a driver: our own API, EMQX's hooks, aMQTT's plugins.

A driver turns calls of the protocol into calls of user code, and its results into answers. It must
not use the socket; it sends commands through `grapnel_exhook.broker`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Union

#: The result of a call. None: no change. A pair: (code, value) of the protocol. A coroutine:
#: returns one of them. A list of coroutines: several hooks got the same notification.
Answer = Union[None, "tuple[int, Any]", "list[Coroutine[Any, Any, Any]]", Coroutine[Any, Any, Any]]
Handler = Callable[[int, Any], Answer]

GO_ON = 0
STOP = 1
FAILED = 2

#: The hook points where the broker can wait for an answer.
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
    """User code or its configuration cannot be used. The operator reads the text."""


class Batch:
    """The work of a batch handler at the end of a frame."""

    __slots__ = ("name", "run")

    def __init__(self, name: str, run: Callable[[], Coroutine[Any, Any, None] | None]) -> None:
        self.name = name
        self.run = run


class Driver:
    """Base of the drivers. The worker calls `load`, `start`, `hooks` and `handlers` once, in this
    order, then the handlers, and `stop` at the end."""

    #: Whether handlers may be coroutines, so that the worker runs an event loop. Known after `load`.
    asynchronous = False
    #: Whether a notification of a client waits while the coroutine of an earlier one is suspended.
    in_order = False
    #: Whether it returns login data for storage. Valid after `start`.
    keeps = False

    def __init__(self) -> None:
        #: Set by the worker: logs a failure of user code that fails no call.
        self.complain: Callable[[str, BaseException], None] = lambda name, error: None
        #: Set by the worker before `stop`: how long that may take, in seconds.
        self.farewell_s = 2.0

    def load(self) -> None:
        """Import user code and inspect it."""

    def start(self) -> Awaitable[None] | None:
        """Start user code. A coroutine only if `asynchronous`."""
        return None

    def hooks(self) -> list[dict[str, Any]]:
        """The `hooks` of the ready frame."""
        raise NotImplementedError

    def handlers(self) -> dict[str, Handler]:
        """For each point in `hooks`, the function to call with the number of the client and the
        call's data."""
        raise NotImplementedError

    def describe(self, number: int, client: dict[str, Any]) -> None:
        """A client is described, for the first time or again."""
        raise NotImplementedError

    def forget(self, number: int) -> None:
        """A client's number will not be used again."""
        raise NotImplementedError

    def frame_end(self) -> list[Batch]:
        """Called after all calls of a frame, and after coroutines have continued: returns the work
        of batch handlers."""
        return []

    def settle(self) -> None:
        """Called before answers are sent. Commands that must reach the broker before them are sent
        now."""

    def name_of(self, point: str) -> str:
        """The user's name for the hook of a point, for log lines."""
        return point

    def stop(self) -> Awaitable[None] | None:
        """Run user code's shutdown. A coroutine only if `asynchronous`."""
        return None
