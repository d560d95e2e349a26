"""Runs unchanged hooks of EMQX 4.1's extension drivers: `init()` returns a hookspec, and hooks get
positional arguments.

Called by the worker. docs/moving-from-emqx.md describes the arguments and return values. This file
must not require more than the module itself uses, so that it works without the `emqx-extension-sdk`
package.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from .._driver import FAILED, GO_ON, STOP, Driver, Handler, LoadError
from .._loading import positional_parameters
from .._match import check, matcher
from .emqx_records import Binary, Record, Records, binary, reason_name, text_of

# EMQX's name of a hook: the hook point, and whether the broker waits for an answer.
HOOKS: dict[str, tuple[str, bool]] = {
    "client_connect": ("client.connect", False),
    "client_connack": ("client.connack", False),
    "client_connected": ("client.connected", False),
    "client_disconnected": ("client.disconnected", False),
    "client_authenticate": ("client.authenticate", True),
    "client_check_acl": ("client.authorize", True),
    "client_subscribe": ("client.subscribe", False),
    "client_unsubscribe": ("client.unsubscribe", False),
    "session_created": ("session.created", False),
    "session_subscribed": ("session.subscribed", False),
    "session_unsubscribed": ("session.unsubscribed", False),
    "session_resumed": ("session.resumed", False),
    "session_discarded": ("session.discarded", False),
    "session_takeovered": ("session.takenover", False),
    "session_terminated": ("session.terminated", False),
    "message_publish": ("message.publish", True),
    "message_delivered": ("message.delivered", False),
    "message_acked": ("message.acked", False),
    "message_dropped": ("message.dropped", False),
}
_OF_POINT = {point: name for name, (point, _) in HOOKS.items()}

Function = Callable[..., Any]


class _Hook:
    __slots__ = ("function", "matches", "name", "topics", "with_rc")

    def __init__(self, name: str, function: Function, topics: list[str]) -> None:
        self.name = name
        self.function = function
        self.topics = topics
        self.matches = matcher(topics)
        # The SDK passes conninfo, props, state; EMQX's driver also passed rc.
        self.with_rc = positional_parameters(function) not in (2, 3)


class EmqxDriver(Driver):
    """Runs the hookspec of one module."""

    def __init__(self, setup: dict[str, Any], module: ModuleType) -> None:
        super().__init__()
        self._module = module
        self._records = Records(str(setup.get("node") or ""))
        self._hooks: dict[str, list[_Hook]] = {}
        self._state: Any = None

    def load(self) -> None:
        init = getattr(self._module, "init", None)
        if not callable(init):
            raise LoadError(f"module {self._module.__name__} has no init()")
        result = init()
        if not isinstance(result, tuple) or len(result) != 2 or result[0] not in (0, 1):
            raise LoadError(f"init() of {self._module.__name__} returned {_short(result)}, not (0, (hookspec, state))")
        code, value = result
        if code == 1:
            raise LoadError(f"init() of {self._module.__name__} refused: {_short(value)}")
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[0], (list, tuple)):
            raise LoadError(f"init() of {self._module.__name__} returned {_short(result)}, not (0, (hookspec, state))")
        specs, self._state = value
        for spec in specs:
            hook = _hook(spec)
            self._hooks.setdefault(hook.name, []).append(hook)
        if not self._hooks:
            raise LoadError(f"the hookspec of {self._module.__name__} is empty")

    def hooks(self) -> list[dict[str, Any]]:
        entries = []
        for name, hooks in self._hooks.items():
            point, answers = HOOKS[name]
            everything = not name.startswith("message_") or any(not hook.topics for hook in hooks)
            topics = [] if everything else list(dict.fromkeys(topic for hook in hooks for topic in hook.topics))
            entries.append({"point": point, "topics": topics, "answers": answers})
        if self._wants_connect():
            entries.append({"point": "client.connect", "topics": [], "answers": False})
        return entries

    def handlers(self) -> dict[str, Handler]:
        handlers = {HOOKS[name][0]: getattr(self, f"_{name}")(hooks) for name, hooks in self._hooks.items()}
        if self._wants_connect():
            handlers["client.connect"] = lambda client, data: None
        return handlers

    def _wants_connect(self) -> bool:
        """Whether a hook shows data that the broker only sends at client.connect and
        client.authenticate, and the module has no hook at these."""
        return "client_connack" in self._hooks and not self._hooks.keys() & {"client_connect", "client_authenticate"}

    def name_of(self, point: str) -> str:
        return f"on_{_OF_POINT.get(point, point)}"

    def describe(self, number: int, client: dict[str, Any]) -> None:
        self._records.describe(number, client)

    def forget(self, number: int) -> None:
        self._records.forget(number)

    def stop(self) -> None:
        deinit = getattr(self._module, "deinit", None)
        if callable(deinit):
            deinit()

    # Notifications

    def _notify(self, hooks: list[_Hook], arguments: Callable[[int, Any], tuple[Any, ...]]) -> Handler:
        state = self._state
        if len(hooks) == 1:
            function = hooks[0].function

            def one(client: int, data: Any) -> None:
                function(*arguments(client, data), state)

            return one

        def all_of_them(client: int, data: Any) -> None:
            _each([(hook.function, (*arguments(client, data), state)) for hook in hooks])

        return all_of_them

    def _client_connect(self, hooks: list[_Hook]) -> Handler:
        conninfo, props = self._records.conninfo, self._records.connect_props
        return self._notify(hooks, lambda client, data: (conninfo(client), props(client)))

    def _client_connack(self, hooks: list[_Hook]) -> Handler:
        conninfo, state = self._records.conninfo, self._state

        def notify(client: int, data: Any) -> None:
            rc = reason_name(data[0])
            calls: list[tuple[Function, tuple[Any, ...]]] = []
            for hook in hooks:
                first = (conninfo(client), rc) if hook.with_rc else (conninfo(client),)
                no_props: Record = []
                calls.append((hook.function, (*first, no_props, state)))
            _each(calls)

        return notify

    def _client_connected(self, hooks: list[_Hook]) -> Handler:
        clientinfo = self._records.clientinfo
        return self._notify(hooks, lambda client, data: (clientinfo(client),))

    _session_created = _session_resumed = _session_discarded = _session_takeovered = _client_connected

    def _client_disconnected(self, hooks: list[_Hook]) -> Handler:
        clientinfo = self._records.clientinfo
        return self._notify(hooks, lambda client, data: (clientinfo(client), binary(data[1]) or reason_name(data[0])))

    def _client_subscribe(self, hooks: list[_Hook]) -> Handler:
        records = self._records
        return self._notify(
            hooks,
            lambda client, data: (
                records.clientinfo(client),
                records.props(data[2], data[1]),
                records.topics(data[0]),
            ),
        )

    def _client_unsubscribe(self, hooks: list[_Hook]) -> Handler:
        records = self._records
        return self._notify(
            hooks,
            lambda client, data: (
                records.clientinfo(client),
                records.props(data[1]),
                records.topics([(topic, 0) for topic in data[0]]),
            ),
        )

    def _session_subscribed(self, hooks: list[_Hook]) -> Handler:
        records = self._records
        return self._notify(
            hooks,
            lambda client, data: (records.clientinfo(client), binary(data[0]), records.options(data[1], bool(data[2]))),
        )

    def _session_unsubscribed(self, hooks: list[_Hook]) -> Handler:
        clientinfo = self._records.clientinfo
        return self._notify(hooks, lambda client, data: (clientinfo(client), binary(data[0])))

    def _session_terminated(self, hooks: list[_Hook]) -> Handler:
        clientinfo = self._records.clientinfo
        return self._notify(
            hooks,
            lambda client, data: (
                clientinfo(client),
                binary(data[2]) or (reason_name(data[3]) if data[3] is not None else Binary(b"normal")),
            ),
        )

    def _about_message(
        self, hooks: list[_Hook], message_of: Callable[[Any], Any], rest: Callable[[int, Any], tuple[Any, Any]]
    ) -> Handler:
        """A notification about a message; `rest` returns the arguments before and after the
        message."""
        record, state = self._records.message, self._state

        def notify(client: int, data: Any) -> None:
            raw = message_of(data)
            topic = raw[1]
            if topic.startswith("$SYS/"):
                return
            calls: list[tuple[Function, tuple[Any, ...]]] = []
            for hook in hooks:
                if len(hooks) > 1 and hook.matches is not None and not hook.matches(topic):
                    continue
                before, after = rest(client, data)
                calls.append((hook.function, (*before, record(raw), *after, state)))
            _each(calls)

        return notify

    def _message_delivered(self, hooks: list[_Hook]) -> Handler:
        clientinfo = self._records.clientinfo
        return self._about_message(hooks, lambda data: data, lambda client, data: ((clientinfo(client),), ()))

    _message_acked = _message_delivered

    def _message_dropped(self, hooks: list[_Hook]) -> Handler:
        return self._about_message(hooks, lambda data: data[0], lambda client, data: ((), (binary(data[2] or data[1]),)))

    # Verdicts

    def _verdict(self, hooks: list[_Hook], request: Callable[[_Hook, int, Any], Any]) -> Handler:
        def decide(client: int, data: Any) -> tuple[int, Any] | None:
            for hook in hooks:
                answer = request(hook, client, data)
                if answer is None:
                    continue
                if isinstance(answer, tuple) and len(answer) == 2 and answer[0].__class__ is int:
                    code, value = answer
                    if code == 0 and value.__class__ is bool:
                        return (STOP, {"allow": value})
                    if code == 0 and value is None:
                        continue
                    if code == 1:
                        return (FAILED, f"on_{hook.name}: {_short(value)}")
                return (FAILED, f"on_{hook.name} answered {_short(answer)}, not (0, True) or (0, False)")
            return None

        return decide

    def _client_authenticate(self, hooks: list[_Hook]) -> Handler:
        clientinfo, state = self._records.clientinfo, self._state

        def request(hook: _Hook, client: int, data: Any) -> Any:
            return hook.function(clientinfo(client), data[0] == 1, state)

        return self._verdict(hooks, request)

    def _client_check_acl(self, hooks: list[_Hook]) -> Handler:
        clientinfo, state = self._records.clientinfo, self._state

        def request(hook: _Hook, client: int, data: Any) -> Any:
            action = Binary(b"subscribe" if data[0] == 2 else b"publish")
            return hook.function(clientinfo(client), action, binary(data[1]), data[4] != 2, state)

        return self._verdict(hooks, request)

    def _message_publish(self, hooks: list[_Hook]) -> Handler:
        record, state = self._records.message, self._state

        def change(client: int, message: Any) -> tuple[int, Any] | None:
            topic = message[1]
            if topic.startswith("$SYS/"):
                return None
            changes: dict[str, Any] = {}
            for hook in hooks:
                if len(hooks) > 1 and hook.matches is not None and not hook.matches(message[1]):
                    continue
                answer = hook.function(record(message), state)
                if answer is None:
                    continue
                if not isinstance(answer, tuple) or len(answer) != 2 or answer[0].__class__ is not int:
                    return (FAILED, f"on_message_publish answered {_short(answer)}, not (0, [(key, value), …])")
                code, value = answer
                if code == 1:
                    return (FAILED, f"on_message_publish: {_short(value)}")
                if code != 0 or (value is not None and not isinstance(value, list)):
                    return (FAILED, f"on_message_publish answered {_short(answer)}, not (0, [(key, value), …])")
                try:
                    new = _changes(value or ())
                except (TypeError, ValueError) as error:
                    return (FAILED, f"on_message_publish answered {_short(answer)}: {error}")
                # The next hook gets the message with this change.
                message = [
                    message[0],
                    new.get("topic", message[1]),
                    new.get("payload", message[2]),
                    new.get("qos", message[3]),
                    *message[4:],
                ]
                changes.update(new)
            return (GO_ON, changes) if changes else None

        return change


def _hook(spec: Any) -> _Hook:
    if not isinstance(spec, (tuple, list)) or len(spec) not in (3, 4):
        raise LoadError(f"{_short(spec)} in the hookspec is not (name, module, function) or (name, module, function, opts)")
    name, module_name, path = (text_of(part) for part in spec[:3])
    if name not in HOOKS:
        raise LoadError(f"the hookspec names hook {name!r}, which EMQX has not; it has {', '.join(HOOKS)}")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise LoadError(f"the hookspec of {name} names module {module_name!r}, which cannot be found") from error
    for part in path.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise LoadError(f"the hookspec of {name} names {module_name}.{path}, but there is no {part!r}") from None
    if not callable(target):
        raise LoadError(f"the hookspec of {name} names {module_name}.{path}, which cannot be called")
    if inspect.iscoroutinefunction(inspect.unwrap(target)):
        raise LoadError(
            f"the hookspec of {name} names {module_name}.{path}, which is async def; nobody awaits EMQX's hooks, those of "
            "grapnel_exhook may be async"
        )
    return _Hook(name, target, _topics(name, spec[3] if len(spec) == 4 else None))


def _topics(name: str, opts: Any) -> list[str]:
    """The filters in opts: `[("topics", [filter, …])]`, or a plain list, as the SDK's
    `start(topics)` passes it."""
    if opts is None:
        return []
    if not isinstance(opts, (list, tuple)):
        raise LoadError(f"the options of {name} in the hookspec are {_short(opts)}, not a list")
    topics: list[str] = []
    for item in opts:
        if isinstance(item, (str, bytes)):
            topics.append(text_of(item))
        elif isinstance(item, (tuple, list)) and len(item) == 2 and text_of(item[0]) == "topics":
            if not isinstance(item[1], (list, tuple)):
                raise LoadError(f"the topics of {name} in the hookspec are {_short(item[1])}, not a list")
            topics += [text_of(topic) for topic in item[1]]
    try:
        return [check(topic) for topic in topics]
    except ValueError as error:
        raise LoadError(f"the topics of {name} in the hookspec: {error}") from None


def _changes(pairs: Any) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in pairs:
        key = text_of(key)
        if key == "topic":
            changes["topic"] = text_of(value)
        elif key == "payload":
            changes["payload"] = _bytes(value)
        elif key == "qos":
            if value.__class__ is not int or not 0 <= value <= 2:
                raise ValueError(f"qos {_short(value)} is not 0, 1 or 2")
            changes["qos"] = value
    return changes


def _each(calls: list[tuple[Function, tuple[Any, ...]]]) -> None:
    """Make all calls, and report the first failure."""
    failed: BaseException | None = None
    for function, arguments in calls:
        try:
            function(*arguments)
        except (Exception, SystemExit) as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise TypeError(f"{_short(value)} is neither text nor bytes")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
