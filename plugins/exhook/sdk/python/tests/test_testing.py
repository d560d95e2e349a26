"""The harness: modules of each driver called without a broker."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from grapnel_exhook import Action, Drop, Hooks, Modify, broker, on
from grapnel_exhook.testing import Harness, HookFailed


def module(**members: Any) -> types.ModuleType:
    made = types.ModuleType("made")
    for name, member in members.items():
        setattr(made, name, member)
    return made


class Shop(Hooks):
    async def setup(self, config: dict[str, Any]) -> None:
        self.users = config["users"]
        self.batches: list[int] = []

    async def close(self) -> None:
        broker.publish("closed")

    @on.client_authenticate
    async def login(self, event: Any) -> bool:
        given = event.client.password_text
        return given is not None and self.users.get(event.client.username) == given

    @on.client_authorize
    def access(self, event: Any) -> bool | None:
        return None if event.action == Action.SUBSCRIBE else event.topic.startswith(event.client.client_id)

    @on.message_publish(topics=["a/#"])
    def change(self, event: Any) -> Any:
        if event.message.topic == "a/bad":
            return 5
        return Drop() if event.message.topic == "a/drop" else Modify(payload=event.message.payload.upper())

    @on.message_delivered(batch=True)
    async def store(self, events: list[Any]) -> None:
        broker.publish("count", str(len(events)))

    @on.client_connected
    def fails(self, event: Any) -> None:
        raise ValueError("here")


def test_hooks_of_the_own_api() -> None:
    with Harness(module(Shop=Shop), config={"users": {"ann": "secret"}}) as harness:
        ann = harness.client("c1", username="ann", password=b"secret")
        bob = harness.client("c2", username="bob", password=b"\xff")
        assert harness.authenticate(ann).allowed is True and harness.authenticate(bob).allowed is False
        assert harness.authorize(ann, "c1/x").allowed is True and harness.authorize(bob, "c1/x").allowed is False
        assert harness.authorize(ann, "c1/x", Action.SUBSCRIBE).allowed is None
        changed = harness.publish(ann, "a/b", b"hi", qos=1)
        assert changed.value == {"payload": b"HI"} and changed.called and not changed.last
        assert harness.publish(ann, "a/drop").value == {"drop": True}
        assert not harness.publish(ann, "other").called
        with pytest.raises(HookFailed, match="returned 5"):
            harness.publish(ann, "a/bad")
        with pytest.raises(ValueError, match="here"):
            harness.connected(ann)
        assert harness.delivered(ann, "t").called
        assert harness.commands[-1][1]["payload"] == b"1"
        assert not harness.dropped(ann, "t").called
    assert harness.commands[-1][1]["topic"] == "closed"
    with pytest.raises(RuntimeError, match="no broker"):
        broker.publish("t")


def test_hooks_of_emqx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "data"))
    sys.modules.pop("hooks", None)
    with Harness("hooks") as harness:
        assert harness.authenticate(harness.client("")).allowed is False
        assert harness.authenticate(harness.client("c1")).allowed is True
        assert harness.authorize(harness.client("c1", username=None), "t").allowed is False
        assert harness.authorize(harness.client("c1", username="ann"), "t").allowed is True
    sys.modules.pop("hooks", None)


def test_plugins_of_amqtt() -> None:
    pytest.importorskip("amqtt")
    config = {"plugins": {"amqtt.plugins.topic_checking.TopicTabooPlugin": {}}}
    with Harness(driver="amqtt", config=config) as harness:
        ann = harness.client("c1", username="ann")
        assert harness.authorize(ann, "prohibited").allowed is False
        assert harness.authorize(ann, "free").allowed is True
        assert harness.connected(ann).called


def test_the_password_is_there_only_while_a_client_is_let_in_as_at_a_broker() -> None:
    seen: list[Any] = []

    @on.client_connect
    def connect(event: Any) -> None:
        seen.append(("connect", event.client.password, event.client.keep_alive_s, event.client.clean_start))

    @on.client_authenticate
    def login(event: Any) -> None:
        seen.append(("login", event.client.password, event.client.keep_alive_s, event.client.clean_start))

    @on.client_connected
    def connected(event: Any) -> None:
        seen.append(("connected", event.client.password, event.client.keep_alive_s, event.client.clean_start))

    with Harness(module(connect=connect, login=login, connected=connected)) as harness:
        ann = harness.client("c1", password=b"pw", keep_alive_s=7, clean_start=False)
        harness.connect(ann)
        harness.authenticate(ann)
        harness.connected(ann)
    assert seen == [("connect", None, 7, False), ("login", b"pw", 7, False), ("connected", None, 7, False)]
    seen.clear()
    with Harness(module(connected=connected)) as harness:
        harness.connected(harness.client("c1", password=b"pw", keep_alive_s=7))
    assert seen == [("connected", None, 0, False)], "a broker tells of CONNECT only where a hook is"


def test_a_client_that_is_described_again_stays_who_it_is() -> None:
    @on.client_authorize
    def authorize(event: Any) -> bool:
        return (event.client.client_id, event.client.username, event.client.superuser) == ("c1", "ann", True)

    with Harness(module(authorize=authorize)) as harness:
        ann = harness.client("c1", username="ann")
        assert harness.authorize(ann, "t").allowed is False
        harness.describe(ann, superuser=True)
        assert harness.authorize(ann, "t").allowed is True


def test_calls_and_answers_that_a_broker_would_refuse_are_refused() -> None:
    @on.client_authorize
    def authorize(event: Any) -> bool:
        return True

    @on.client_authorize(deliver=True)
    def deliveries(event: Any) -> bool:
        return True

    @on.message_publish
    def publish(event: Any) -> Modify:
        return Modify(content_type="\udcff")

    @on.client_connected
    def connected(event: Any) -> None:
        broker.publish("\udcff")

    with Harness(module(authorize=authorize, publish=publish, connected=connected)) as harness:
        assert not harness.authorize(harness.client(), "t", Action.DELIVER).called
        with pytest.raises(HookFailed, match="cannot be sent"):
            harness.publish(harness.client(), "t")
        with pytest.raises(ValueError):
            harness.connected(harness.client())
        assert harness.commands == []
    with Harness(module(deliveries=deliveries)) as harness:
        assert harness.authorize(harness.client(), "t", Action.DELIVER).called


def test_tasks_of_hooks_are_cancelled_at_the_end_as_in_a_worker() -> None:
    import asyncio

    ended: list[str] = []

    async def runs() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    class Own(Hooks):
        async def setup(self, config: Any) -> None:
            self.task = asyncio.ensure_future(runs())
            await asyncio.sleep(0)

        @on.client_connected
        async def connected(self, event: Any) -> None:
            pass

    with Harness(module(Own=Own)):
        assert ended == []
    assert ended == ["cancelled"]


def test_retained_messages_are_nobodys_and_messages_have_numbers() -> None:
    seen: list[Any] = []

    @on.message_retained
    def retained(event: Any) -> None:
        seen.append((event.client.client_id, event.message.id, event.message.publisher))

    with Harness(module(retained=retained)) as harness:
        assert harness.retained("t", b"x", publisher="c1").called
    assert seen == [("", 1, "c1")]


def test_what_plugins_of_amqtt_raise_when_they_start_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("amqtt")
    source = """
from amqtt.plugins.base import BasePlugin
class Quiet(BasePlugin):
    async def on_broker_pre_start(self): pass
class Fails(BasePlugin):
    async def on_broker_pre_start(self): raise ValueError("here")
"""
    (tmp_path / "failing_plugins.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"plugins": {"failing_plugins.Quiet": {}, "failing_plugins.Fails": {}}}
    with pytest.raises(ValueError, match="here"), Harness(driver="amqtt", config=config):
        pass


def test_a_word_of_a_client_is_given_as_such() -> None:
    @on.client_connected
    def connected(event: Any) -> None:
        broker.publish("own")
        broker.publish("word", on_behalf_of=event.client)
        broker.publish("word", on_behalf_of="another")
        broker.subscribe("c", "a/#", 1)
        broker.subscribe("c", "a/#", 1, authorize=True)

    with Harness(module(connected=connected)) as harness:
        harness.connected(harness.client("c"))
        given = harness.commands
        assert [command[1].get("on_behalf_of") for command in given[:3]] == [None, "c", "another"]
        assert given[3:] == [["subscribe", "c", "a/#", 1], ["subscribe", "c", "a/#", 1, True]]
        for wrong, error in ((b"c", TypeError), ("", ValueError)):
            with pytest.raises(error, match="on_behalf_of"):
                broker.publish("t", on_behalf_of=wrong)  # type: ignore[arg-type]
