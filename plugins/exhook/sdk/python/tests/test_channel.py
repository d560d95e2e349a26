"""The channel alone: what other threads, signal handlers and finalisers send while a frame is being written."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from fake_broker import SOURCES

from grapnel_exhook._channel import Channel, pack

# A signal handler runs in the middle of `send`, like a finaliser that the garbage collector calls
# there.
IN_THE_MIDDLE = """
import signal, socket, threading
from grapnel_exhook._channel import Channel, pack
ours, theirs = socket.socketpair()
channel = Channel(ours)
begun = threading.Event()
frame = pack([2, "x" * 4_000_000])
def handle(*_):
    begun.set()
    channel.send(pack([3, 1, "in the middle"]))
received = bytearray()
def read():
    begun.wait()
    while len(received) < len(frame) + len(pack([3, 1, "in the middle"])):
        received.extend(theirs.recv(1 << 20))
reader = threading.Thread(target=read, daemon=True)
reader.start()
signal.signal(signal.SIGALRM, handle)
signal.setitimer(signal.ITIMER_REAL, 0.05)
channel.send(frame)
reader.join(10)
assert bytes(received) == frame + pack([3, 1, "in the middle"])
"""


def test_what_is_sent_in_the_middle_of_a_frame_by_the_same_thread_comes_after_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_MIDDLE], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr


def test_a_broker_that_is_gone_is_a_runtime_error_for_who_gives_commands() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(RuntimeError, match="the broker is gone"):
        Channel(ours).send(pack([4, []]))
