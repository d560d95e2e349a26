"""Lets everybody in whom it is asked about, and is told of what is delivered."""

from grapnel_exhook import AuthenticateEvent, MessageEvent, on


@on.client_authenticate
def login(event: AuthenticateEvent) -> bool:
    return True


@on.message_delivered
def delivered(event: MessageEvent) -> None:
    pass
