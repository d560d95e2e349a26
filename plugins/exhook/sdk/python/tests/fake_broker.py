"""A broker in Python for the tests: speaks PROTOCOL.md on its end of a socketpair, judges each frame of the worker.

It starts the worker as a process of its own, as the broker does. Nothing of it is shared with the package.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import IO, Any

import msgpack

# Begin: the hook points, from plugin-abi/src/point.rs; `just abi` writes it anew
POINTS = {
    "client.connect": 0,
    "client.authenticate": 1,
    "client.authorize": 2,
    "client.connack": 3,
    "client.connected": 4,
    "client.disconnected": 5,
    "client.subscribe": 6,
    "client.unsubscribe": 7,
    "session.created": 8,
    "session.resumed": 9,
    "session.discarded": 10,
    "session.takenover": 11,
    "session.terminated": 12,
    "session.subscribed": 13,
    "session.unsubscribed": 14,
    "message.publish": 15,
    "message.delivered": 16,
    "message.acked": 17,
    "message.dropped": 18,
    "message.retained": 19,
    "packet.received": 20,
    "packet.sent": 21,
    "broker.starting": 22,
    "broker.started": 23,
    "broker.stopping": 24,
    "broker.stopped": 25,
}
ANSWERING = {
    "client.connect",
    "client.authenticate",
    "client.authorize",
    "client.subscribe",
    "client.unsubscribe",
    "message.publish",
}
# The data of a call, by the names of PROTOCOL.md.
DATA = {
    "client.connect": "[]",
    "client.authenticate": "[verdict, method, auth_data, session]",
    "client.authorize": "[action, topic, qos, retain, verdict]",
    "client.connack": "[reason, session_present]",
    "client.connected": "[]",
    "client.disconnected": "[reason, name]",
    "client.subscribe": "[[[filter, options], …], subscription_id, properties]",
    "client.unsubscribe": "[[filter, …], properties]",
    "session.created": "[persistent, expiry_s, cause, reason]",
    "session.resumed": "[persistent, expiry_s, cause, reason]",
    "session.discarded": "[persistent, expiry_s, cause, reason]",
    "session.takenover": "[persistent, expiry_s, cause, reason]",
    "session.terminated": "[persistent, expiry_s, cause, reason]",
    "session.subscribed": "[filter, options, is_new, subscription_id, cause]",
    "session.unsubscribed": "[filter, cause]",
    "message.publish": "message",
    "message.delivered": "message",
    "message.acked": "message",
    "message.dropped": "[message, by, cause]",
    "message.retained": "[message, change]",
    "packet.received": "[type, bytes]",
    "packet.sent": "[type, bytes]",
    "broker.starting": "[version, uptime_ms]",
    "broker.started": "[version, uptime_ms]",
    "broker.stopping": "[version, uptime_ms]",
    "broker.stopped": "[version, uptime_ms]",
}
# End: the hook points
SOURCES = Path(__file__).resolve().parent.parent / "src"
WAIT_S = 20.0


def message(topic: str = "a/b", payload: bytes = b"hi", **more: Any) -> list[Any]:
    """A message in the form of the protocol."""
    return [
        more.get("id", b"\x01\xab"), topic, payload, more.get("qos", 1), more.get("retain", False), more.get("dup", False),
        more.get("publisher", "pub"), more.get("timestamp_ms", 1_700_000_000_123), more.get("properties", {}),
    ]  # fmt: skip


def client(client_id: str = "c1", **more: Any) -> dict[str, Any]:
    """A client in the form of the protocol."""
    known = {
        "client_id": client_id, "username": "ann", "password": b"secret", "peer_host": "10.0.0.7", "peer_port": 50123,
        "local_port": 1883, "listener": "default", "version": 5, "clean_start": True, "keep_alive_s": 60,
        "session_expiry_s": 30, "receive_maximum": 100, "connected_at_ms": 1_700_000_000_000, "superuser": False,
        "anonymous": False, "will": None, "properties": [],
    }  # fmt: skip
    known.update(more)
    return known


class Refused(Exception):
    """The worker reported that it cannot run."""


class FakeBroker:
    """One worker and the broker's end of its socket."""

    def __init__(self, tmp_path: Path, **setup: Any) -> None:
        self.frame_bytes_max = setup.get("frame_bytes_max", 1 << 20)
        self.setup = {
            "protocol": 1, "driver": "python3", "path": [], "init_module": "hooks", "config": {}, "worker": "exhook/0",
            "index": 0, "pool_size": 1, "frame_bytes_max": self.frame_bytes_max, "call_timeout_ms": 5000,
            "node": "grapnel@test", "version": "0.1.0", "points": POINTS, **setup,
        }  # fmt: skip
        ours, theirs = socket.socketpair()
        # A worker that does not read must fail the test, not block it.
        ours.settimeout(WAIT_S)
        self.socket = ours
        self.output = tmp_path / "output.txt"
        with self.output.open("wb") as output:
            self.process = self.start_process(theirs, output, tmp_path)
        theirs.close()
        self._buffer = bytearray()
        self._next_id = 0
        self.log: list[tuple[int, str]] = []
        self.commands: list[list[Any]] = []
        # Stored login data, and for each entry whether its login was pending.
        self.kept: list[list[Any]] = []
        self.coming: list[bool] = []
        # The data to use if a new session begins.
        self.anew: list[bytes | None] = []
        self.answers: dict[int, tuple[int, Any]] = {}
        self.done = 0
        self.requested = 0
        self.frames_of_answers = 0
        self.hooks: dict[str, dict[str, Any]] = {}
        self.ready: dict[str, Any] = {}

    def start_process(self, theirs: socket.socket, output: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
        """Start the worker on its end of the socket."""
        environment = dict(os.environ, GRAPNEL_WORKER_FD=str(theirs.fileno()), PYTHONUNBUFFERED="")
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCES), environment.get("PYTHONPATH", "")]))
        return subprocess.Popen(
            [sys.executable, "-m", "grapnel_exhook"],
            pass_fds=(theirs.fileno(),), env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, cwd=cwd,
        )  # fmt: skip

    def __enter__(self) -> FakeBroker:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        try:
            self.process.wait(6)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def start(self) -> FakeBroker:
        """Send the setup and wait for ready. Raises `Refused`."""
        self.send([0, self.setup])
        self.until(lambda: bool(self.ready))
        return self

    def send(self, frame: Any) -> None:
        """Write a frame."""
        body = msgpack.packb(frame, unicode_errors="surrogateescape")
        self.socket.sendall(len(body).to_bytes(4, "little") + body)

    def until(self, true: Any, wait_s: float = WAIT_S) -> None:
        """Read frames until a condition holds."""
        end = time.monotonic() + wait_s
        while not true():
            self._frames()
            if true():
                return
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise AssertionError(f"waited {wait_s} s in vain; log {self.log[-5:]}; output {self.printed()[-2000:]}")
            data = self.socket.recv(1 << 18)
            if not data:
                self._frames()
                if true():
                    return
                raise AssertionError(f"the worker closed its socket; output {self.printed()[-2000:]}")
            self._buffer += data

    def _frames(self) -> None:
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "little")
            assert length <= self.frame_bytes_max, f"a frame of {length} bytes"
            if len(self._buffer) < 4 + length:
                return
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            self._judge(msgpack.unpackb(body))

    def _judge(self, frame: list[Any]) -> None:
        kind = frame[0]
        if kind == 0:
            (self.ready,) = frame[1:]
            assert self.ready["protocol"] == 1 and self.ready["pid"] == self.process.pid
            for hook in self.ready["hooks"]:
                assert set(hook) <= {"point", "topics", "answers", "deliver"}, hook
                assert hook["point"] in POINTS and hook["point"] not in self.hooks
                assert not hook["answers"] or hook["point"] in ANSWERING
                self.hooks[hook["point"]] = hook
        elif kind == 1:
            raise Refused(frame[1])
        elif kind == 2:
            _, answers, done = frame
            self.frames_of_answers += 1
            for ident, code, value in answers:
                assert ident and ident not in self.answers, f"answer {ident} twice"
                assert code in (0, 1, 2) and (isinstance(value, str) if code == 2 else value is None or isinstance(value, dict))
                self.answers[ident] = (code, value)
            self.done += done
            assert self.done <= self.requested
        elif kind == 3:
            assert frame[1] in (1, 2, 3, 4) and isinstance(frame[2], str)
            self.log.append((frame[1], frame[2]))
        elif kind == 4:
            # Login data is collected separately.
            self.commands += [command for command in frame[1] if command[0] != "keep"]
            for command in frame[1]:
                if command[0] == "keep":
                    assert self.ready["keeps"] and command[6:7] in ([], [True]) and len(command) <= 8, command
                    self.kept.append(command[:6])
                    self.coming.append(bool(command[6:]))
                    self.anew.append(command[7] if command[7:] else None)
        else:
            raise AssertionError(f"frame {frame!r}")

    def calls(self, calls: list[list[Any]]) -> None:
        """Send a frame of calls."""
        self.requested += len(calls)
        self.send([1, calls])

    def until_read(self) -> None:
        """Wait, without reading, until the worker has read everything from the socket."""
        self._until_bytes(termios.TIOCOUTQ, lambda left: left == 0)

    def until_waits_for_room(self) -> None:
        """Wait, without reading, until the worker writes a frame that is too large for the socket's
        buffer."""
        self._until_bytes(termios.FIONREAD, lambda there: there > 64 * 1024)

    def _until_bytes(self, request: int, true: Any) -> None:
        end = time.monotonic() + WAIT_S
        count = bytearray(4)
        while not true(fcntl.ioctl(self.socket, request, count, True) or int.from_bytes(count, sys.byteorder)):
            assert time.monotonic() < end, f"waited in vain, with {int.from_bytes(count, sys.byteorder)} bytes there"
            time.sleep(0.001)

    def describe(self, number: int = 1, **about: Any) -> None:
        """Describe a client."""
        self.calls([[0, -1, number, client(**about)]])

    def request(self, point: str, client: int, data: Any) -> tuple[int, Any]:
        """Send a request and wait for the answer."""
        ident = self.begin(point, client, data)
        self.until(lambda: ident in self.answers)
        return self.answers[ident]

    def begin(self, point: str, client: int, data: Any) -> int:
        """Send a request."""
        self._next_id += 1
        self.calls([[self._next_id, POINTS[point], client, data]])
        return self._next_id

    def notify(self, point: str, client: int, data: Any) -> None:
        """Notify and wait until it is done."""
        self.calls([[0, POINTS[point], client, data]])
        self.until(lambda: self.done == self.requested)

    def notify_only(self, point: str, topic: str) -> None:
        """Notify of a message without waiting."""
        self.calls([[0, POINTS[point], 0, message(topic)]])

    def stop(self, wait_s: float = 6.0) -> int:
        """Send the stop frame; returns the exit code."""
        self.send([2])
        end = time.monotonic() + wait_s
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.socket], [], [], 0.05)[0]:
                data = self.socket.recv(1 << 18)
                if not data:
                    break
                self._buffer += data
                self._frames()
        code = self.process.wait(max(0.1, end - time.monotonic()))
        while select.select([self.socket], [], [], 0)[0] and (data := self.socket.recv(1 << 18)):
            self._buffer += data
        self._frames()
        return code

    def printed(self) -> str:
        """What the worker wrote to its standard streams."""
        return self.output.read_text(errors="replace")

    def until_printed(self, text: str, wait_s: float = WAIT_S) -> None:
        """Wait until the worker has written something to its standard streams."""
        end = time.monotonic() + wait_s
        while text not in self.printed():
            assert time.monotonic() < end, f"{text!r} is not in {self.printed()!r}"
            time.sleep(0.005)

    def lines(self) -> str:
        """The log, one line after the other."""
        return "\n".join(text for _, text in self.log)


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100
