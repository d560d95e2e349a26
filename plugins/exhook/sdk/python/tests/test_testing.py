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
