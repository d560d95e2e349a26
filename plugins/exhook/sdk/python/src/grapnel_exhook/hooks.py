"""The decorators: `@on.message_publish` on a function, or on a method of a class that derives from `Hooks`.

They only leave a mark on the function, which stays callable. The driver finds the marks in the
module. A hook takes one event and may be `async def`. One function must not be marked for two
points with different options.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, Literal, Protocol, TypeVar, Union, overload

from . import events
from ._match import check
from .answers import AuthenticateAnswer, AuthorizeAnswer, ConnectAnswer, FiltersAnswer, PublishAnswer

MARK = "__grapnel_hooks__"


@dataclasses.dataclass(frozen=True)
class Mark:
    """The mark of a decorator: hook point and options."""

    point: str
    topics: tuple[str, ...] = ()
    batch: bool = False
    deliver: bool = False


class Config(dict[str, Any]):
    """The `config` of the worker's configuration, as `setup` gets it, and facts about the worker
    and the broker."""

    #: The name of the worker, as in the log.
    worker: str = ""
    #: Index of this worker in the pool, from 0.
    index: int = 0
    #: Number of workers in the pool.
    pool_size: int = 1
    #: The broker's name.
    node: str = ""


class Hooks:
    """Base of classes with hooks. Each worker creates one instance of each such class in its
    module, unless the module has created one."""

    def setup(self, config: Config) -> None | Awaitable[None]:
        """Called before the first hook. May be `async def`. An exception makes the load fail."""
        return None

    def close(self) -> None | Awaitable[None]:
        """Called after the last hook. May be `async def`."""
        return None


_A = TypeVar("_A", covariant=True)
_E = TypeVar("_E", bound=events.Event)
_R = TypeVar("_R")
_S = TypeVar("_S")
_Connect = TypeVar("_Connect", bound=Union[ConnectAnswer, Awaitable[ConnectAnswer]])
_Authenticate = TypeVar("_Authenticate", bound=Union[AuthenticateAnswer, Awaitable[AuthenticateAnswer]])
_Authorize = TypeVar("_Authorize", bound=Union[AuthorizeAnswer, Awaitable[AuthorizeAnswer]])
_Filters = TypeVar("_Filters", bound=Union[FiltersAnswer, Awaitable[FiltersAnswer]])
_Publish = TypeVar("_Publish", bound=Union[PublishAnswer, Awaitable[PublishAnswer]])


# For type checkers, the results of these decorators accept any event, so that decorators of several
# points can be applied to one function that accepts their events.


class _Told(Protocol[_A]):
    """A decorator for a function or method that takes an `_A` and returns no decision."""

    @overload
    def __call__(self, function: Callable[[_A], _R], /) -> Callable[[Any], _R]: ...
    @overload
    def __call__(self, function: Callable[[_S, _A], _R], /) -> Callable[[_S, Any], _R]: ...


def _mark(function: Any, mark: Mark) -> Any:
    target = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    if not callable(target):
        raise TypeError(f"on.{mark.point.replace('.', '_')} is for functions and methods")
    target.__dict__.setdefault(MARK, []).append(mark)
    return function


def marks_of(value: Any) -> list[Mark]:
    """The marks on a value of any kind. Its own attribute access is not used, since it may return
    anything or raise."""
    if isinstance_of(value, (types.MethodType, staticmethod, classmethod)):
        value = value.__func__
    marks = inspect.getattr_static(value, MARK, None)
    return marks if type(marks) is list else []


def isinstance_of(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance` without the value's own `__class__`."""
    return issubclass(type(value), kinds)


class _Notification(Generic[_E]):
    """A hook point for notifications."""

    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: Callable[[_E], _R], /) -> Callable[[Any], _R]: ...
    @overload
    def __call__(self, function: Callable[[_S, _E], _R], /) -> Callable[[_S, Any], _R]: ...
    @overload
    def __call__(self, /, *, batch: Literal[True]) -> _Told[list[_E]]: ...
    @overload
    def __call__(self, /, *, batch: Literal[False] = ...) -> _Told[_E]: ...
    def __call__(self, function: Any = None, /, *, batch: bool = False) -> Any:
        """With `batch=True` the hook gets a list of events, at most one list for each frame of the broker."""
        return _decorate(function, Mark(self._point, batch=batch))


class _MessageNotification(Generic[_E]):
    """A hook point for notifications about messages."""

    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: Callable[[_E], _R], /) -> Callable[[Any], _R]: ...
    @overload
    def __call__(self, function: Callable[[_S, _E], _R], /) -> Callable[[_S, Any], _R]: ...
    @overload
    def __call__(self, /, *, topics: Sequence[str] = ..., batch: Literal[True]) -> _Told[list[_E]]: ...
    @overload
    def __call__(self, /, *, topics: Sequence[str] = ..., batch: Literal[False] = ...) -> _Told[_E]: ...
    def __call__(self, function: Any = None, /, *, topics: Sequence[str] = (), batch: bool = False) -> Any:
        """Only messages whose topic matches one of `topics`; without them, all."""
        return _decorate(function, Mark(self._point, topics=_topics(topics), batch=batch))


class _ConnectVerdict:
    @overload
    def __call__(self, function: Callable[[events.ConnectEvent], _Connect], /) -> Callable[[Any], _Connect]: ...
    @overload
    def __call__(self, function: Callable[[_S, events.ConnectEvent], _Connect], /) -> Callable[[_S, Any], _Connect]: ...
    @overload
    def __call__(self, /) -> _ConnectVerdict: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, `Refuse` or `Limits`."""
        return _decorate(function, Mark("client.connect"))


class _AuthenticateVerdict:
    @overload
    def __call__(self, function: Callable[[events.AuthenticateEvent], _Authenticate], /) -> Callable[[Any], _Authenticate]: ...
    @overload
    def __call__(
        self, function: Callable[[_S, events.AuthenticateEvent], _Authenticate], /
    ) -> Callable[[_S, Any], _Authenticate]: ...
    @overload
    def __call__(self, /) -> _AuthenticateVerdict: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, a bool, `Allow`, `Deny` or `Challenge`."""
        return _decorate(function, Mark("client.authenticate"))


class _AuthorizeVerdict:
    @overload
    def __call__(self, function: Callable[[events.AuthorizeEvent], _Authorize], /) -> Callable[[Any], _Authorize]: ...
    @overload
    def __call__(self, function: Callable[[_S, events.AuthorizeEvent], _Authorize], /) -> Callable[[_S, Any], _Authorize]: ...
    @overload
    def __call__(self, /, *, deliver: bool = ...) -> _AuthorizeVerdict: ...
    def __call__(self, function: Any = None, /, *, deliver: bool = False) -> Any:
        """Return None, a bool, `Allow` or `Deny`. With `deliver=True` the hook is also called
        before deliveries."""
        return _decorate(function, Mark("client.authorize", deliver=deliver))


class _FiltersVerdict(Generic[_E]):
    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: Callable[[_E], _Filters], /) -> Callable[[Any], _Filters]: ...
    @overload
    def __call__(self, function: Callable[[_S, _E], _Filters], /) -> Callable[[_S, Any], _Filters]: ...
    @overload
    def __call__(self, /) -> _FiltersVerdict[_E]: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, or a list with one item for each filter: None, another filter, `Rewrite` or `Refuse`."""
        return _decorate(function, Mark(self._point))


class _SubscribeVerdict(_FiltersVerdict[events.SubscribeEvent]):
    def __init__(self) -> None:
        super().__init__("client.subscribe")


class _UnsubscribeVerdict(_FiltersVerdict[events.UnsubscribeEvent]):
    def __init__(self) -> None:
        super().__init__("client.unsubscribe")


class _PublishVerdict:
    @overload
    def __call__(self, function: Callable[[events.MessageEvent], _Publish], /) -> Callable[[Any], _Publish]: ...
    @overload
    def __call__(self, function: Callable[[_S, events.MessageEvent], _Publish], /) -> Callable[[_S, Any], _Publish]: ...
    @overload
    def __call__(self, /, *, topics: Sequence[str] = ..., notify: Literal[False] = ...) -> _PublishVerdict: ...
    @overload
    def __call__(
        self, /, *, topics: Sequence[str] = ..., notify: Literal[True], batch: Literal[True]
    ) -> _Told[list[events.MessageEvent]]: ...
    @overload
    def __call__(
        self, /, *, topics: Sequence[str] = ..., notify: Literal[True], batch: Literal[False] = ...
    ) -> _Told[events.MessageEvent]: ...
    def __call__(
        self, function: Any = None, /, *, topics: Sequence[str] = (), notify: bool = False, batch: bool = False
    ) -> Any:
        """Return None, `Modify`, `Drop`, `Reject` or `Disconnect`. With `notify=True` the message
        does not wait for the hook, and the return value is ignored. With `batch=True`, which
        requires `notify`, the hook gets a list of events."""
        if batch and not notify:
            raise TypeError("on.message_publish: batch=True needs notify=True, since a batch cannot decide")
        point = "message.publish" if not notify else NOTIFY_PUBLISH
        return _decorate(function, Mark(point, topics=_topics(topics), batch=batch))


def _decorate(function: Any, mark: Mark) -> Any:
    """With options, a decorator is first called without a function."""
    return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


#: The mark of a message.publish hook that is only notified.
NOTIFY_PUBLISH = "message.publish (told)"


def _topics(topics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(topics, str):
        raise TypeError(f"topics is a list of filters: topics=[{topics!r}]")
    return tuple(check(each) for each in topics)


class _On:
    """One decorator for each hook point. Points with an answer have their own classes, above."""

    # Begin: a decorator for each hook point, from plugin-abi/src/point.rs; `just abi` writes it anew
    client_connect = _ConnectVerdict()
    client_authenticate = _AuthenticateVerdict()
    client_authorize = _AuthorizeVerdict()
    client_connack = _Notification[events.ConnackEvent]("client.connack")
    client_connected = _Notification[events.ConnectedEvent]("client.connected")
    client_disconnected = _Notification[events.DisconnectedEvent]("client.disconnected")
    client_subscribe = _SubscribeVerdict()
    client_unsubscribe = _UnsubscribeVerdict()
    session_created = _Notification[events.SessionEvent]("session.created")
    session_resumed = _Notification[events.SessionEvent]("session.resumed")
    session_discarded = _Notification[events.SessionEvent]("session.discarded")
    session_takenover = _Notification[events.SessionEvent]("session.takenover")
    session_terminated = _Notification[events.SessionEvent]("session.terminated")
    session_subscribed = _Notification[events.SubscribedEvent]("session.subscribed")
    session_unsubscribed = _Notification[events.UnsubscribedEvent]("session.unsubscribed")
    message_publish = _PublishVerdict()
    message_delivered = _MessageNotification[events.MessageEvent]("message.delivered")
    message_acked = _MessageNotification[events.MessageEvent]("message.acked")
    message_dropped = _MessageNotification[events.DroppedEvent]("message.dropped")
    message_retained = _MessageNotification[events.RetainedEvent]("message.retained")
    packet_received = _Notification[events.PacketEvent]("packet.received")
    packet_sent = _Notification[events.PacketEvent]("packet.sent")
    broker_starting = _Notification[events.BrokerEvent]("broker.starting")
    broker_started = _Notification[events.BrokerEvent]("broker.started")
    broker_stopping = _Notification[events.BrokerEvent]("broker.stopping")
    broker_stopped = _Notification[events.BrokerEvent]("broker.stopped")
    # End: a decorator for each hook point


on = _On()
