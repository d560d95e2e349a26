"""The destination of commands for the broker: the worker of this process, or a test. `broker`
creates commands; this module does not depend on the socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_sinks: list[Callable[[list[Any]], None]] = []


def attach(sink: Callable[[list[Any]], None]) -> None:
    """Send commands to `sink` from now on."""
    _sinks.append(sink)


def detach(sink: Callable[[list[Any]], None]) -> None:
    """Stop that; commands go to the earlier destination again."""
    _sinks[:] = [each for each in _sinks if each != sink]


def give(command: list[Any]) -> None:
    """Send a command. Raises `RuntimeError` without a broker."""
    if not _sinks:
        raise RuntimeError(
            "no broker to ask: this runs neither in a worker nor in grapnel_exhook.testing, or in a child that a worker forked"
        )
    _sinks[-1](command)
