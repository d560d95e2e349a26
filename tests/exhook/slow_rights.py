"""Allows everything, a subscription after a delay, and reports subscriptions."""

import asyncio

from grapnel_exhook import Action, AuthorizeEvent, SubscribedEvent, on


@on.client_authorize
async def rights(event: AuthorizeEvent) -> bool:
    if event.action is Action.SUBSCRIBE:
        await asyncio.sleep(0.2)
    return True


@on.session_subscribed
def subscribed(event: SubscribedEvent) -> None:
    print("subscribed", event.filter, flush=True)
