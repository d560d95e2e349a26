"""The driver of our own API: finds the functions that `grapnel_exhook.on` has marked in a module,
and calls them.

Called by the worker and by `grapnel_exhook.testing`. Return values are checked here, so that a
mistake becomes a log line and not an invalid answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import ModuleType
from typing import Any

from .._clients import Clients
from .._driver import ANSWERING, FAILED, GO_ON, STOP, Batch, Driver, Handler, LoadError
from .._loading import positional_parameters
from .._match import matcher
from ..events import OF_POINT, Client, Event
from ..hooks import NOTIFY_PUBLISH, Config, Hooks, Mark, isinstance_of, marks_of
from .own_answers import INTERPRETERS, WrongAnswer, apply

# Most events, and bytes of their payloads, that wait for a batch handler; later ones are dropped.
_BEHIND_MAX = 200_000
_BEHIND_BYTES_MAX = 64 * 1024 * 1024


class Hook:
    """A function with a mark."""

    __slots__ = ("asynchronous", "behind", "behind_bytes", "busy", "function", "mark", "matches", "name", "point", "notified")

    def __init__(self, function: Callable[..., Any], mark: Mark, name: str) -> None:
        self.function = function
        self.mark = mark
        self.name = name
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise LoadError(f"hook {name} has a yield, so that calling it runs nothing of it; hooks return their answer")
        self.notified = mark.point == NOTIFY_PUBLISH
        self.point = "message.publish" if self.notified else mark.point
        self.matches = matcher(mark.topics)
        self.asynchronous = inspect.iscoroutinefunction(function)
        self.behind: list[Event] = []
        self.behind_bytes = 0
        self.busy = False


def has_hooks(module: ModuleType) -> bool:
    """Whether a module has a function that `on` has marked."""
    return any(
        marks_of(value) or _marked_names(value if isinstance_of(value, type) else type(value))
        for value in vars(module).values()
        if not isinstance_of(value, ModuleType)
    )


def _marked_names(kind: type) -> list[str]:
    names: dict[str, None] = {}
    for each in reversed(kind.__mro__):
        names.update(dict.fromkeys(vars(each)))
    return [name for name in names if marks_of(inspect.getattr_static(kind, name))]


def _payload_bytes(data: Any) -> int:
    """The payload size of a message or packet, which dominates the size of an event."""
    parts = data[0] if data and isinstance(data[0], list) else data
    body = parts[2] if len(parts) > 2 else parts[-1] if parts else None
    return len(body) if isinstance(body, bytes) else 0


def _must_not_wait(name: str, result: Any) -> None:
    """Without async hooks there is no loop, so a plain function must not return an awaitable."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise LoadError(f"{name} returned a coroutine; make it async def")


class OwnDriver(Driver):
    """Runs the hooks of one module."""

    in_order = True

    def __init__(self, setup: dict[str, Any], module: ModuleType) -> None:
        super().__init__()
        self._module = module
        self._clients: dict[int, Client] = {}
        self._table = Clients()
        self._points: dict[str, list[Hook]] = {}
        self._owners: list[Any] = []
        self._config = Config(setup.get("config") or {})
        self._config.worker = str(setup.get("worker") or "")
        self._config.index = int(setup.get("index") or 0)
        self._config.pool_size = int(setup.get("pool_size") or 1)
        self._config.node = str(setup.get("node") or "")
        self._due: list[Hook] = []
        self._queues = False

    # Life

    def load(self) -> None:
        for hook in self._found():
            self._points.setdefault(hook.point, []).append(hook)
        if not self._points:
            raise LoadError(f"module {self._module.__name__} has no hooks of grapnel_exhook")
        # With one async hook, all hooks run as coroutines, so that they begin in the order of
        # events.
        self._queues = any(hook.asynchronous for hooks in self._points.values() for hook in hooks)
        self.asynchronous = self._queues or any(
            inspect.iscoroutinefunction(self._of_owner(owner, name)) for owner in self._owners for name in ("setup", "close")
        )

    def start(self) -> Awaitable[None] | None:
        if self.asynchronous:
            return self._start()
        for owner in self._owners:
            _must_not_wait("setup", self._set_up(owner))
        return None

    async def _start(self) -> None:
        for owner in self._owners:
            result = self._set_up(owner)
            if inspect.isawaitable(result):
                await result

    def _set_up(self, owner: Any) -> Any:
        setup = self._of_owner(owner, "setup")
        if setup is None:
            return None
        return setup() if positional_parameters(setup) == 0 else setup(self._config)

    def stop(self) -> Awaitable[None] | None:
        if self.asynchronous:
            return self._stop()
        for owner in reversed(self._owners):
            try:
                _must_not_wait("close", self._close(owner))
            except (Exception, SystemExit) as error:
                self.complain(self._close_name(owner), error)
        return None

    async def _stop(self) -> None:
        for owner in reversed(self._owners):
            # A failure must not skip the others.
            try:
                result = self._close(owner)
                if inspect.isawaitable(result):
                    await result
            except (Exception, SystemExit) as error:
                self.complain(self._close_name(owner), error)

    def _close_name(self, owner: Any) -> str:
        return "close" if owner is self._module else f"{type(owner).__name__}.close"

    def _close(self, owner: Any) -> Any:
        close = self._of_owner(owner, "close")
        return None if close is None else close()

    def _of_owner(self, owner: Any, name: str) -> Callable[..., Any] | None:
        function = getattr(owner, name, None)
        if owner is self._module and not (inspect.isfunction(function) and function.__module__ == owner.__name__):
            # An imported function of that name, which is not a hook of the module.
            return None
        return function if callable(function) else None

    def describe(self, number: int, client: dict[str, Any]) -> None:
        known = self._table.describe(number, client)
        # A new object: a suspended hook keeps the one of its event.
        attributes = known.thing.attributes if known.thing is not None else None
        self._clients[number] = known.thing = Client(number, known.raw, attributes)

    def forget(self, number: int) -> None:
        self._clients.pop(number, None)
        self._table.forget(number)

    # The contents of the module

    def _found(self) -> list[Hook]:
        values = {id(value): (name, value) for name, value in vars(self._module).items()}
        classes = [value for _, value in values.values() if isinstance_of(value, type)]
        hooks: list[Hook] = []
        self._owners.append(self._module)
        for name, value in values.values():
            if isinstance_of(value, type):
                owner = self._instance_of(value, classes, [each for _, each in values.values()])
            elif not marks_of(value) and _marked_names(type(value)):
                owner = value
            else:
                hooks += [Hook(value, mark, name) for mark in marks_of(value)]
                continue
            if owner is None:
                continue
            self._owners.append(owner)
            for attribute in _marked_names(type(owner)):
                method = getattr(owner, attribute)
                hooks += [Hook(method, mark, f"{type(owner).__name__}.{attribute}") for mark in marks_of(method)]
        return hooks

    def _instance_of(self, kind: type, classes: list[type], values: list[Any]) -> Any:
        """A new instance of a class with hooks, unless the module has one, or has a class that
        derives from it."""
        if kind is Hooks or not (issubclass(kind, Hooks) or _marked_names(kind)):
            return None
        if any(other is not kind and issubclass(other, kind) for other in classes):
            return None
        if any(isinstance_of(value, kind) for value in values):
            return None
        if not issubclass(kind, Hooks):
            raise LoadError(
                f"class {kind.__name__} has hooks, but neither derives from grapnel_exhook.Hooks nor has an instance in "
                f"module {self._module.__name__}"
            )
        return kind()

    def hooks(self) -> list[dict[str, Any]]:
        entries = []
        for point, hooks in self._points.items():
            topics = [] if any(not hook.mark.topics for hook in hooks) else sorted({t for h in hooks for t in h.mark.topics})
            entry: dict[str, Any] = {"point": point, "topics": topics, "answers": self._answers(point)}
            if point == "client.authorize":
                entry["deliver"] = any(hook.mark.deliver for hook in hooks)
            entries.append(entry)
        return entries

    def _answers(self, point: str) -> bool:
        return point in ANSWERING and any(not hook.notified for hook in self._points[point])

    def name_of(self, point: str) -> str:
        return ", ".join(hook.name for hook in self._points.get(point, ())) or point

    # Calls

    def handlers(self) -> dict[str, Handler]:
        return {point: self._verdict(point) if self._answers(point) else self._notification(point) for point in self._points}

    def _notification(self, point: str) -> Handler:
        hooks = self._points[point]
        kind = OF_POINT[point]
        clients = self._clients
        if len(hooks) == 1:
            hook = hooks[0]
            function = hook.function
            if hook.mark.batch:
                return self._batching(hook, kind)
            if hook.asynchronous:
                return lambda client, data: function(kind(clients.get(client), data))

            async def queued(event: Event) -> None:
                result = function(event)
                if result is not None:
                    self._not_awaited(hook, result)

            def one(client: int, data: Any) -> None:
                result = function(kind(clients.get(client), data))
                if result is not None:
                    self._not_awaited(hook, result)

            return (lambda client, data: queued(kind(clients.get(client), data))) if self._queues else one
        if self._queues and not all(hook.mark.batch for hook in hooks):
            return lambda client, data: self._notify_waiting(hooks, kind(clients.get(client), data))

        def several(client: int, data: Any) -> None:
            self._notify(hooks, kind(clients.get(client), data))

        return several

    def _batching(self, hook: Hook, kind: type[Event]) -> Handler:
        clients = self._clients
        return lambda client, data: self._gather(hook, kind(clients.get(client), data))

    def _not_awaited(self, hook: Hook, result: Any) -> None:
        """The return value of a notification is ignored, but a coroutine would be work that is
        never done."""
        if inspect.iscoroutine(result):
            result.close()
            text = f"{hook.name} returned a coroutine that nobody awaits; make the hook itself async def"
            self.complain(hook.name, RuntimeError(text))

    def _wanted(self, hook: Hook, event: Event) -> bool:
        if hook.matches is None:
            return True
        raw = event._data
        # The data of message.dropped and message.retained begins with the message.
        return hook.matches(raw[0][1] if isinstance(raw[0], (list, tuple)) else raw[1])

    def _gather(self, hook: Hook, event: Event) -> None:
        if not hook.behind:
            self._due.append(hook)
        elif len(hook.behind) >= _BEHIND_MAX or hook.behind_bytes >= _BEHIND_BYTES_MAX:
            self.complain(hook.name, RuntimeError(f"an event is lost: the batch hook is {len(hook.behind)} events behind"))
            return
        hook.behind.append(event)
        hook.behind_bytes += _payload_bytes(event._data)

    def _notify(self, hooks: list[Hook], event: Event) -> None:
        for hook in hooks:
            if not self._wanted(hook, event):
                continue
            if hook.mark.batch:
                self._gather(hook, event)
                continue
            try:
                self._not_awaited(hook, hook.function(event))
            except (Exception, SystemExit) as error:
                self.complain(hook.name, error)

    async def _notify_waiting(self, hooks: list[Hook], event: Event) -> None:
        for hook in hooks:
            if not self._wanted(hook, event):
                continue
            if hook.mark.batch:
                self._gather(hook, event)
                continue
            try:
                result = hook.function(event)
                if hook.asynchronous:
                    await result
                else:
                    self._not_awaited(hook, result)
            except (Exception, SystemExit) as error:
                self.complain(hook.name, error)

    def frame_end(self) -> list[Batch]:
        if not self._due:
            return []
        due = [hook for hook in self._due if not hook.busy]
        self._due.clear()
        return [Batch(hook.name, self._run_batch(hook)) for hook in due]

    def _run_batch(self, hook: Hook) -> Callable[[], Coroutine[Any, Any, None] | None]:
        def take() -> list[Event]:
            events, hook.behind, hook.behind_bytes = hook.behind, [], 0
            return events

        def run() -> None:
            self._not_awaited(hook, hook.function(take()))

        async def run_waiting() -> None:
            hook.busy = True
            try:
                while hook.behind:
                    try:
                        await hook.function(take())
                    except (Exception, SystemExit) as error:
                        self.complain(hook.name, error)
            finally:
                hook.busy = False

        return run_waiting if hook.asynchronous else run

    def _verdict(self, point: str) -> Handler:
        hooks = [hook for hook in self._points[point] if not hook.notified]
        notified = [hook for hook in self._points[point] if hook.notified]
        kind = OF_POINT[point]
        interpret = INTERPRETERS[point]
        clients = self._clients
        if len(hooks) == 1 and not notified:
            hook = hooks[0]
            function = hook.function
            if self._queues:

                async def request(event: Event, data: Any) -> Any:
                    try:
                        result = function(event)
                        return interpret(await result if hook.asynchronous else result, data)
                    except WrongAnswer as error:
                        return (FAILED, f"{hook.name} {error}")

                # The event is created now: when the coroutine begins, the client may have a new
                # description.
                return lambda client, data: request(kind(clients.get(client), data), data)

            def decide(client: int, data: Any) -> Any:
                try:
                    return interpret(function(kind(clients.get(client), data)), data)
                except WrongAnswer as error:
                    return (FAILED, f"{hook.name} {error}")

            return decide
        if self._queues:
            return lambda client, data: self._chain_waiting(point, hooks, notified, clients.get(client), data)
        return lambda client, data: self._chain(point, hooks, notified, clients.get(client), data)

    def _chain(self, point: str, hooks: list[Hook], notified: list[Hook], who: Client | None, data: Any) -> Any:
        """Each hook sees the changes of earlier ones. The first that ends the chain, or fails, ends
        it for all."""
        interpret = INTERPRETERS[point]
        kind = OF_POINT[point]
        merged: dict[str, Any] = {}
        for hook in hooks:
            event = kind(who, data)
            if not self._wanted(hook, event):
                continue
            try:
                answer = interpret(hook.function(event), data)
            except Exception as error:
                # By default the message continues after a failure, so these hooks must be notified.
                self._notify(notified, event)
                if isinstance(error, WrongAnswer):
                    return (FAILED, f"{hook.name} {error}")
                raise
            if answer is not None:
                if answer[0] == STOP:
                    return (STOP, {**merged, **answer[1]}) if merged else answer
                data = apply(point, data, merged, answer[1])
        self._notify(notified, kind(who, data))
        return (GO_ON, merged) if merged else None

    async def _chain_waiting(self, point: str, hooks: list[Hook], notified: list[Hook], who: Client | None, data: Any) -> Any:
        interpret = INTERPRETERS[point]
        kind = OF_POINT[point]
        merged: dict[str, Any] = {}
        for hook in hooks:
            event = kind(who, data)
            if not self._wanted(hook, event):
                continue
            try:
                result = hook.function(event)
                answer = interpret(await result if hook.asynchronous else result, data)
            except Exception as error:
                await self._notify_waiting(notified, event)
                if isinstance(error, WrongAnswer):
                    return (FAILED, f"{hook.name} {error}")
                raise
            if answer is not None:
                if answer[0] == STOP:
                    return (STOP, {**merged, **answer[1]}) if merged else answer
                data = apply(point, data, merged, answer[1])
        await self._notify_waiting(notified, kind(who, data))
        return (GO_ON, merged) if merged else None
