"""Allows a login with the right password, stores that with the client, and replaces each payload
by what it has stored. At the topic `flood` it publishes more than the broker accepts.
"""

from grapnel_exhook import AuthenticateEvent, MessageEvent, Modify, broker, on


@on.client_authenticate
def login(event: AuthenticateEvent) -> bool:
    if event.client.password != b"right":
        return False
    event.client.attributes["logins"] = event.client.attributes.get("logins", 0) + 1
    return True


@on.message_publish
def publish(event: MessageEvent) -> Modify:
    if event.message.topic == "flood":
        for _ in range(1000):
            broker.publish("flooded", b"x")
    return Modify(payload=f"logins {event.client.attributes.get('logins')}")
