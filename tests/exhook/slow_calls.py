"""Takes some time for a publish to `slow/…`, in parallel or one after the other, and marks each
answer.
"""

import asyncio
import os
import time

from grapnel_exhook import AuthenticateEvent, MessageEvent, Modify, on

MARK = os.environ["MARK_FILE"]
with open(MARK) as file:
    mark = file.read()

if os.environ.get("LASTING") == "beside":

    @on.message_publish
    async def publish(event: MessageEvent) -> Modify:
        if event.message.topic.startswith("slow/"):
            await asyncio.sleep(3)
        return Modify(payload=mark)

    @on.client_authenticate
    async def login(event: AuthenticateEvent) -> bool:
        if event.client.username == "slow":
            await asyncio.sleep(3)
        return True

else:

    @on.message_publish
    def publish(event: MessageEvent) -> Modify:
        if event.message.topic.startswith("slow/"):
            time.sleep(0.5)
        return Modify(payload=mark)

    @on.client_authenticate
    def login(event: AuthenticateEvent) -> bool:
        if event.client.username == "slow":
            time.sleep(0.5)
        return True
