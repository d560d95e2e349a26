"""Plugins for the Grapnel MQTT broker in Python.

    from grapnel_exhook import on, AuthorizeEvent

    @on.client_authorize
    def only_own_topics(event: AuthorizeEvent) -> bool:
        return event.topic.startswith(f"devices/{event.client.client_id}/")

See README.md. The broker's `exhook` plugin runs this package as `python3 -m grapnel_exhook`.
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
from .events import Action, Certificate, Change, Client, Event, Message, Options, Tls, Verdict, Will
from .hooks import Config, Hooks, on

# Begin: the classes of events, from plugin-abi/src/point.rs; `just abi` writes it anew
from .events import AuthenticateEvent as AuthenticateEvent
from .events import AuthorizeEvent as AuthorizeEvent
from .events import BrokerEvent as BrokerEvent
from .events import ConnackEvent as ConnackEvent
from .events import ConnectEvent as ConnectEvent
from .events import ConnectedEvent as ConnectedEvent
from .events import DisconnectedEvent as DisconnectedEvent
from .events import DroppedEvent as DroppedEvent
from .events import MessageEvent as MessageEvent
from .events import PacketEvent as PacketEvent
from .events import RetainedEvent as RetainedEvent
from .events import SessionEvent as SessionEvent
from .events import SubscribeEvent as SubscribeEvent
from .events import SubscribedEvent as SubscribedEvent
from .events import UnsubscribeEvent as UnsubscribeEvent
from .events import UnsubscribedEvent as UnsubscribedEvent
# End: the classes of events

__all__ = [
    "Action", "Allow", "AuthenticateAnswer", "AuthorizeAnswer", "Certificate", "Challenge", "Change", "Client",
    "Config", "ConnectAnswer", "Deny", "Disconnect", "Drop", "Event", "FilterAnswer", "FiltersAnswer", "Hooks",
    "Limits", "Message", "Modify", "Options", "PublishAnswer", "Refuse", "Reject", "Rewrite", "Tls", "Verdict",
    "Will", "broker", "on",
]  # fmt: skip
# Begin: the names of the classes of events, from plugin-abi/src/point.rs; `just abi` writes it anew
__all__ += [
    "AuthenticateEvent",
    "AuthorizeEvent",
    "BrokerEvent",
    "ConnackEvent",
    "ConnectEvent",
    "ConnectedEvent",
    "DisconnectedEvent",
    "DroppedEvent",
    "MessageEvent",
    "PacketEvent",
    "RetainedEvent",
    "SessionEvent",
    "SubscribeEvent",
    "SubscribedEvent",
    "UnsubscribeEvent",
    "UnsubscribedEvent",
]
# End: the names of the classes of events
