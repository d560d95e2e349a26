"""The process of a worker: the socket that the broker left it, its standard streams, and signals, which are for the broker.

`__main__` runs it; what a worker does with the socket is in `_worker.py`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from typing import Any

from ._driver import Driver
from ._worker import Worker

# What ends a program elsewhere is for the broker: it says when a worker ends, and what the others mean.
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def choose_driver(setup: dict[str, Any]) -> Driver:
    """The driver that a setup names. `python3` decides by what the module has."""
    from .drivers import choose

    return choose(setup)


def _not_ours(number: int, frame: object) -> None:
    """A service manager tells all of a service to end, a terminal all of its group."""


def main() -> int:
    """Run on the socket that the broker left us."""
    number = os.environ.pop("GRAPNEL_WORKER_FD", "")
    if not number.isdigit():
        print("grapnel_exhook is started by the broker's exhook plugin (GRAPNEL_WORKER_FD is not set)", file=sys.stderr)
        return 2
    # Hooks print what clients send, and that may be no text.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # type: ignore[union-attr]
    sock = socket.socket(fileno=int(number))
    os.set_inheritable(sock.fileno(), False)
    # With a handler that does nothing: what user code starts would inherit that they are ignored. They come held back.
    for signal_number in _NOT_OURS:
        signal.signal(signal_number, _not_ours)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_OURS)
    worker = Worker(sock, choose_driver, own_process=True)
    held: dict[int, Any] = {}

    def hold() -> None:
        # What is for a child must not find our handlers in it.
        held[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _NOT_OURS)

    def release() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, held.pop(threading.get_ident()))

    def forked() -> None:
        worker.forked()
        for number in _NOT_OURS:
            if signal.getsignal(number) is _not_ours:
                signal.signal(number, signal.SIG_DFL)
        release()

    os.register_at_fork(before=hold, after_in_parent=release, after_in_child=forked)
    return worker.run()
