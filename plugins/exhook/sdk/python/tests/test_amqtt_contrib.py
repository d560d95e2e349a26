"""aMQTT's additional plugins (`amqtt.contrib`): they make the same decisions about logins and topics
as under the package's own broker; what they store and publish through their context."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
import time
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from fake_broker import FakeBroker, client, message

for package in ("amqtt", "sqlalchemy", "aiosqlite", "bcrypt", "jwt", "aiohttp", "mergedeep", "cryptography"):
    pytest.importorskip(package)

ANONYMOUS = "amqtt.plugins.authentication.AnonymousAuthPlugin"
ACTIONS = {1: "publish", 2: "subscribe", 4: "receive"}
Logins = list[tuple[str | None, str | None]]


def theirs(config: dict[str, Any], logins: Logins, topics: list[str]) -> dict[Any, tuple[bool, list[Any]]]:
    """The decisions of the package's broker about each login and topic, and the opinions of its
    plugins."""
    from amqtt.broker import Broker
    from amqtt.contexts import Action
    from amqtt.session import Session

    async def request() -> dict[Any, tuple[bool, list[Any]]]:
        broker = Broker(config)
        manager = broker.plugins_manager
        decided: dict[Any, tuple[bool, list[Any]]] = {}
        for login in logins:
            session = Session()
            session.client_id, (session.username, session.password) = f"c{logins.index(login) + 1}", login
            said = await manager.map_plugin_auth(session=session)
            decided[login] = await broker._authenticate(session, None), list(said.values())
            for topic in topics:
                for action in ACTIONS.values():
                    said = await manager.map_plugin_topic(session=session, topic=topic, action=Action(action))
                    decided[login, topic, action] = (
                        await broker._topic_filtering(session, topic, Action(action)),
                        list(said.values()),
                    )
        for plugin in manager.plugins:
            close = getattr(plugin, "on_broker_pre_shutdown", None)
            if close is not None:
                await close()
        await manager.close()
        return decided

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return asyncio.run(request())


def compare(broker: FakeBroker, config: dict[str, Any], logins: Logins, topics: list[str]) -> set[Any]:
    """The answers of both, which must be equal. Returns the opinions of the plugins."""
    for number, (username, password) in enumerate(logins, 1):
        who = client(f"c{number}", username=username, password=password and password.encode())
        broker.calls([[0, -1, number, who]])
    opinions = set()
    # Logins first: afterwards the password is known.
    decided = sorted(theirs(config, logins, topics).items(), key=lambda item: len(item[0]))
    for question, (allowed, said) in decided:
        if len(question) == 2:
            if "client.authenticate" not in broker.hooks:
                continue
            answer = broker.request("client.authenticate", logins.index(question) + 1, [0, None, None, False])
            assert answer == (1, {"allow": allowed}), question
            opinions.update(("login", opinion) for opinion in said)
            continue
        if "client.authorize" not in broker.hooks:
            continue
        login, topic, action = question
        number = next(key for key, value in ACTIONS.items() if value == action)
        answer = broker.request("client.authorize", logins.index(login) + 1, [number, topic, 0, False, 0])
        if said == [None]:
            # Without an opinion aMQTT denies; here the broker decides, as aMQTT's documents say.
            assert answer == (0, None) and not allowed, question
        else:
            assert answer == (1, {"allow": allowed}), question
        opinions.update(("topic", opinion) for opinion in said)
    return opinions


def test_jwt(start: Start) -> None:
    import jwt

    key = "k" * 32
    claims = {name: f"may_{name}" for name in ACTIONS.values()}
    config = {
        "plugins": {
            "amqtt.contrib.jwt.UserAuthJwtPlugin": {"secret_key": key, "user_claim": "username"},
            "amqtt.contrib.jwt.TopicAuthJwtPlugin": {"secret_key": key, **{f"{name}_claim": claim for name, claim in claims.items()}},
        }
    }

    def token(expires_s: int = 3600, key: str = key) -> str:
        acl = {"may_publish": ["my/topic/#", "my/+/other"], "may_subscribe": ["my/+/other"]}
        return jwt.encode({"username": "ann", "exp": int(time.time()) + expires_s, **acl}, key, algorithm="HS256")

    logins: Logins = [
        ("ann", token()), ("bob", token()), ("ann", token(-3600)), ("ann", token(key="x" * 32)), ("ann", "none"), ("ann", None),
        (None, None),
    ]  # fmt: skip
    broker = start(None, driver="amqtt", init_module="", config=config)
    opinions = compare(broker, config, logins, ["my/topic/one", "my/one/other", "my/one", "other"])
    assert opinions == {(kind, opinion) for kind in ("login", "topic") for opinion in (True, False, None)}


class Answers(BaseHTTPRequestHandler):
    """Answers what the password, or without one the client identifier, asks for."""

    def do_GET(self) -> None:
        requested = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert set(requested) in ({"username", "password", "client_id"}, {"username", "client_id", "topic", "acc"})
        wish = requested["password"] if "password" in requested else requested["topic"]
        body = json.dumps({"Ok": {"yes": True, "no": False}.get(wish)}).encode()
        self.send_response(500 if wish == "fails" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def http_port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_http(start: Start, http_port: int) -> None:
    server = {"host": "127.0.0.1", "port": http_port}
    names = ("amqtt.contrib.http.UserAuthHttpPlugin", "amqtt.contrib.http.TopicAuthHttpPlugin")
    config: dict[str, Any] = {"plugins": {name: server for name in names}}
    broker = start(None, driver="amqtt", init_module="", config=config)
    words = ["yes", "no", "no opinion", "fails"]
    opinions = compare(broker, config, [("ann", word) for word in words], words)
    assert opinions == {(kind, opinion) for kind in ("login", "topic") for opinion in (True, False, None)}


def test_auth_db(start: Start, tmp_path: Path) -> None:
    from amqtt.contexts import Action
    from amqtt.contrib.auth_db.managers import TopicManager, UserManager

    file = tmp_path / "users.db"
    connection = f"sqlite+aiosqlite:///{file}"
    plugins = {f"amqtt.contrib.auth_db.{name}": {"connection": connection, "sync_schema": True} for name in (
        "UserAuthDBPlugin", "TopicAuthDBPlugin")}  # fmt: skip
    config: dict[str, Any] = {"plugins": plugins}
    # The worker creates the tables at its start.
    broker = start(None, driver="amqtt", init_module="", config=config)

    async def fill() -> None:
        users, topics = UserManager(connection), TopicManager(connection)
        await users.create_user_auth("ann", "secret")
        await topics.create_topic_auth("ann")
        await topics.add_allowed_topic("ann", "my/#", Action.PUBLISH)
        for action in (Action.SUBSCRIBE, Action.RECEIVE):
            await topics.add_allowed_topic("ann", "$SYS/#", action)
        await users.close()
        await topics.close()

    asyncio.run(fill())
    logins: Logins = [("ann", "secret"), ("ann", "wrong"), ("ann", ""), ("nobody", "secret"), (None, None)]
    # Without a row TopicAuthDBPlugin raises: that is a failure, so the request is denied.
    opinions = compare(broker, config, logins[:3] + logins[4:], ["my/topic", "$SYS/broker/uptime", "other"])
    assert opinions == {("login", True), ("login", False), ("topic", True), ("topic", False), ("topic", None)}
    broker.describe(9, client_id="c9", username="nobody", password=b"secret")
    assert broker.request("client.authenticate", 9, [0, None, None, False]) == (1, {"allow": False})
    code, text = broker.request("client.authorize", 9, [1, "my/topic", 0, False, 0])
    assert code == 2 and "TopicAuthDBPlugin.topic_filtering" in broker.lines(), text


def test_ldap(start: Start, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = """
        VERSION3, SCOPE_SUBTREE = 3, 2
        class LDAPError(Exception): pass
        class INVALID_CREDENTIALS(LDAPError): pass
        class Connection:
            def simple_bind_s(self, name, password):
                if password != "secret":
                    raise INVALID_CREDENTIALS
            def search_s(self, base, scope, wanted, attributes):
                if wanted == "(uid=ann)":
                    return [("uid=ann", {"mayPublish": [b"my/#"], "maySubscribe": [b"my/topic"]})]
                return []
        def initialize(server):
            return Connection()
    """
    write(directory, "ldap.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    server = {"server": "ldap://x", "base_dn": "dc=x", "user_attribute": "uid", "bind_dn": "cn=admin,dc=x", "bind_password": "secret"}
    attributes = {f"{name}_attribute": f"may{name.title()}" for name in ACTIONS.values()}
    plugins = {"UserAuthLdapPlugin": server, "TopicAuthLdapPlugin": {**server, **attributes}}
    config: dict[str, Any] = {"plugins": {f"amqtt.contrib.ldap.{name}": options for name, options in plugins.items()}}
    broker = start(None, driver="amqtt", init_module="", config=config)
    logins: Logins = [("ann", "secret"), ("ann", "wrong"), ("bob", "secret"), (None, None)]
    opinions = compare(broker, config, logins, ["my/topic", "my/other", "other"])
    assert opinions == {(kind, opinion) for kind in ("login", "topic") for opinion in (True, False)}


def publish(topic: str, data: bytes) -> list[Any]:
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + data
    assert len(body) < 128
    return [3, bytes([0x30, len(body)]) + body]


def test_shadows(start: Start, tmp_path: Path) -> None:
    connection = f"sqlite+aiosqlite:///{tmp_path / 'shadows.db'}"
    config = {"plugins": {"amqtt.contrib.shadows.ShadowPlugin": {"connection": connection}}}
    broker = start(None, driver="amqtt", init_module="", config=config)
    broker.describe(1, version=4)
    broker.notify("client.connected", 1, [])

    def says(topic: str, data: Any, messages: int = 1) -> dict[str, Any]:
        before = len(broker.commands)
        broker.notify("packet.received", 1, publish(f"$shadow/dev/lamp/{topic}", json.dumps(data).encode()))
        broker.until(lambda: len(broker.commands) >= before + messages)
        new = [command[1] for command in broker.commands[before:]]
        return {what["topic"].removeprefix("$shadow/dev/lamp/"): json.loads(what["payload"]) for what in new}

    assert says("get", {})["get/rejected"]["code"] == 404
    changed = says("update", {"state": {"desired": {"on": True}}}, 4)
    assert sorted(changed) == [f"update/{name}" for name in ("accepted", "delta", "documents", "iota")]
    assert changed["update/delta"]["state"] == {"on": True}
    assert says("get", {})["get/accepted"]["state"]["desired"] == {"on": True}


def test_stored_sessions_and_messages(start: Start, tmp_path: Path) -> None:
    """Retained messages are restored by the next broker. Sessions are not: only their clients can
    begin them."""
    file = tmp_path / "sessions.db"
    options = {"connection": f"sqlite+aiosqlite:///{file}", "clear_on_shutdown": False}
    config = {"plugins": {ANONYMOUS: {"allow_anonymous": False}, "amqtt.contrib.persistence.SessionDBPlugin": options}}
    broker = start(None, driver="amqtt", init_module="", config=config)
    will = {"topic": "gone", "payload": b"will", "qos": 1, "retain": False}

    def until_there(query: str, count: int) -> None:
        """Events are handled concurrently, as in aMQTT: here each waits for the one before."""
        end = time.monotonic() + 20
        with contextlib.closing(sqlite3.connect(file)) as database:
            while len(database.execute(query).fetchall()) != count:
                assert time.monotonic() < end, query
                time.sleep(0.01)

    messages = "select topic, data, qos from stored_messages"
    for number, name, about in [(1, "stays", {"will": will}), (2, "without", {}), (3, "clean", {"clean_start": True})]:
        broker.describe(number, client_id=name, **{"clean_start": False, **about})
        broker.request("client.authenticate", number, [0, None, None, False])
        broker.notify("client.connected", number, [])
        until_there("select * from stored_sessions where will_qos is not null", min(number, 2))
    broker.notify("session.subscribed", 1, ["a/#", 1, True, None, None])
    until_there("select * from stored_sessions where subscriptions != '[]'", 1)
    for count, (topic, payload, change) in enumerate([("kept", b"old", 0), ("cleared", b"x", 0)], 1):
        broker.notify("message.retained", 0, [message(topic, payload, retain=True, publisher="stays"), change])
        until_there(messages, count)
    broker.notify("message.retained", 0, [message("cleared", b"", retain=True, publisher="stays"), 2])
    until_there(messages, 1)
    assert broker.stop() == 0
    with contextlib.closing(sqlite3.connect(file)) as database:
        columns = "client_id, clean_session, will_flag, will_topic, will_message, will_qos, will_retain, keep_alive, subscriptions"
        rows = database.execute(f"select {columns} from stored_sessions order by client_id").fetchall()
        assert database.execute(messages).fetchall() == [("kept", b"old", 1)]
    assert rows == [
        ("stays", 0, 1, "gone", b"will", 1, 0, 60, '[{"topic": "a/#", "qos": 1}]'),
        ("without", 0, 0, None, None, 0, 0, 60, "[]"),
    ]
    after = start(None, driver="amqtt", init_module="", config=config)
    after.until(lambda: len(after.commands) == 2)
    assert after.commands == [
        ["subscribe", "stays", "a/#", 1],
        ["publish", {"topic": "kept", "payload": b"old", "qos": 1, "retain": True, "store_only": True}],
    ]
    assert "there is no session of stays, and only its client can begin one" in after.lines()


def test_without_tls_nobody_has_a_certificate(start: Start) -> None:
    config = {"plugins": {"amqtt.contrib.cert.UserAuthCertPlugin": {"uri_domain": "example.org"}}}
    broker = start(None, driver="amqtt", init_module="", config=config)
    broker.describe(1)
    assert broker.request("client.authenticate", 1, [0, None, None, False]) == (1, {"allow": False})
