"""Runs calls whose handlers are coroutines, on the worker's event loop.

A task steps one coroutine after the other. When one of them suspends, the task stays with it, and
another task takes the rest. So a coroutine that never suspends needs no task of its own, and one
that suspends has had its task from its first step, as timeouts require. A task that a coroutine has
kept a reference to, or has cancelled, steps no other. The worker adds calls and gets their results;
this module sends nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from time import monotonic
from typing import Any

# Most suspended coroutines that are counted as done, so that the broker continues to send. Further
# ones count when they end.
_WAITING_MAX = 10_000


class Call:
    """A call whose handler is a coroutine. It stands for `calls` calls of the broker."""

    __slots__ = ("calls", "client", "ident", "point", "run", "waits")

    def __init__(self, ident: int, point: int | str, client: int, run: Coroutine[Any, Any, Any], calls: int = 1) -> None:
        self.ident = ident
        self.point = point
        self.client = client
        self.run = run
        self.calls = calls
        self.waits = False


class Stepper:
    """The calls of one worker.

    `done(calls)` counts; `finished(call, answer)` and `failed(call, error)` get the result of a
    call. `pause()` is called after a round of steps, or after `hold_s`; `soon()` when a call ends
    between rounds.
    """

    def __init__(
        self,
        *,
        in_order: bool,
        hold_s: float,
        done: Callable[[int], None],
        finished: Callable[[Call, Any], None],
        failed: Callable[[Call, BaseException], None],
        pause: Callable[[], None],
        soon: Callable[[], None],
    ) -> None:
        self._in_order = in_order
        self._hold_s = hold_s
        self._done = done
        self._finished = finished
        self._failed = failed
        self._pause = pause
        self._soon = soon
        self._ready: deque[Call] = deque()
        # By client with a suspended notification: its later notifications.
        self._behind: dict[int, deque[Call]] = {}
        self._waiting = 0
        # The context in which calls begin; a suspended call has its own.
        self._context: contextvars.Context | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Whether a task is stepping, or about to.
        self.is_stepping = False
        #: Number of calls that have not ended.
        self.alive = 0

    def add(self, call: Call) -> None:
        """Add a call; it is stepped after the present step."""
        self.alive += 1
        self._ready.append(call)
        if not self.is_stepping:
            self._start()

    async def finish(self, within_s: float) -> int:
        """Wait for the calls. Returns how many have not ended in time."""
        until = monotonic() + within_s
        while self.alive and monotonic() < until:
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=0.02, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)
        return self.alive

    def _start(self) -> None:
        self.is_stepping = True
        if self._context is None:
            self._context = contextvars.copy_context()
        # A copy, since a loop may run a new task at once.
        task = self._context.copy().run(asyncio.get_running_loop().create_task, self._task())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _task(self) -> None:
        await self._step()

    @types.coroutine
    def _step(self) -> Generator[Any, Any, None]:
        ready = self._ready
        until = monotonic() + self._hold_s
        task: Any = asyncio.current_task()
        untouched = _hold_on(task)
        while ready:
            call = ready.popleft()
            if self._has_to_wait(call):
                continue
            try:
                waits_for = call.run.send(None)
            except StopIteration as end:
                self._end(call, end.value)
            except BaseException as error:
                self._fail(call, error)
            else:
                yield from self._wait(call, waits_for)
                return
            if ready and _hold_on(task) != untouched:
                # The coroutine may use this task, so it must not step other calls.
                self._start()
                return
            if monotonic() > until:
                self._pause()
                until = monotonic() + self._hold_s
        self.is_stepping = False
        self._pause()

    def _wait(self, call: Call, waits_for: Any) -> Generator[Any, Any, None]:
        in_order = self._in_order and not call.ident and call.client
        if in_order:
            self._behind[call.client] = deque()
        self._note(call)
        self.is_stepping = False
        if self._ready:
            self._start()
        else:
            self._pause()
        run = call.run
        is_closed = False
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as thrown:
                    # The event loop is closed. A hook may also raise this itself.
                    is_closed = isinstance(thrown, GeneratorExit)
                    waits_for = run.throw(thrown)
                else:
                    waits_for = run.send(sent)
        except StopIteration as end:
            self._end(call, end.value)
        except BaseException as error:
            if is_closed:
                raise
            self._fail(call, error)
        if in_order:
            behind = self._behind.pop(call.client)
            self._ready.extendleft(reversed(behind))
            if behind and not self.is_stepping:
                self._start()
        self._soon()

    def _has_to_wait(self, call: Call) -> bool:
        if not self._behind or call.ident:
            return False
        behind = self._behind.get(call.client)
        if behind is None:
            return False
        behind.append(call)
        self._note(call)
        return True

    def _note(self, call: Call) -> None:
        """A suspended call counts as done for the broker's window; its answer comes later."""
        if not call.waits:
            call.waits = True
            self._waiting += 1
            if self._waiting <= _WAITING_MAX:
                self._done(call.calls)
                call.calls = 0

    def _end(self, call: Call, answer: Any) -> None:
        self._over(call)
        self._finished(call, answer)

    def _fail(self, call: Call, error: BaseException) -> None:
        self._over(call)
        self._failed(call, error)

    def _over(self, call: Call) -> None:
        self.alive -= 1
        self._waiting -= call.waits
        if call.calls:
            self._done(call.calls)


def _hold_on(task: Any) -> tuple[int, int, bool]:
    """Values of a task that change if code keeps a reference to it or has cancelled it."""
    return sys.getrefcount(task), weakref.getweakrefcount(task), bool(getattr(task, "_must_cancel", False))
