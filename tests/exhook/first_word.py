"""Allows whatever is asked, and leaves the last word to others."""

from grapnel_exhook import Allow, AuthorizeEvent, on


@on.client_authorize
def authorize(event: AuthorizeEvent) -> Allow:
    return Allow(last=False)
