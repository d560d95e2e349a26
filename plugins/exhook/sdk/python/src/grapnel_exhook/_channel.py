"""Frames on the socket between the broker and this worker.

The worker reads and writes through it, and so does every thread that logs or sends a command. It
handles frames, not their content, and must not call user code.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

_READ_BYTES = 256 * 1024
# Most bytes that are read while a write waits for room. It is enough for the largest frame and a
# few more. Reading prevents a deadlock when both sides write.
_AHEAD_BYTES_MAX = 256 * 1024 * 1024


class Closed(RuntimeError):
    """The broker has closed its end. User code that sends commands gets it as the `RuntimeError`
    that `broker` documents."""

    def __init__(self) -> None:
        super().__init__("the broker is gone")


def pack(frame: Any) -> bytes:
    """Encode a frame, with its length in front. Raises `TypeError` or `ValueError` for values that
    MessagePack cannot encode."""
    body: bytes = msgpack.packb(frame, use_bin_type=True)
    return len(body).to_bytes(4, "little") + body


class Channel:
    """One end of the socket. Reading is for the main thread alone; `send` may be called from any thread."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.socket = sock
        self.frame_bytes_max = 16 * 1024 * 1024
        #: Called in the reading thread after a waiting write has read data: `frames` may have more.
        self.read_ahead: Callable[[], None] = lambda: None
        self._buffer = bytearray()
        # Signal handlers and finalisers may log, even in the middle of a write of the same thread.
        self._lock = threading.RLock()
        self._outgoing: deque[bytes] = deque()
        self._writing = False
        self._reader = threading.get_ident()

    def fill(self, wait: bool) -> bool:
        """Read once; wait for something to read if `wait`. Returns whether anything came. Raises `Closed`."""
        while True:
            try:
                data = self.socket.recv(_READ_BYTES)
            except BlockingIOError:
                if not wait:
                    return False
                self._poll(select.POLLIN)
                continue
            except OSError as error:
                raise Closed() from error
            if not data:
                raise Closed()
            self._buffer += data
            return True

    def frames(self) -> Iterator[list[Any]]:
        """The complete frames, in order."""
        start = 0
        buffer = self._buffer
        try:
            while len(buffer) - start >= 4:
                end = start + 4 + int.from_bytes(buffer[start : start + 4], "little")
                if len(buffer) < end:
                    break
                body = bytes(memoryview(buffer)[start + 4 : end])
                start = end
                yield msgpack.unpackb(body, raw=False, strict_map_key=False, unicode_errors="surrogateescape")
        finally:
            # In place: `fill` may have added data while a frame was processed.
            if start:
                del buffer[:start]

    def send(self, data: bytes) -> None:
        """Write whole frames. Waits while the broker does not read. Raises `Closed`."""
        with self._lock:
            self._outgoing.append(data)
            # Data of this thread's interrupted write goes first. Checked again, since more may be
            # added meanwhile.
            while self._outgoing and not self._writing:
                self._writing = True
                try:
                    while self._outgoing:
                        self._write(self._outgoing.popleft())
                finally:
                    self._writing = False

    def forget(self) -> None:
        """For a child process that user code has forked: the socket and unfinished writes belong to
        the parent."""
        self._lock = threading.RLock()
        self._outgoing.clear()
        self._writing = False
        self.socket.close()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except BlockingIOError:
                self._make_room()
            except OSError as error:
                raise Closed() from error

    def _make_room(self) -> None:
        """Wait until the socket takes more. The reading thread reads meanwhile."""
        reads = threading.get_ident() == self._reader and len(self._buffer) < _AHEAD_BYTES_MAX
        if self._poll(select.POLLOUT | (select.POLLIN if reads else 0)) & select.POLLIN and reads and self.fill(wait=False):
            self.read_ahead()

    def _poll(self, events: int) -> int:
        poll = select.poll()
        poll.register(self.socket, events)
        ready = poll.poll()
        return ready[0][1] if ready else 0
