"""The process of a worker: its socket from the broker, its standard streams, and signals, which are
for the broker.

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

# Signals that would end the process are for the broker: it decides when a worker ends.
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def choose_driver(setup: dict[str, Any]) -> Driver:
    """The driver that a setup names. For `python3` the content of the module decides."""
    from .drivers import choose

    return choose(setup)


def _not_ours(number: int, frame: object) -> None:
    """Ignores a signal: service managers and terminals send it to all processes of the broker's
    group."""


def main() -> int:
    """Run on the socket from the broker. Returns the exit code."""
    number = os.environ.pop("GRAPNEL_WORKER_FD", "")
    if not number.isdigit():
        print("grapnel_exhook is started by the broker's exhook plugin (GRAPNEL_WORKER_FD is not set)", file=sys.stderr)
        return 2
    # Hooks may print data of clients, which may be invalid text.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, write_through=False, errors="backslashreplace")  # type: ignore[union-attr]
    sock = socket.socket(fileno=int(number))
    os.set_inheritable(sock.fileno(), False)
    # Handlers that do nothing: an ignored signal would stay ignored in processes that user code
    # starts. The signals arrive blocked.
    for signal_number in _NOT_OURS:
        signal.signal(signal_number, _not_ours)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOT_OURS)
    worker = Worker(sock, choose_driver, own_process=True)
    held: dict[int, Any] = {}

    def hold() -> None:
        # Blocked until the child has its own handlers.
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
