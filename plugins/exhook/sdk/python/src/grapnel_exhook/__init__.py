"""Plugins for the Grapnel MQTT broker in Python.

    from grapnel_exhook import on, AuthorizeEvent

    @on.client_authorize
    def only_own_topics(event: AuthorizeEvent) -> bool:
        return event.topic.startswith(f"devices/{event.client.client_id}/")

README.md goes on from there. The broker's `exhook` plugin runs this as `python3 -m grapnel_exhook`.
"""

__version__ = "0.1.0"

from . import broker as broker
from .answers import (
    Allow,
    AuthenticateAnswer,
    AuthorizeAnswer,
    Challenge,
    ConnectAnswer,
    Deny,
    Disconnect,
    Drop,
    FilterAnswer,
    FiltersAnswer,
    Limits,
    Modify,
    PublishAnswer,
    Refuse,
    Reject,
    Rewrite,
)
from .events import (
    Action,
    AuthenticateEvent,
    AuthorizeEvent,
    BrokerEvent,
    Change,
    Client,
    ConnackEvent,
    ConnectedEvent,
    ConnectEvent,
    DisconnectedEvent,
    DroppedEvent,
    Event,
    Message,
    MessageEvent,
    Options,
    PacketEvent,
    RetainedEvent,
    SessionEvent,
    SubscribedEvent,
    SubscribeEvent,
    UnsubscribedEvent,
    UnsubscribeEvent,
    Verdict,
    Will,
)
from .hooks import Config, Hooks, on

__all__ = [
    "Action", "Allow", "AuthenticateAnswer", "AuthenticateEvent", "AuthorizeAnswer", "AuthorizeEvent", "BrokerEvent",
    "Challenge", "Change", "Client", "Config", "ConnackEvent", "ConnectAnswer", "ConnectEvent", "ConnectedEvent", "Deny",
    "Disconnect", "DisconnectedEvent", "Drop", "DroppedEvent", "Event", "FilterAnswer", "FiltersAnswer", "Hooks", "Limits",
    "Message", "MessageEvent", "Modify", "Options", "PacketEvent", "PublishAnswer", "Refuse", "Reject", "RetainedEvent",
    "Rewrite", "SessionEvent", "SubscribeEvent", "SubscribedEvent", "UnsubscribeEvent", "UnsubscribedEvent", "Verdict",
    "Will", "broker", "on",
]  # fmt: skip
