"""Where commands for the broker go: to the worker of this process, or to a test. `broker` fills them in; it knows no socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_sinks: list[Callable[[list[Any]], None]] = []


def attach(sink: Callable[[list[Any]], None]) -> None:
    """From now on commands go to `sink`."""
    _sinks.append(sink)


def detach(sink: Callable[[list[Any]], None]) -> None:
    """No longer; those go to who was attached before."""
    _sinks[:] = [each for each in _sinks if each != sink]


def give(command: list[Any]) -> None:
    """Hand a command over. Raises `RuntimeError` where there is no broker."""
    if not _sinks:
        raise RuntimeError(
            "no broker to ask: this runs neither in a worker nor in grapnel_exhook.testing, or in a child that a worker forked"
        )
    _sinks[-1](command)
