"""Is notified of connects, and continues every message."""

from grapnel_exhook import ConnectedEvent, MessageEvent, on


@on.client_connected
def connected(event: ConnectedEvent) -> None:
    pass


@on.message_publish
def publish(event: MessageEvent) -> None:
    pass
