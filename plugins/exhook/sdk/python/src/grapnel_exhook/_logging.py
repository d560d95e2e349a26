"""Sends records of the standard `logging` module to the broker's log. Set up by the worker; lines
may come from any thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from ._driver import LoadError

#: The worker's own logger. It is not from `logging.getLogger`, since user configurations disable
#: those.
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
        # A failing handler may log itself; that must not recurse.
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
    """The level of a configured name; info for None. Raises `LoadError`."""
    if name is None:
        return logging.INFO
    level = logging.getLevelName(str(name).upper().replace("WARN", "WARNING").replace("WARNINGING", "WARNING"))
    if not isinstance(level, int):
        raise LoadError(f"log_level {name} is none of error, warn, info, debug")
    return level


class Complaints:
    """Logs failures of hooks at a limited rate: the first of a hook with its traceback, then one
    line per second."""

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def failed(self, hook: str, text: str, error: BaseException | None = None) -> None:
        """Log a failure of `hook`."""
        now = self._clock()
        last, more = self._seen.get(hook, (0.0, 0))
        if hook in self._seen and now - last < 1.0:
            self._seen[hook] = (last, more + 1)
            return
        self._seen[hook] = (now, 0)
        suffix = f" ({more} more like it since the last line)" if more else ""
        # An error that was never raised has no traceback.
        trace = (type(error), error, error.__traceback__) if error is not None and error.__traceback__ else None
        self._logger.error("%s: %s%s", hook, text, suffix, exc_info=trace)
