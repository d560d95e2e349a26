"""Allows everything, and lets later hooks decide otherwise."""

from grapnel_exhook import Allow, AuthorizeEvent, on


@on.client_authorize
def authorize(event: AuthorizeEvent) -> Allow:
    return Allow(last=False)
