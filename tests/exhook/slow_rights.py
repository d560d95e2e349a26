"""Allows everything, after a while where it is about a subscription, and says what has been subscribed."""

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
