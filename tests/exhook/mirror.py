"""Hooks on our own API: it changes what a client sends, so that the test can check every byte in
both directions.
"""

from grapnel_exhook import Allow, AuthenticateEvent, Deny, MessageEvent, Modify, on


@on.client_authenticate
def authenticate(event: AuthenticateEvent):
    return Allow() if event.client.password in (None, bytes(range(256))) else Deny()


@on.message_publish(topics=["mirror/#"])
def publish(event: MessageEvent):
    if event.message.topic.startswith("mirror/raise"):
        raise RuntimeError("on purpose")
    return Modify(payload=event.message.payload[::-1])
