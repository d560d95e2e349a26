"""Authorizes clients, and leaves messages unchanged. At the topic `keep` it stores data with a
login, without having declared that.
"""

from grapnel_exhook import AuthorizeEvent, MessageEvent, Modify, _commands, on


@on.client_authorize
def rights(event: AuthorizeEvent) -> bool:
    return True


@on.message_publish
def publish(event: MessageEvent) -> Modify:
    if event.message.topic == "keep":
        _commands.give(["keep", 1 << 40, "c", "127.0.0.1", 1, b"x"])
    return Modify(payload=event.message.payload)
