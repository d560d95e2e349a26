"""Asks for what cannot be done, about a client that is not there."""

from grapnel_exhook import MessageEvent, broker, on


@on.message_publish(topics=["do"])
def publish(event: MessageEvent) -> None:
    broker.subscribe("gone", "a/#")
    broker.kick("gone")
    broker.kick("gone")
    broker.unsubscribe("gone", "a/#")
