"""Logins, history, access rules and messages in PostgreSQL, with EMQX's Python extension SDK.
libpq's environment (PGHOST, PGUSER, ...) selects the database.

Each hook waits for its query, and this worker does nothing else meanwhile: with a `pool_size`
above 1 the others continue. If the database does not answer, the worker exceeds `call_timeout`;
the broker then ends and restarts it. If the database is gone, the hook raises an exception, and
`failed_action` decides.
"""

import psycopg
from emqx_extension.hooks import EmqxHookSdk, hooks_handler
from emqx_extension.types import EMQX_CLIENTINFO_PARSE_T, EMQX_MESSAGE_PARSE_T
from passwords import fits
from rules import allows


class Database:
    """One connection, made when it is needed and again when it is lost."""

    def __init__(self):
        self.connection = None

    def run(self, statement, arguments):
        kept = self.connection
        if kept is not None:
            try:
                return kept.execute(statement, arguments)
            except psycopg.OperationalError:
                # The database may have been restarted since the last query.
                if not kept.broken:
                    raise
                self.connection = None
        self.connection = psycopg.connect(autocommit=True)
        return self.connection.execute(statement, arguments)


database = Database()


def as_bytes(text: str) -> bytes:
    """What the client sent; the SDK has made it text."""
    return text.encode("utf-8", "surrogateescape")


class Store(EmqxHookSdk):
    @hooks_handler()
    def on_client_authenticate(self, clientinfo: EMQX_CLIENTINFO_PARSE_T, authresult: bool, state: tuple) -> bool:
        row = database.run("SELECT password FROM users WHERE username = %s", (clientinfo.username,)).fetchone()
        return fits(as_bytes(clientinfo.password), row[0] if row else None)

    @hooks_handler()
    def on_client_check_acl(
        self, clientinfo: EMQX_CLIENTINFO_PARSE_T, pubsub: str, topic: str, result: bool, state: tuple
    ) -> bool:
        rules = database.run(
            "SELECT action, topic, allow FROM acl WHERE username = %s ORDER BY id", (clientinfo.username,)
        )
        return allows(rules, pubsub, topic)

    @hooks_handler()
    def on_client_connected(self, clientinfo: EMQX_CLIENTINFO_PARSE_T, state: tuple):
        self.history(clientinfo, "connected", "")

    @hooks_handler()
    def on_client_disconnected(self, clientinfo: EMQX_CLIENTINFO_PARSE_T, reason: str, state: tuple):
        self.history(clientinfo, "disconnected", reason)

    def history(self, clientinfo, event, reason):
        database.run(
            "INSERT INTO history (at, client, username, event, reason) VALUES (clock_timestamp(), %s, %s, %s, %s)",
            (clientinfo.clientid, clientinfo.username, event, reason),
        )

    @hooks_handler()
    def on_message_publish(self, message: EMQX_MESSAGE_PARSE_T, state: tuple):
        database.run(
            "INSERT INTO messages (at, message, client, topic, qos, payload) "
            "VALUES (to_timestamp(%s / 1000.0), %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING",
            (
                message.timestamp,
                message.id,
                message.from_clientid,
                message.topic,
                message.qos,
                as_bytes(message.payload),
            ),
        )


store = Store(hook_module=f"{__name__}.store")


def init():
    return store.start(topics=["store/#"])


def deinit():
    if database.connection is not None:
        database.connection.close()
