"""The decorators as mypy --strict sees them in a user's module: a hook with the wrong event or answer is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_broker import SOURCES

RIGHT = """
from typing import Any

from grapnel_exhook import (
    Allow, AuthenticateEvent, AuthorizeEvent, Challenge, ConnectEvent, ConnectedEvent, Deny, DisconnectedEvent, Drop, DroppedEvent,
    Hooks, Limits, MessageEvent, Modify, PacketEvent, Refuse, Rewrite, SubscribeEvent, UnsubscribeEvent, broker, on,
)
from grapnel_exhook.answers import FiltersAnswer


@on.client_connect
def connect(event: ConnectEvent) -> Refuse | Limits | None:
    return Limits(keep_alive_s=event.client.keep_alive_s)

@on.client_authenticate
async def login(event: AuthenticateEvent) -> bool | Challenge:
    return event.client.password == b"x"

@on.client_authorize(deliver=True)
async def authorize(event: AuthorizeEvent) -> bool | None:
    return event.topic == "a"

@on.client_authorize()
def authorize_too(event: AuthorizeEvent) -> Allow | Deny:
    return Deny(last=False)

@on.client_subscribe
def subscribe(event: SubscribeEvent) -> FiltersAnswer:
    return [topic + "/x" for topic, options in event.filters]

@on.client_unsubscribe
async def unsubscribe(event: UnsubscribeEvent) -> list[str | Rewrite | Refuse | None] | None:
    return None

@on.message_publish(topics=["a/#"])
def publish(event: MessageEvent) -> Modify | Drop | None:
    return Modify(payload=event.message.payload)

@on.message_publish
async def publish_too(event: MessageEvent) -> None:
    broker.publish("t", event.message.payload)

@on.message_publish(notify=True)
def told(event: MessageEvent) -> None: ...

@on.message_publish(notify=True, batch=True, topics=["a"])
async def notified_many(events: list[MessageEvent]) -> None: ...

@on.message_dropped(batch=True)
def dropped(events: list[DroppedEvent]) -> None:
    print(events[0].by)

@on.packet_received(batch=True)
async def packets(events: list[PacketEvent]) -> None: ...

@on.client_connected
@on.client_disconnected
def both(event: ConnectedEvent | DisconnectedEvent) -> None: ...

class Shop(Hooks):
    async def setup(self, config: dict[str, Any]) -> None:
        self.seen = 0

    @on.client_authenticate
    async def login(self, event: AuthenticateEvent) -> bool:
        self.seen += 1
        return True

    @on.message_delivered(batch=True)
    def delivered(self, events: list[MessageEvent]) -> None: ...

    @on.client_connected
    def connected(self, event: ConnectedEvent) -> None: ...

    @staticmethod
    @on.message_acked(topics=["a"])
    def acked(event: MessageEvent) -> None: ...

def test(event: AuthorizeEvent, message: MessageEvent, shop: Shop, gone: ConnectedEvent) -> None:
    answer: Allow | Deny = authorize_too(event)
    shop.connected(gone)
"""

WRONG = """
from grapnel_exhook import AuthorizeEvent, ConnectedEvent, Hooks, MessageEvent, Modify, on

@on.client_authorize
def event_of_another_point(event: MessageEvent) -> bool: return True

@on.client_authorize
def answer_of_another_point(event: AuthorizeEvent) -> Modify: return Modify()

@on.client_authorize
async def answer_that_is_none(event: AuthorizeEvent) -> int: return 1

@on.client_authorize
def nothing_to_take() -> bool: return True

@on.client_connected
def notification_of_another_point(event: MessageEvent) -> None: ...

@on.message_delivered(batch=True)
def one_of_a_batch(event: MessageEvent) -> None: ...

@on.message_delivered
def batch_of_one(events: list[MessageEvent]) -> None: ...

@on.message_publish(topics=["a"])
def publish(event: MessageEvent) -> bool: return True

@on.client_connect(batch=True)
def batch_of_verdicts(event: ConnectedEvent) -> None: ...

class Shop(Hooks):
    @on.client_authorize
    def method(self, event: MessageEvent) -> bool: return True
"""


def check(tmp_path: Path, source: str) -> list[str]:
    pytest.importorskip("mypy")
    (tmp_path / "user.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", str(tmp_path / "cache"), "user.py"],
        env={**os.environ, "MYPYPATH": str(SOURCES)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if ": error:" in line]


def test_right_hooks_have_no_errors(tmp_path: Path) -> None:
    assert check(tmp_path, RIGHT) == []


def test_each_wrong_hook_is_an_error(tmp_path: Path) -> None:
    wrong = {int(line.split(":")[1]) for line in check(tmp_path, WRONG)}
    decorators = {number for number, line in enumerate(WRONG.splitlines(), 1) if line.lstrip().startswith("@on")}
    assert wrong == decorators, check(tmp_path, WRONG)
