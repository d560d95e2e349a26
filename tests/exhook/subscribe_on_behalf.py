"""On a publish to `go`, subscribes a client, unsubscribes it, and subscribes it to another filter."""

from grapnel_exhook import MessageEvent, broker, on


@on.message_publish(topics=["go"])
def go(event: MessageEvent) -> None:
    client = event.client.client_id
    broker.subscribe(client, "a", authorize=True)
    broker.unsubscribe(client, "a", authorize=True)
    broker.subscribe(client, "b", authorize=True)
