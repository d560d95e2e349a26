"""Answers with its process number, and ends slowly, with lines, a log record, a message, a file
and an exception.
"""

import logging
import os
import time

from grapnel_exhook import MessageEvent, Modify, broker, on

log = logging.getLogger("shutdown")


@on.message_publish
def publish(event: MessageEvent) -> Modify:
    return Modify(payload=str(os.getpid()))


def close() -> None:
    log.warning("begins")
    # Longer than a shutdown that is not waited for may take.
    time.sleep(float(os.environ.get("FAREWELL_S", "2.2")))
    for n in range(2000):
        print("last line", n)
    log.warning("all is closed")
    broker.publish("shutdown", str(os.getpid()))
    with open(os.environ["FAREWELLS"], "a") as file:
        file.write(f"{os.getpid()}\n")
    raise RuntimeError("failed on purpose")
