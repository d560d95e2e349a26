"""Continues every message with a mark; ends at `end`, stops at `stop`; every process but the first
starts slowly.
"""

import os
import signal
import time

from grapnel_exhook import AuthorizeEvent, ConnectedEvent, MessageEvent, Modify, on

seen = os.environ.get("MOODY_SEEN", "")
if seen and os.path.exists(seen):
    time.sleep(float(os.environ.get("MOODY_START_S", "1")))
elif seen:
    open(seen, "w").close()


@on.client_connected
def connected(event: ConnectedEvent) -> None:
    pass


@on.client_authorize
def authorize(event: AuthorizeEvent) -> bool:
    return True


@on.message_publish
def publish(event: MessageEvent) -> Modify:
    if event.message.topic == "end":
        os.kill(os.getpid(), signal.SIGKILL)
    if event.message.topic == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    return Modify(payload=event.message.payload + b" marked")
