"""How methods of aMQTT's plugins are called: the hooks that are mounted for them, and their
arguments.

The base of the driver, which knows what each event means.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ..._driver import Driver, Handler


class Calls(Driver):
    """A driver that calls the methods of a manager's plugins."""

    asynchronous = True

    def __init__(self) -> None:
        super().__init__()
        self._handlers: dict[str, Handler] = {}
        self._hooks: dict[str, dict[str, Any]] = {}
        self._called: dict[str, str] = {}
        self._manager: Any = None

    def hooks(self) -> list[dict[str, Any]]:
        return list(self._hooks.values())

    def handlers(self) -> dict[str, Handler]:
        return self._handlers

    def name_of(self, point: str) -> str:
        return self._called.get(point, point)

    def _on(self, point: str, handler: Any, methods: Sequence[Any] = (), **more: Any) -> None:
        self._called[point] = ", ".join(method.name for method in methods) or point
        self._hooks[point] = {"point": point, "topics": [], "answers": False, **more}
        self._handlers[point] = handler

    def _methods(self, event: str) -> list[Any]:
        return self._manager.methods_of(event)  # type: ignore[no-any-return]

    def _notify(self, methods: list[Any], arguments: dict[str, Any], session: Any = None) -> Any:
        """One coroutine for each method. `session` is the client's."""
        if len(methods) == 1:
            return self._call(methods[0], arguments, session)
        return [self._call(method, arguments, session) for method in methods] or None

    def _call(self, method: Any, arguments: dict[str, Any], session: Any) -> Any:
        call = method.call(**method.wants(arguments))
        return call if session is None or not self.keeps else self._and_look(call, session)

    async def _and_look(self, call: Any, session: Any) -> Any:
        """Changes after a suspension are sent to the broker, too."""
        session.begin_call()
        try:
            return await call
        finally:
            session.end_call()

    async def _fire(self, event: str, within_s: float | None = None) -> None:
        await self._beside_each_other([(method.name, method.call) for method in self._methods(event)], within_s)

    async def _beside_each_other(self, methods: list[tuple[str, Any]], within_s: float | None) -> None:
        """Call methods without arguments and wait for all, as aMQTT does at start and stop."""

        async def call(name: str, method: Any) -> None:
            try:
                await method()
            except (Exception, SystemExit) as error:
                self.complain(name, error)

        if len(methods) == 1 and within_s is None:
            await call(*methods[0])
            return
        tasks = {asyncio.ensure_future(call(name, method)): name for name, method in methods}
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=within_s)
        for task in done:
            if not task.cancelled():
                # Raises only what `complain` raises, in tests.
                task.result()
        for task in late:
            task.cancel()
            self.complain(tasks[task], TimeoutError(f"it has not come to its end within {within_s} s"))
