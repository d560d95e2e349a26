"""The worker: reads frames, calls the driver's handlers, and sends the results.

`_process.py` runs it on the broker's socket; tests run it on their own. If the driver has no
coroutines, the main thread reads, calls and writes in turn without an event loop, so that hooks may
run one. Otherwise all calls run on one loop: they begin in order, and do not block each other.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from . import __version__, _commands
from ._channel import Channel, Closed, pack
from ._driver import FAILED, GO_ON, Batch, Driver, Handler, LoadError
from ._loading import last_line, tail
from ._logging import BrokerHandler, Complaints, level_of
from ._logging import own as logger
from ._sending import send_answers, send_commands
from ._stepping import Call, Stepper

PROTOCOL = 1

# Most time that answers wait for other calls of the same frame.
_HOLD_S = 0.02
# Default seconds for the shutdown, and the part of it (at most a quarter) reserved for the log.
_SHUTDOWN_S = 2.0
_SPARE_S = 0.5
# Most queued commands; more are sent before the end of the frame.
_COMMANDS_MAX = 4096


class Worker:
    """One worker on one socket. `run` returns the exit code."""

    def __init__(self, sock: socket.socket, choose: Callable[[dict[str, Any]], Driver], own_process: bool = False) -> None:
        self._own_process = own_process
        self._leaving = False
        self._forked = False
        self._channel = Channel(sock)
        self._choose = choose
        self._driver: Driver = Driver()
        self._table: dict[int, Handler] = {}
        self._names: dict[int, str] = {}
        self._complaints = Complaints(logger)
        self._answers: list[tuple[int, int, Any]] = []
        self._done = 0
        self._commands: list[list[Any]] = []
        self._main = threading.get_ident()
        self._stopping = False
        self._shutdown_s = _SHUTDOWN_S
        # Deadline of user code's shutdown. After the shutdown, commands are sent at once.
        self._until = 0.0
        self._over = False
        self._cut = "what had begun"
        self._announced = False
        # The broker accepts commands only after the ready frame; those of threads wait until then.
        self._announcing = threading.RLock()
        self._exit_code = 0
        self._stepper = self._stepper_of(self._driver)
        self._flush_due = False
        self._take_due = False
        self._stopped: asyncio.Event | None = None

    # Life

    def run(self) -> int:
        """Serve until the broker sends stop or is gone. Returns 1 if user code cannot be loaded."""
        try:
            setup = self._first_frame()
            self._channel.frame_bytes_max = int(setup.get("frame_bytes_max") or self._channel.frame_bytes_max)
            self._shutdown_s = int(setup.get("farewell_timeout_ms") or 0) / 1000 or _SHUTDOWN_S
            handler = self._log_here()
            try:
                return self._serve(setup)
            finally:
                # Threads and exit handlers can use the broker until the process has ended.
                if not self._own_process:
                    for log in (logging.getLogger(), logger):
                        log.removeHandler(handler)
                    _commands.detach(self._command)
        except Closed:
            return 0

    def _first_frame(self) -> dict[str, Any]:
        while True:
            for frame in self._channel.frames():
                if frame[0] != 0 or not isinstance(frame[1], dict):
                    raise LoadError("the first frame of the broker is not its setup")
                return frame[1]
            self._channel.fill(wait=True)

    def _log_here(self) -> logging.Handler:
        def send(level: int, text: str) -> None:
            if self._forked:
                print(text, file=sys.stderr, flush=True)
                return
            try:
                self._channel.send(pack([3, level, text[: max(64, self._channel.frame_bytes_max // 4 - 64)]]))
            except Closed:
                pass

        handler = BrokerHandler(send)
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        for log in (logging.getLogger(), logger):
            log.addHandler(handler)
            log.setLevel(logging.INFO)
        logging.captureWarnings(True)
        return handler

    def forked(self) -> None:
        """Called in a child that user code has forked: it has no broker. It prints its log lines,
        and ends when it returns to the worker."""
        self._forked = True
        self._channel.forget()
        _commands.detach(self._command)

    def _serve(self, setup: dict[str, Any]) -> int:
        try:
            if setup.get("protocol") != PROTOCOL:
                raise LoadError(
                    f"the broker speaks protocol {setup.get('protocol')}, grapnel-exhook {__version__} speaks {PROTOCOL}; "
                    "install the version that came with the broker"
                )
            for log in (logging.getLogger(), logger):
                log.setLevel(level_of((setup.get("config") or {}).get("log_level")))
            _commands.attach(self._command)
            self._driver = self._choose(setup)
            self._driver.complain = lambda name, error: self._complaints.failed(name, last_line(error), error)
            self._driver.load()
            self._stepper = self._stepper_of(self._driver)
        except BaseException as error:
            return self._cannot(error)
        if self._driver.asynchronous:
            code = asyncio.run(self._serve_on_loop(setup))
            self._send_at_once()
            return code
        try:
            self._driver.start()
            self._announce(setup)
        except BaseException as error:
            return self._cannot(error)
        try:
            while not self._stopping:
                for frame in self._channel.frames():
                    self._take(frame)
                    if self._stopping:
                        break
                else:
                    self._channel.fill(wait=True)
        except Closed:
            pass
        self._end()
        self._cut = "the hooks' farewell"
        try:
            self._driver.stop()
        except BaseException as error:
            logger.error("the shutdown failed", exc_info=error)
        self._send_at_once()
        return 0

    async def _serve_on_loop(self, setup: dict[str, Any]) -> int:
        loop = asyncio.get_running_loop()
        try:
            started = self._driver.start()
            if started is not None:
                await started
            self._announce(setup)
        except BaseException as error:
            return self._cannot(error)
        self._stopped = asyncio.Event()
        loop.add_reader(self._channel.socket, self._readable)
        self._channel.read_ahead = self._take_soon
        # Frames that came with the setup frame are already in the buffer.
        self._take_soon()
        await self._stopped.wait()
        loop.remove_reader(self._channel.socket)
        # The hooks' own shutdown gets at least half of the time.
        left = await self._stepper.finish((self._until - monotonic()) / 2)
        if left:
            logger.warning("%d calls had not ended when the worker did", left)
        self._cut = "the hooks' farewell"
        self._driver.farewell_s = max(self._until - monotonic(), 0.0)
        stopping: asyncio.Task[None] | None = None
        try:
            stopped = self._driver.stop()
            if stopped is not None:
                stopping = asyncio.ensure_future(stopped)
                await asyncio.wait_for(stopping, self._driver.farewell_s)
        except asyncio.TimeoutError as error:
            if stopping is not None and stopping.cancelled():
                logger.error("the hooks' shutdown was cut after %s s", self._shutdown_s)
            else:
                logger.error("the shutdown failed", exc_info=error)
        except BaseException as error:
            logger.error("the shutdown failed", exc_info=error)
        self.flush()
        return self._exit_code

    def _send_at_once(self) -> None:
        """Called after user code's shutdown: from now on commands are sent at once."""
        self._over = True
        self._cut = ""
        self.flush()

    def _cannot(self, error: BaseException) -> int:
        self._shutdown_s = min(self._shutdown_s, _SHUTDOWN_S)
        self._leave_at_last()
        text = tail(error)
        limit = max(256, self._channel.frame_bytes_max // 4 - 64)
        self._channel.send(pack([1, text[-limit:].encode("utf-8", "backslashreplace").decode("utf-8")]))
        return 1

    def _announce(self, setup: dict[str, Any]) -> None:
        points: Mapping[str, int] = setup["points"]
        hooks = self._driver.hooks()
        for hook in hooks:
            if hook["point"] not in points:
                raise LoadError(f"this broker has no hook point {hook['point']}; it has {', '.join(sorted(points))}")
        self._table = {points[point]: handler for point, handler in self._driver.handlers().items()}
        self._names = {points[point]: self._driver.name_of(point) for point in self._driver.handlers()}
        ready = {
            "protocol": PROTOCOL,
            "sdk": f"grapnel-exhook {__version__} (Python {sys.version.split()[0]})",
            "pid": os.getpid(),
            "hooks": hooks,
            "keeps": self._driver.keeps,
        }
        self._channel.send(pack([0, ready]))
        with self._announcing:
            self._announced = True
        self.flush()
        # Imported modules live as long as the worker, while frames create many short-lived lists.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)

    # Frames

    def _readable(self) -> None:
        try:
            self._channel.fill(wait=False)
            self._take_all()
        except Closed:
            self._end()

    def _take_soon(self) -> None:
        if not self._take_due and not self._stopping:
            self._take_due = True
            asyncio.get_running_loop().call_soon(self._take_all)

    def _take_all(self) -> None:
        self._take_due = False
        if self._stopping:
            return
        try:
            for frame in self._channel.frames():
                self._take(frame)
                if self._stopping:
                    self._end()
                    return
        except Closed:
            self._end()
        except Exception as error:
            # A fault of the worker, not of a hook. Calls would stay unanswered if it continued.
            logger.error("the worker has to end", exc_info=error)
            self._exit_code = 1
            self._end()

    def _end(self) -> None:
        if self._forked:
            os._exit(1)
        self._leave_at_last()
        self._stopping = True
        if self._stopped is not None:
            self._stopped.set()

    def _leave_at_last(self) -> None:
        """End the process at the deadline, even if user code or its threads still run."""
        if not self._until:
            spare = min(_SPARE_S, self._shutdown_s / 4)
            self._until = monotonic() + self._shutdown_s - spare
        if self._own_process and not self._leaving:
            self._leaving = True
            last = threading.Timer(self._until - monotonic() + min(_SPARE_S, self._shutdown_s / 4) / 2, self._leave)
            last.daemon = True
            last.start()

    def _leave(self) -> None:
        ours = threading.current_thread()
        threads = [each.name for each in threading.enumerate() if not each.daemon and each is not ours and each.ident != self._main]
        cut = self._cut or f"threads ({', '.join(threads)})"
        logger.error("%s did not come to an end within %s s and is cut", cut, self._shutdown_s)
        os._exit(1)

    def _take(self, frame: list[Any]) -> None:
        kind = frame[0]
        if kind == 1:
            self._calls(frame[1])
        elif kind == 2:
            self._stopping = True
        else:
            logger.warning("a frame of the broker begins with %r, which this version does not know", kind)

    def _calls(self, calls: list[Any]) -> None:
        table = self._table
        driver = self._driver
        answers = self._answers
        reported: Any = None
        until = monotonic() + _HOLD_S
        for ident, point, client, data in calls:
            if point < 0:
                if point == -1:
                    driver.describe(client, data)
                else:
                    driver.forget(client)
                self._done += 1
                continue
            try:
                answer = table[point](client, data)
            except BaseException as error:
                answer = self._failed(point, error)
                reported = answer[1]
            if answer is None:
                self._done += 1
                if ident:
                    answers.append((ident, GO_ON, None))
            elif answer.__class__ is tuple:
                self._done += 1
                if answer[0] == FAILED and answer[1] is not reported:
                    self._complaints.failed(self._name(point), answer[1])
                if ident:
                    answers.append((ident, *answer))
            elif answer.__class__ is list:
                # Several coroutines for one notification: the call is done when the first one is.
                for index, each in enumerate(answer):
                    self._stepper.add(Call(ident, point, client, each, calls=0 if index else 1))
                self._done += not answer
            else:
                self._stepper.add(Call(ident, point, client, answer))  # type: ignore[arg-type]
            if monotonic() > until:
                self.flush()
                until = monotonic() + _HOLD_S
        self._batches()
        if not self._stepper.is_stepping:
            self.flush()

    def _batches(self) -> None:
        for batch in self._driver.frame_end():
            self._batch(batch)

    def _batch(self, batch: Batch) -> None:
        try:
            answer = batch.run()
        except BaseException as error:
            self._complaints.failed(batch.name, last_line(error), error)
            return
        if answer is not None:
            self._stepper.add(Call(0, batch.name, 0, answer, calls=0))

    def _name(self, point: int | str) -> str:
        return point if isinstance(point, str) else self._names.get(point, str(point))

    def _failed(self, point: int | str, error: BaseException) -> tuple[int, str]:
        name = self._name(point)
        text = last_line(error)
        self._complaints.failed(name, text, error)
        return (FAILED, f"{name}: {text}"[:2000].encode("utf-8", "backslashreplace").decode("utf-8"))

    # Coroutines

    def _stepper_of(self, driver: Driver) -> Stepper:
        return Stepper(
            in_order=driver.in_order,
            hold_s=_HOLD_S,
            done=self._count,
            finished=self._finished,
            failed=self._failed_later,
            pause=self._flush_now,
            soon=self._flush_soon,
        )

    def _count(self, calls: int) -> None:
        self._done += calls

    def _finished(self, call: Call, answer: Any) -> None:
        if not call.ident:
            # The return value of a notification is ignored.
            return
        if answer is None:
            self._answers.append((call.ident, GO_ON, None))
            return
        if answer[0] == FAILED:
            self._complaints.failed(self._name(call.point), answer[1])
        self._answers.append((call.ident, *answer))

    def _failed_later(self, call: Call, error: BaseException) -> None:
        answer = self._failed(call.point, error)
        if call.ident:
            self._answers.append((call.ident, *answer))

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        # Coroutines may have added events for batch hooks after the end of their frame.
        self._batches()
        try:
            self.flush()
        except Closed:
            self._end()

    # What goes out

    def _command(self, command: list[Any]) -> None:
        """Queue a command, from any thread. Raises `ValueError` for one that cannot be sent."""
        size = len(pack(command))
        if size + 16 > self._channel.frame_bytes_max:
            raise ValueError(
                f"a {command[0]} command of {size} bytes is longer than the broker takes ({self._channel.frame_bytes_max})"
            )
        if threading.get_ident() != self._main:
            with self._announcing:
                if not self._announced:
                    self._commands.append(command)
                    return
            self._channel.send(pack([4, [command]]))
            return
        self._commands.append(command)
        if self._over:
            self.flush()
            return
        if not self._announced:
            return
        if len(self._commands) >= _COMMANDS_MAX:
            self._send_commands()
        elif self._stopped is not None:
            # A timer of user code may send a command on the loop when no flush is scheduled.
            self._flush_soon()

    def _send_commands(self) -> None:
        commands, self._commands = self._commands, []
        send_commands(self._channel, commands)

    def flush(self) -> None:
        """Send what is queued: commands first, then answers."""
        try:
            self._driver.settle()
        except Exception as error:
            logger.error("what the broker is to keep cannot be given to it", exc_info=error)
        if self._commands:
            self._send_commands()
        if not self._done and not self._answers:
            return
        answers, done = self._answers[:], self._done
        self._answers.clear()
        self._done = 0
        send_answers(self._channel, answers, done, lambda text: self._complaints.failed("answer", text))
