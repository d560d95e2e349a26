"""Allows everything to the user `local`, whatever other plugins decide: for clients that must not
be affected when those wait.
"""

from grapnel_exhook import AuthenticateEvent, AuthorizeEvent, on


@on.client_authenticate
def authenticate(event: AuthenticateEvent) -> bool | None:
    return True if event.client.username == "local" else None


@on.client_authorize
def authorize(event: AuthorizeEvent) -> bool | None:
    return True if event.client.username == "local" else None
