"""Runs calls whose handlers are coroutines, on the worker's event loop.

A task steps one coroutine after the other. When one of them waits, the task is that one's from then on, and another task takes
the rest. So a coroutine that does not wait costs no task, and one that waits has had a task of its own from its first step,
which is what timeouts hang on to. A task that a coroutine has taken hold of, or has cancelled, steps no other. The worker gives it calls and is told what they came to; it sends nothing itself.
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

# Coroutines that wait and are counted as done, so that the broker goes on sending; beyond it waits for them.
_WAITING_MAX = 10_000


class Call:
    """A call whose handler is a coroutine. `calls` is for how many calls of the broker it stands."""

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

    `done(calls)` counts, `finished(call, answer)` and `failed(call, error)` take what a call came to, `pause()` is called when
    all that can go on has been stepped, or has been for `hold_s`, and `soon()` when something has ended between two of those.
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
        # Of each client with a notification that waits, those that come after it.
        self._behind: dict[int, deque[Call]] = {}
        self._waiting = 0
        # What calls begin with; the context of one that waits is its own.
        self._context: contextvars.Context | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Whether somebody steps, or is about to.
        self.is_stepping = False
        #: How many calls have begun or are to begin.
        self.alive = 0

    def add(self, call: Call) -> None:
        """Take a call; it is stepped after what runs now."""
        self.alive += 1
        self._ready.append(call)
        if not self.is_stepping:
            self._start()

    async def finish(self, within_s: float) -> int:
        """Wait for what has begun. How many have not ended."""
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
        # A copy of its own, since a loop may run what it creates at once.
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
                # What becomes of this task is that coroutine's doing, and must not be another call's.
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
                    # The event loop is no more. A hook may raise the same of its own.
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
        """A call that waits is done as far as the broker's window goes; its answer comes later."""
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
    """What of a task changes where somebody keeps a reference to it, or has cancelled it."""
    return sys.getrefcount(task), weakref.getweakrefcount(task), bool(getattr(task, "_must_cancel", False))
