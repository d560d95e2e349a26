"""The standard `logging` module into the broker's log. Set up by the worker; lines may come from any thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ._driver import LoadError

#: What the worker says itself. None of `logging.getLogger`, since configurations of user code switch those off.
own = logging.Logger("grapnel_exhook")

_LINE_CHARS_MAX = 32 * 1024
_LEVELS = ((logging.ERROR, 1), (logging.WARNING, 2), (logging.INFO, 3))


class BrokerHandler(logging.Handler):
    """Sends each record as a line with its level."""

    def __init__(self, send: Callable[[int, str], None]) -> None:
        super().__init__()
        self._send = send
        self._busy = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        # A handler that fails may log itself; that must not go round.
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            text = self.format(record)
            if len(text) > _LINE_CHARS_MAX:
                text = text[:_LINE_CHARS_MAX] + "…"
            text = text.encode("utf-8", "backslashreplace").decode("utf-8")
            number = next((number for least, number in _LEVELS if record.levelno >= least), 4)
            self._send(number, text)
        except Exception:
            self.handleError(record)
        finally:
            self._busy.now = False


def level_of(name: object) -> int:
    """The level of a name of the configuration; info for none. Raises `LoadError`."""
    if name is None:
        return logging.INFO
    level = logging.getLevelName(str(name).upper().replace("WARN", "WARNING").replace("WARNINGING", "WARNING"))
    if not isinstance(level, int):
        raise LoadError(f"log_level {name} is none of error, warn, info, debug")
    return level


class Complaints:
    """Logs failures of hooks without a flood: the first of a hook with its traceback, then one line in a second."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def failed(self, hook: str, text: str, error: BaseException | None = None) -> None:
        """Tell of a failure of `hook`."""
        now = self._clock()
        last, more = self._seen.get(hook, (0.0, 0))
        if hook in self._seen and now - last < 1.0:
            self._seen[hook] = (last, more + 1)
            return
        self._seen[hook] = (now, 0)
        suffix = f" ({more} more like it since the last line)" if more else ""
        # One that was only made to be told of has no traceback.
        trace = (type(error), error, error.__traceback__) if error is not None and error.__traceback__ else None
        self._logger.error("%s: %s%s", hook, text, suffix, exc_info=trace)
