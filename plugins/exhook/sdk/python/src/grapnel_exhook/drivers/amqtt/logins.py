"""What plugins of aMQTT have learned at a login. The broker stores it for a later worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ... import _commands

logger = logging.getLogger("grapnel_exhook.amqtt")

# Most names that are logged once; a plugin may use any number.
_SAID_MAX = 100


def are_wanted(manager: Any, mirror: bool) -> bool:
    """Whether plugins may use login data later: aMQTT's own do not."""
    events = any(callbacks for callbacks in manager._event_plugin_callbacks.values())
    own = any(not type(plugin).__module__.startswith("amqtt.plugins.") for plugin in manager.plugins)
    # Authentication plugins see the data of the session that a client wants to resume.
    shown = bool(manager.authenticators) and mirror
    return own and (events or shown or bool(manager.filters))


class Logins:
    """The login data of sessions. `broker` is the stand-in; `complain` logs a failure."""

    def __init__(self, broker: Any, complain: Callable[[str, BaseException], None]) -> None:
        self._broker = broker
        self._complain = complain
        self._said: set[str] = set()
        # Sessions whose clients have connected, and those whose attributes plugins have accessed.
        self._entered: dict[int, tuple[int, Any]] = {}
        self._touched: dict[int, tuple[int, Any]] = {}

    def settle(self) -> None:
        """Send what has changed. A later worker must have the login data that the following answers
        depend on."""
        if not self._entered and not self._touched:
            return
        touched = {**self._touched, **self._entered}
        self._touched, self._entered = {}, {}
        for number, session in touched.values():
            if not session.knows_login or not self._broker.has(session):
                # Nothing is stored before a client is in, nor data that this worker does not have.
                continue
            kept = session.stored_state(self._not_kept)
            if kept != session.kept:
                session.kept = kept
                self.give(number, session, kept)

    def keep_coming(self, number: int, session: Any) -> None:
        """Send login data before the answer: another worker may see the client connect."""
        if not session.knows_login or self._broker.has(session):
            return
        kept = session.stored_state(self._not_kept)
        # It is known only later whether the session is resumed.
        anew = session.stored_state(self._not_kept, anew=True) if session.is_shown else None
        if kept != session.kept or anew != session.kept_anew:
            session.kept, session.kept_anew = kept, anew
            self.give(number, session, kept, [True] if anew is None else [True, anew])

    def _not_kept(self, name: str, error: BaseException) -> None:
        """Log this once for each name."""
        if name not in self._said:
            if len(self._said) < _SAID_MAX:
                self._said.add(name)
            logger.warning("%s is not known to a worker after this one: %s", name, error)

    def give(self, number: int, session: Any, kept: bytes | None, coming: Sequence[Any] = ()) -> None:
        """`coming`: whether the login is pending, and the data for a new session."""
        whose = ["keep", number, session.client_id, session.remote_address, session.remote_port]
        more = [*coming]
        try:
            _commands.give([*whose, kept, *more])
        except ValueError as error:
            # Longer than a frame. The data stored before is outdated.
            self._not_kept("what a login gave", error)
            # Without the alternative data, which may be the part that is too long.
            _commands.give([*whose, None, *more[:1]])

    def enter(self, number: int, session: Any) -> None:
        """Its client has connected."""
        if session.knows_login:
            self._entered[id(session)] = (number, session)

    def touch(self, number: int, session: Any) -> None:
        """Plugins have accessed its attributes."""
        self._touched[id(session)] = (number, session)

    def recall(self, known: Any) -> None:
        """Load stored data of a login that this worker has not seen."""
        if known.came_in:
            return
        try:
            if known.raw.get("login") is not None:
                known.thing.remember(known.raw["login"])
                return
        except Exception as error:
            self._complain("what a login gave cannot be read; the worker before this one has kept it", error)
        known.thing.forget_login()

    def come_late(self, number: int, known: Any) -> None:
        """Login data of the earlier worker came late. It is used unless changed here meanwhile."""
        session, login = known.thing, known.raw["login"]
        if not session.knows_login:
            self.recall(known)
        elif login != session.kept:
            if session.stored_state(self._not_kept) == session.reported:
                session.remember(login)
            else:
                session.kept = login
                self.touch(number, session)

    def stored(self, raw: dict[str, Any], kept: bytes) -> Any:
        """The session of a described client, from stored data of a worker before this one."""
        from .sessions import Session

        before = Session()
        before.client_id, before.session_number = raw["client_id"], raw.get("session")
        before.become("disconnected")
        try:
            before.remember(kept)
        except Exception as error:
            self._complain("what a login gave cannot be read; the worker before this one has kept it", error)
            before.forget_login()
        self._broker.keep(before)
        return before
