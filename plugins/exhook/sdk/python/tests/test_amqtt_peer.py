"""aMQTT's bundled plugins, under the package's own broker and under the driver: both give the same
answers to all requests in aMQTT's own tests. (Those tests call the classes without a broker, and are
not part of its source distribution.)"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Start
from fake_broker import client

pytest.importorskip("amqtt")

AUTH, TOPICS = "amqtt.plugins.authentication", "amqtt.plugins.topic_checking"
ANONYMOUS, FILE = f"{AUTH}.AnonymousAuthPlugin", f"{AUTH}.FileAuthPlugin"
TABOO, ACL = f"{TOPICS}.TopicTabooPlugin", f"{TOPICS}.TopicAccessControlListPlugin"
LISTS = {"user": ["allowed/topic", "another/allowed/topic/#", "plus/+/end"], "anonymous": ["open"]}
# Hashed like in aMQTT, with few rounds.
HASH = "$argon2id$v=19$m=64,t=1,p=1$z5NOoMfyrSZA7JyIR+T9Lw$EpwpsEONmskhFftUXIm/XQeolA5K4ksHvQBf4Fvu9Sg"
CONFIGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everybody": {"plugins": {ANONYMOUS: {"allow_anonymous": True}}},
    "named": {"plugins": {ANONYMOUS: {"allow_anonymous": False}}},
    "file": {"plugins": {FILE: {"password_file": "passwd"}}},
    "file and named": {"plugins": {FILE: {"password_file": "passwd"}, ANONYMOUS: {"allow_anonymous": False}}},
    "taboo": {"plugins": {TABOO: {}}},
    "subscribe": {"plugins": {ACL: {"acl": LISTS, "publish_acl": {}}}},
    "publish": {"plugins": {ACL: {"publish_acl": LISTS}}},
    "acl": {"plugins": {ACL: {"acl": LISTS}, TABOO: {}}},
    "list": {"plugins": [ANONYMOUS, {ACL: {"acl": LISTS}}]},
    "old auth": {"auth": {"plugins": ["auth_anonymous"], "allow-anonymous": False}},
    "old auth, nobody asked": {"auth": {"plugins": []}},
    "topic-check alone": {"topic-check": {"enabled": True, "plugins": ["topic_taboo"]}},
    "old topic-check": {
        "auth": {"plugins": ["auth_anonymous"], "allow-anonymous": True},
        "topic-check": {"enabled": True, "plugins": ["topic_acl"], "acl": LISTS, "receive-acl": LISTS},
    },
    "old topic-check, off": {
        "auth": {"plugins": ["auth_anonymous"], "allow-anonymous": True},
        "topic-check": {"enabled": False, "plugins": ["topic_taboo"]},
    },
}
LOGINS = [(None, None), ("", ""), ("user", "secret"), ("user", "wrong"), ("other", "secret"), ("admin", None)]
TOPIC_NAMES = [
    "allowed/topic", "another/allowed/topic/a/b", "another/allowed/topic", "plus/x/end", "plus/x/y", "open", "prohibited",
    "top-secret", "data/classified", "anything", "allowed", "allowed/topic/more",
]  # fmt: skip
ACTIONS = {1: "publish", 2: "subscribe", 4: "receive"}


def theirs(config: dict[str, Any]) -> Iterator[tuple[Any, bool]]:
    """The decisions of the package's broker about each login and topic."""
    import copy
    import warnings

    from amqtt.broker import Broker
    from amqtt.contexts import Action
    from amqtt.session import Session

    async def request() -> list[tuple[Any, bool]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            broker = Broker(copy.deepcopy(config))
        answers: list[tuple[Any, bool]] = []
        for login in LOGINS:
            session = Session()
            session.client_id, (session.username, session.password) = "c", login
            answers.append((login, await broker._authenticate(session, None)))
            for topic in TOPIC_NAMES:
                for action in ACTIONS.values():
                    allowed = await broker._topic_filtering(session, topic, Action(action))
                    answers.append(((login, topic, action), allowed))
        return answers

    yield from asyncio.run(request())


@pytest.mark.parametrize("name", CONFIGS)
def test_bundled_plugins_decide_as_under_amqtt(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "passwd").write_text(f"# users\nuser:{HASH}\n")
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[name]
    broker = start(None, driver="amqtt", init_module="", config=dict(config))
    numbers = {}
    for number, (username, password) in enumerate(LOGINS, 1):
        numbers[username, password] = number
        who = client(f"c{number}", username=username, password=password and password.encode())
        broker.calls([[0, -1, number, who]])
    for question, expected in theirs(config):
        if len(question) == 2:
            requested = ("client.authenticate", numbers[question], [0, None, None, False])
        else:
            login, topic, action = question
            number = next(key for key, value in ACTIONS.items() if value == action)
            requested = ("client.authorize", numbers[login], [number, topic, 0, False, 0])
        if requested[0] in broker.hooks:
            code, value = broker.request(*requested)
            assert code == 1 and value == {"allow": expected}, question
        else:
            # No plugin decides: both allow all topics. For logins the broker's own rule decides
            # here, and aMQTT denies.
            assert expected is (requested[0] == "client.authorize"), question
