"""Allows every login, and is notified of deliveries."""

from grapnel_exhook import AuthenticateEvent, MessageEvent, on


@on.client_authenticate
def login(event: AuthenticateEvent) -> bool:
    return True


@on.message_delivered
def delivered(event: MessageEvent) -> None:
    pass
