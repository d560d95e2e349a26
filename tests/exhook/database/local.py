"""Lets the user `local` in and do everything, whatever other plugins say: clients that must not notice what these wait for."""

from grapnel_exhook import AuthenticateEvent, AuthorizeEvent, on


@on.client_authenticate
def authenticate(event: AuthenticateEvent) -> bool | None:
    return True if event.client.username == "local" else None


@on.client_authorize
def authorize(event: AuthorizeEvent) -> bool | None:
    return True if event.client.username == "local" else None
