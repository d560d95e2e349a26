"""Denies one topic, and returns no decision for others."""

from grapnel_exhook import AuthorizeEvent, on


@on.client_authorize
def authorize(event: AuthorizeEvent) -> bool | None:
    return False if event.topic == "no" else None
