"""Logins, history, access rules and messages in PostgreSQL, with grapnel_exhook and coroutines.
`options.dsn` names the database, `options.timeout_s` is its time limit, below `call_timeout`.

No query blocks another client. While the database is away, logins fail (`failed_action`),
connected clients continue with the stored rules, and history and messages wait here until it is
back.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from time import monotonic
from typing import Any, TypeVar

import psycopg
from grapnel_exhook import (
    Action,
    Allow,
    AuthenticateEvent,
    AuthorizeEvent,
    Client,
    Config,
    ConnectedEvent,
    Deny,
    DisconnectedEvent,
    Hooks,
    MessageEvent,
    on,
)
from passwords import fits
from rules import allows

log = logging.getLogger("database")

BAD_USER_NAME_OR_PASSWORD = 0x86
ROWS_MAX = 1000
HISTORY_MAX = 100_000
RETRY_S = (0.05, 1.0)
AWAY = (OSError, asyncio.TimeoutError, psycopg.OperationalError)

HISTORY = (
    "INSERT INTO history (at, client, username, event, reason) VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)
MESSAGES = (
    "INSERT INTO messages (at, message, client, topic, qos, payload) "
    "VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
)

Result = TypeVar("Result")
Rules = list[tuple[str, str, bool]]


class Database:
    """Some connections: made when they are needed, closed when the database does not answer in
    time.
    """

    def __init__(self, dsn: str, connections: int, timeout_s: float) -> None:
        self._dsn = dsn
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(connections)
        self._idle: list[psycopg.AsyncConnection[Any]] = []

    async def run(self, work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[Result]]) -> Result:
        """Do some work on a connection; one of `AWAY` if the database is late or lost."""
        await asyncio.wait_for(self._room.acquire(), self._timeout_s)
        try:
            until = monotonic() + self._timeout_s
            while self._idle:
                kept = self._idle.pop()
                try:
                    return await self._use(kept, work)
                except psycopg.OperationalError:
                    # It may have been lost long before, if the database was restarted since.
                    if not kept.broken or monotonic() >= until:
                        raise
            connect = psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
            return await self._use(await asyncio.wait_for(connect, self._timeout_s), work)
        finally:
            self._room.release()

    async def _use(
        self,
        connection: psycopg.AsyncConnection[Any],
        work: Callable[[psycopg.AsyncConnection[Any]], Awaitable[Result]],
    ) -> Result:
        # Not cancelled: psycopg would ask the database to cancel the query, and would wait for that
        # for as long.
        late = asyncio.get_running_loop().call_later(self._timeout_s, _cut, connection)
        try:
            return await work(connection)
        finally:
            late.cancel()
            if connection.broken or connection.closed:
                await connection.close()
            else:
                self._idle.append(connection)

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def said(error: BaseException) -> str:
    """Its first line."""
    return str(error).partition("\n")[0] or type(error).__name__


class Store(Hooks):
    async def setup(self, config: Config) -> None:
        self.database = Database(
            config["dsn"], connections=config.get("connections", 8), timeout_s=config.get("timeout_s", 2.0)
        )
        self.rules_s: float = config.get("rules_s", 60.0)
        self.history: deque[tuple[Any, ...]] = deque()
        self.history_came = asyncio.Event()
        self.historian = asyncio.create_task(self.write_history())

    async def close(self) -> None:
        self.historian.cancel()
        if self.history:
            log.warning("%d rows of the history were not written", len(self.history))
        await self.database.close()

    # Logins

    @on.client_authenticate
    async def authenticate(self, event: AuthenticateEvent) -> Allow | Deny:
        username, password = event.client.username, event.client.password
        if username is None or password is None:
            return Deny(BAD_USER_NAME_OR_PASSWORD)
        rows = await self.read("SELECT password, superuser FROM users WHERE username = %s", username)
        stored, superuser = rows[0] if rows else (None, False)
        if not await asyncio.to_thread(fits, password, stored):
            return Deny(BAD_USER_NAME_OR_PASSWORD)
        return Allow(superuser=superuser)

    # Access rules

    @on.client_authorize
    async def authorize(self, event: AuthorizeEvent) -> bool:
        action = "subscribe" if event.action is Action.SUBSCRIBE else "publish"
        return allows(await self.rules_of(event.client), action, event.topic)

    async def rules_of(self, client: Client) -> Rules:
        since, rules = client.attributes.get("rules", (0.0, None))
        if rules is not None and monotonic() - since < self.rules_s:
            return rules  # type: ignore[no-any-return]
        statement = "SELECT action, topic, allow FROM acl WHERE username = %s ORDER BY id"
        try:
            rules = await self.read(statement, client.username or "")
        except AWAY:
            if rules is None:
                raise
            # The previous rules are better than none.
        client.attributes["rules"] = (monotonic(), rules)
        return rules  # type: ignore[no-any-return]

    async def read(self, statement: str, username: str) -> list[Any]:
        async def work(connection: psycopg.AsyncConnection[Any]) -> list[Any]:
            return await (await connection.execute(statement, (username,))).fetchall()

        return await self.database.run(work)

    # History: the hooks record the time and continue.

    @on.client_connected
    def connected(self, event: ConnectedEvent) -> None:
        self.note(event.client, "connected", "")

    @on.client_disconnected
    def disconnected(self, event: DisconnectedEvent) -> None:
        self.note(event.client, "disconnected", event.name)

    def note(self, client: Client, what: str, reason: str) -> None:
        if len(self.history) == HISTORY_MAX:
            log.error("a row of the history is lost: %d wait for the database", HISTORY_MAX)
            return
        self.history.append((datetime.now(timezone.utc), client.client_id, client.username or "", what, reason))
        self.history_came.set()

    async def write_history(self) -> None:
        while True:
            await self.history_came.wait()
            self.history_came.clear()
            while self.history:
                part = [self.history[index] for index in range(min(len(self.history), ROWS_MAX))]
                await self.write(HISTORY, part)
                for _ in part:
                    self.history.popleft()

    # Messages: while one batch is written, the next one is collected.

    @on.message_publish(topics=["store/#"], notify=True, batch=True)
    async def messages(self, events: Sequence[MessageEvent]) -> None:
        rows = [
            (
                datetime.fromtimestamp(event.message.timestamp_ms / 1000, timezone.utc),
                str(event.message.id),
                event.message.publisher,
                event.message.topic,
                event.message.qos,
                event.message.payload,
            )
            for event in events
        ]
        for start in range(0, len(rows), ROWS_MAX):
            await self.write(MESSAGES, rows[start : start + ROWS_MAX])

    async def write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        """Write some rows, all or none, and try until they are written."""

        async def work(connection: psycopg.AsyncConnection[Any]) -> None:
            async with connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(statement, rows)

        pause, longest = RETRY_S
        while True:
            try:
                return await self.database.run(work)
            except AWAY as error:
                # Logged each time: a worker that is silent for `call_timeout` while it has calls to
                # end counts as stuck.
                log.warning("%d rows wait for the database: %s", len(rows), said(error))
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)
