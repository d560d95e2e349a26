"""The decorators: `@on.message_publish` on a function, or on a method of a class that derives from `Hooks`.

They only leave a mark on the function, so that it stays callable as it is; the own driver finds the marks in the module. A hook
takes one event and may be `async def`. Functions must not share a mark between two points with different options.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, Union, overload

from ._match import check
from .answers import AuthenticateAnswer, AuthorizeAnswer, ConnectAnswer, FiltersAnswer, PublishAnswer

MARK = "__grapnel_hooks__"


@dataclasses.dataclass(frozen=True)
class Mark:
    """What a decorator left: point and options."""

    point: str
    topics: tuple[str, ...] = ()
    batch: bool = False
    deliver: bool = False


class Config(dict[str, Any]):
    """The `config` of the worker's configuration, as `setup` gets it; with what the broker says of itself."""

    #: The name of the worker, as it stands in the log.
    worker: str = ""
    #: Which worker of the pool this is, from 0.
    index: int = 0
    #: How many workers the pool has.
    pool_size: int = 1
    #: The broker's name.
    node: str = ""


class Hooks:
    """Base of classes with hooks. Each worker makes one instance of each such class of its module, unless the module made
    one itself."""

    def setup(self, config: Config) -> None | Awaitable[None]:
        """Before the first hook is called. May be `async def`. An exception refuses the load."""
        return None

    def close(self) -> None | Awaitable[None]:
        """After the last hook. May be `async def`."""
        return None


_Maybe = Union[None, Awaitable[None]]
_Notify = TypeVar("_Notify", bound=Callable[..., Any])
_Connect = TypeVar("_Connect", bound=Callable[..., Union[ConnectAnswer, Awaitable[ConnectAnswer]]])
_Authenticate = TypeVar("_Authenticate", bound=Callable[..., Union[AuthenticateAnswer, Awaitable[AuthenticateAnswer]]])
_Authorize = TypeVar("_Authorize", bound=Callable[..., Union[AuthorizeAnswer, Awaitable[AuthorizeAnswer]]])
_Filters = TypeVar("_Filters", bound=Callable[..., Union[FiltersAnswer, Awaitable[FiltersAnswer]]])
_Publish = TypeVar("_Publish", bound=Callable[..., Union[PublishAnswer, Awaitable[PublishAnswer]]])


def _mark(function: Any, mark: Mark) -> Any:
    target = function.__func__ if isinstance(function, (staticmethod, classmethod)) else function
    if not callable(target):
        raise TypeError(f"on.{mark.point.replace('.', '_')} is for functions and methods")
    target.__dict__.setdefault(MARK, []).append(mark)
    return function


def marks_of(value: Any) -> list[Mark]:
    """What decorators have left at a value of any kind. The value itself is not asked: some answer to every name, or raise."""
    if isinstance_of(value, (types.MethodType, staticmethod, classmethod)):
        value = value.__func__
    marks = inspect.getattr_static(value, MARK, None)
    return marks if type(marks) is list else []


def isinstance_of(value: Any, kinds: type | tuple[type, ...]) -> bool:
    """`isinstance` without asking the value what it wants to be."""
    return issubclass(type(value), kinds)


class _Notification:
    """A point that only tells."""

    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: _Notify, /) -> _Notify: ...
    @overload
    def __call__(self, /, *, batch: bool = ...) -> Callable[[_Notify], _Notify]: ...
    def __call__(self, function: Any = None, /, *, batch: bool = False) -> Any:
        """With `batch=True` the hook gets a list of events, at most one list for each frame of the broker."""
        mark = Mark(self._point, batch=batch)
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _MessageNotification:
    """A point that tells of messages."""

    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: _Notify, /) -> _Notify: ...
    @overload
    def __call__(self, /, *, topics: Sequence[str] = ..., batch: bool = ...) -> Callable[[_Notify], _Notify]: ...
    def __call__(self, function: Any = None, /, *, topics: Sequence[str] = (), batch: bool = False) -> Any:
        """Only messages whose topic matches one of `topics`; without them, all."""
        mark = Mark(self._point, topics=_topics(topics), batch=batch)
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _ConnectVerdict:
    @overload
    def __call__(self, function: _Connect, /) -> _Connect: ...
    @overload
    def __call__(self, /) -> Callable[[_Connect], _Connect]: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, `Refuse` or `Limits`."""
        mark = Mark("client.connect")
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _AuthenticateVerdict:
    @overload
    def __call__(self, function: _Authenticate, /) -> _Authenticate: ...
    @overload
    def __call__(self, /) -> Callable[[_Authenticate], _Authenticate]: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, a bool, `Allow`, `Deny` or `Challenge`."""
        mark = Mark("client.authenticate")
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _AuthorizeVerdict:
    @overload
    def __call__(self, function: _Authorize, /) -> _Authorize: ...
    @overload
    def __call__(self, /, *, deliver: bool = ...) -> Callable[[_Authorize], _Authorize]: ...
    def __call__(self, function: Any = None, /, *, deliver: bool = False) -> Any:
        """Return None, a bool, `Allow` or `Deny`. With `deliver=True` it is asked before deliveries, too."""
        mark = Mark("client.authorize", deliver=deliver)
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _FiltersVerdict:
    def __init__(self, point: str) -> None:
        self._point = point

    @overload
    def __call__(self, function: _Filters, /) -> _Filters: ...
    @overload
    def __call__(self, /) -> Callable[[_Filters], _Filters]: ...
    def __call__(self, function: Any = None, /) -> Any:
        """Return None, or a list with one item for each filter: None, another filter, `Rewrite` or `Refuse`."""
        mark = Mark(self._point)
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


class _PublishVerdict:
    @overload
    def __call__(self, function: _Publish, /) -> _Publish: ...
    @overload
    def __call__(self, /, *, topics: Sequence[str] = ...) -> Callable[[_Publish], _Publish]: ...
    @overload
    def __call__(
        self, /, *, topics: Sequence[str] = ..., notify: bool, batch: bool = ...
    ) -> Callable[[_Notify], _Notify]: ...
    def __call__(
        self, function: Any = None, /, *, topics: Sequence[str] = (), notify: bool = False, batch: bool = False
    ) -> Any:
        """Return None, `Modify`, `Drop`, `Reject` or `Disconnect`. With `notify=True` the message does not wait for the
        hook and what it returns does not count; with `batch=True`, which takes `notify`, it gets a list of events."""
        if batch and not notify:
            raise TypeError("on.message_publish: batch=True needs notify=True, since a batch cannot decide")
        mark = Mark("message.publish" if not notify else NOTIFY_PUBLISH, topics=_topics(topics), batch=batch)
        return _mark(function, mark) if function is not None else lambda each: _mark(each, mark)


#: The mark of a hook at message.publish that only wants to know.
NOTIFY_PUBLISH = "message.publish (told)"


def _topics(topics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(topics, str):
        raise TypeError(f"topics is a list of filters: topics=[{topics!r}]")
    return tuple(check(each) for each in topics)


class _On:
    """One decorator for each hook point."""

    client_connect = _ConnectVerdict()
    client_connack = _Notification("client.connack")
    client_connected = _Notification("client.connected")
    client_disconnected = _Notification("client.disconnected")
    client_authenticate = _AuthenticateVerdict()
    client_authorize = _AuthorizeVerdict()
    client_subscribe = _FiltersVerdict("client.subscribe")
    client_unsubscribe = _FiltersVerdict("client.unsubscribe")
    session_created = _Notification("session.created")
    session_resumed = _Notification("session.resumed")
    session_discarded = _Notification("session.discarded")
    session_takenover = _Notification("session.takenover")
    session_terminated = _Notification("session.terminated")
    session_subscribed = _Notification("session.subscribed")
    session_unsubscribed = _Notification("session.unsubscribed")
    message_publish = _PublishVerdict()
    message_delivered = _MessageNotification("message.delivered")
    message_acked = _MessageNotification("message.acked")
    message_dropped = _MessageNotification("message.dropped")
    message_retained = _MessageNotification("message.retained")
    packet_received = _Notification("packet.received")
    packet_sent = _Notification("packet.sent")
    broker_starting = _Notification("broker.starting")
    broker_started = _Notification("broker.started")
    broker_stopping = _Notification("broker.stopping")
    broker_stopped = _Notification("broker.stopped")


on = _On()
