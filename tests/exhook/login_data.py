"""Replaces each payload by the stored data of its sender, and ends at the topic `end`."""

import os

from grapnel_exhook import ConnectedEvent, MessageEvent, Modify, on


@on.client_connected
def connected(event: ConnectedEvent) -> None:
    assert event.client.keep_alive_s == 77


@on.message_publish
def publish(event: MessageEvent) -> Modify:
    if event.message.topic == "end":
        os.kill(os.getpid(), 9)
    return Modify(payload=f"{event.client.keep_alive_s} s, process {os.getpid()}")
