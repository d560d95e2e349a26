"""Sends commands that cannot be executed, about a client that does not exist."""

from grapnel_exhook import MessageEvent, broker, on


@on.message_publish(topics=["do"])
def publish(event: MessageEvent) -> None:
    broker.subscribe("gone", "a/#")
    broker.kick("gone")
    broker.kick("gone")
    broker.unsubscribe("gone", "a/#")
