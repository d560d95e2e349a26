"""Calls hooks without a broker, for the tests of a plugin.

    from grapnel_exhook.testing import Harness
    import hooks

    def test_unknown_users_are_refused():
        with Harness(hooks) as broker:
            ann = broker.client("c1", username="ann", password=b"secret")
            assert broker.authenticate(ann).allowed
            assert broker.authorize(ann, "other/topic").allowed is False
            assert broker.publish(ann, "a/b", b"hi").value == {"payload": b"HI"}

It runs modules of our own API, of EMQX and, with `driver="amqtt"`, configurations of aMQTT, through
the same drivers as a worker. A call raises the exception of its hook; an answer that the broker
would treat as a failure raises `HookFailed`. Calls wait for suspended hooks. Do not use it inside a
running event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import inspect
from collections.abc import Iterable, Sequence
from types import ModuleType, TracebackType
from typing import Any

from . import _commands
from ._channel import pack
from ._driver import FAILED, STOP, Driver, Handler
from ._loading import extend_path, last_line
from ._match import matcher
from .events import Action, Change, Options, Verdict

#: What the broker describes at every event; the rest only while the client connects.
_ALWAYS = (
    "client_id", "username", "superuser", "anonymous", "version", "peer_host", "peer_port", "local_port", "listener",
)  # fmt: skip
_LETTING_IN = ("client.connect", "client.authenticate")


class HookFailed(Exception):
    """A hook returned an answer that the broker treats as a failure."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a call."""

    called: bool = False
    """Whether there is a hook whose topics match."""
    last: bool = False
    """Whether later hooks are skipped."""
    value: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The changes, by their names in the protocol; empty for none."""

    @property
    def allowed(self) -> bool | None:
        """For authentication and authorization: the decision, None for none."""
        return self.value.get("allow")


class Harness:
    """A broker for hooks only. Commands of hooks are collected in `commands`."""

    def __init__(
        self,
        module: ModuleType | str | None = None,
        *,
        driver: str = "python3",
        path: Sequence[str] = (),
        config: dict[str, Any] | None = None,
        node: str = "grapnel@test",
    ) -> None:
        self._setup: dict[str, Any] = {
            "driver": driver, "path": list(path), "config": config or {}, "worker": "test", "index": 0, "pool_size": 1,
            "node": node,
        }  # fmt: skip
        self._module = module
        self._driver = Driver()
        self._handlers: dict[str, Handler] = {}
        self._matches: dict[str, Any] = {}
        self._deliver = False
        self._next = 0
        self._about: dict[int, dict[str, Any]] = {}
        self._told: dict[int, dict[str, Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        #: Commands of hooks: lists that begin with a name, as in PROTOCOL.md.
        self.commands: list[list[Any]] = []

    # Life

    def __enter__(self) -> Harness:
        from .drivers import choose, for_module

        _commands.attach(self._take)
        try:
            if self._module is None:
                self._driver = choose(self._setup)
            else:
                extend_path(self._setup["path"])
                module = importlib.import_module(self._module) if isinstance(self._module, str) else self._module
                self._driver = for_module(self._setup, module)
            self._driver.complain = self._raise
            self._driver.load()
            if self._driver.asynchronous:
                self._loop = asyncio.new_event_loop()
            self._through(self._driver.start)
            self._handlers = self._driver.handlers()
            hooks = self._driver.hooks()
            self._matches = {hook["point"]: matcher(hook["topics"]) for hook in hooks}
            self._deliver = any(hook.get("deliver") for hook in hooks)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._through(self._driver.stop)
        finally:
            self._end()

    def _end(self) -> None:
        _commands.detach(self._take)
        if self._loop is not None:
            try:
                self._loop.run_until_complete(_cancel_tasks())
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            finally:
                self._loop.close()

    def _take(self, command: list[Any]) -> None:
        # Values that cannot be packed raise here, as in a worker.
        pack(command)
        if command[0] != "keep":
            # Login data is not a command of a hook.
            self.commands.append(command)

    def _raise(self, name: str, error: BaseException) -> None:
        raise error

    def _through(self, function: Any, *arguments: Any) -> Any:
        """Call a function, and wait for its result."""
        if self._loop is None:
            return function(*arguments)

        async def wait() -> Any:
            result = function(*arguments)
            if isinstance(result, list):
                failed = [error for each in result if (error := await _error_of(each)) is not None]
                if failed:
                    raise failed[0]
                return []
            return await result if inspect.isawaitable(result) else result

        return self._loop.run_until_complete(wait())

    # Calls

    def client(self, client_id: str = "client", **about: Any) -> int:
        """Create a client and return its number. `about` are the keys of PROTOCOL.md, such as
        `username`, `password`, `version`. Hooks see of it what a broker shows: the password in
        client.authenticate, and CONNECT data if the module has a hook at client.connect or
        client.authenticate."""
        self._next += 1
        self._about[self._next] = {
            "client_id": client_id, "username": None, "superuser": False, "anonymous": False, "version": 5,
            "peer_host": "127.0.0.1", "peer_port": 50_000 + self._next, "local_port": 1883, "listener": "default",
            "password": None, "clean_start": True, "keep_alive_s": 60, "session_expiry_s": 0, "receive_maximum": 65_535,
            "connected_at_ms": 1_700_000_000_000, "will": None, "properties": [], "transport": "tcp", **about,
        }  # fmt: skip
        if any(point in self._handlers for point in _LETTING_IN):
            self._notify_of(self._next, {**self._about[self._next], "password": None})
        return self._next

    def describe(self, client: int, **about: Any) -> None:
        """Change the description of a client."""
        self._about[client].update(about)

    def _notify_of(self, client: int, raw: dict[str, Any]) -> None:
        if client in self._about and self._told.get(client) != raw:
            self._told[client] = raw
            self._driver.describe(client, dict(raw))

    def _introduce(self, point: str, client: int) -> None:
        about = self._about.get(client, {})
        if point in _LETTING_IN:
            self._notify_of(client, about if point == "client.authenticate" else {**about, "password": None})
        else:
            self._notify_of(client, {key: about.get(key) for key in _ALWAYS})

    def forget(self, client: int) -> None:
        """The client's number will not be used again."""
        self._about.pop(client, None)
        self._told.pop(client, None)
        self._driver.forget(client)

    def call(self, point: str, client: int, data: Any) -> Outcome:
        """Any call of the protocol."""
        handler = self._handlers.get(point)
        matches = self._matches.get(point)
        if handler is None or (matches is not None and not matches(_topic_of(data))):
            return Outcome()
        if point == "client.authorize" and data[0] == Action.DELIVER and not self._deliver:
            return Outcome()
        self._introduce(point, client)
        answer = self._through(handler, client, data)
        for batch in self._driver.frame_end():
            self._through(batch.run)
        if answer is None or isinstance(answer, list):
            return Outcome(called=True)
        code, value = answer
        if code == FAILED:
            raise HookFailed(value)
        try:
            pack(answer)
        except (TypeError, ValueError, OverflowError) as error:
            raise HookFailed(f"what the hook answered cannot be sent: {last_line(error)}") from error
        return Outcome(True, code == STOP, value or {})

    def connect(self, client: int) -> Outcome:
        """client.connect"""
        return self.call("client.connect", client, [])

    def connack(self, client: int, reason: int = 0, session_present: bool = False) -> Outcome:
        """client.connack"""
        return self.call("client.connack", client, [reason, session_present])

    def connected(self, client: int) -> Outcome:
        """client.connected"""
        return self.call("client.connected", client, [])

    def disconnected(self, client: int, reason: int = 0, name: str = "normal") -> Outcome:
        """client.disconnected"""
        return self.call("client.disconnected", client, [reason, name])

    def authenticate(
        self, client: int, *, verdict: Verdict = Verdict.NONE, method: str | None = None, auth_data: bytes | None = None
    ) -> Outcome:
        """client.authenticate"""
        return self.call("client.authenticate", client, [int(verdict), method, auth_data])

    def authorize(
        self,
        client: int,
        topic: str,
        action: Action = Action.PUBLISH,
        *,
        qos: int = 0,
        retain: bool = False,
        verdict: Verdict = Verdict.NONE,
    ) -> Outcome:
        """client.authorize"""
        return self.call("client.authorize", client, [int(action), topic, qos, retain, int(verdict)])

    def subscribe(
        self, client: int, filters: Iterable[tuple[str, Options | int]], *, subscription_id: int | None = None
    ) -> Outcome:
        """client.subscribe"""
        pairs = [[topic, o.to_byte() if isinstance(o, Options) else o] for topic, o in filters]
        return self.call("client.subscribe", client, [pairs, subscription_id, []])

    def unsubscribe(self, client: int, filters: Iterable[str]) -> Outcome:
        """client.unsubscribe"""
        return self.call("client.unsubscribe", client, [list(filters), []])

    def session(
        self,
        event: str,
        client: int,
        *,
        persistent: bool = False,
        expiry_s: int = 0,
        cause: str | None = None,
        reason: int | None = None,
    ) -> Outcome:
        """session.created, .resumed, .discarded, .takenover, .terminated: `event` is the second word."""
        return self.call(f"session.{event}", client, [persistent, expiry_s, cause, reason])

    def subscribed(
        self,
        client: int,
        topic_filter: str,
        options: Options | int = 0,
        *,
        is_new: bool = True,
        subscription_id: int | None = None,
    ) -> Outcome:
        """session.subscribed"""
        byte = options.to_byte() if isinstance(options, Options) else options
        return self.call("session.subscribed", client, [topic_filter, byte, is_new, subscription_id])

    def unsubscribed(self, client: int, topic_filter: str, cause: str | None = "unsubscribe") -> Outcome:
        """session.unsubscribed"""
        return self.call("session.unsubscribed", client, [topic_filter, cause])

    def publish(self, client: int, topic: str, payload: bytes = b"", **more: Any) -> Outcome:
        """message.publish; `more` as for `message`."""
        return self.call("message.publish", client, message(topic, payload, **more))

    def delivered(self, client: int, topic: str, payload: bytes = b"", **more: Any) -> Outcome:
        """message.delivered"""
        return self.call("message.delivered", client, message(topic, payload, **more))

    def acked(self, client: int, topic: str, payload: bytes = b"", **more: Any) -> Outcome:
        """message.acked"""
        return self.call("message.acked", client, message(topic, payload, **more))

    def dropped(
        self, client: int, topic: str, payload: bytes = b"", *, by: str = "broker", cause: str = "no_subscribers", **more: Any
    ) -> Outcome:
        """message.dropped"""
        return self.call("message.dropped", client, [message(topic, payload, **more), by, cause])

    def retained(self, topic: str, payload: bytes = b"", *, change: Change = Change.STORED, **more: Any) -> Outcome:
        """message.retained, which is about no client"""
        return self.call("message.retained", 0, [message(topic, payload, **more), int(change)])


def message(
    topic: str,
    payload: bytes = b"",
    *,
    qos: int = 0,
    retain: bool = False,
    dup: bool = False,
    publisher: str = "publisher",
    timestamp_ms: int = 1_700_000_000_000,
    ident: int = 1,
    **properties: Any,
) -> list[Any]:
    """A message in the protocol's form; `properties` are `content_type`, `user` and so on."""
    return [ident, topic, payload, qos, retain, dup, publisher, timestamp_ms, properties]


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _error_of(awaitable: Any) -> Exception | None:
    try:
        await awaitable
    except Exception as error:
        return error
    return None


def _topic_of(data: Any) -> str:
    topic: str = data[0][1] if data and isinstance(data[0], list) else data[1]
    return topic
