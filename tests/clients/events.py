"""What paho_driver.py and aiomqtt_driver.py share: commands as lines of JSON on the input, events as lines of JSON on the output."""

import json
import sys
import threading

# The timeout of the test.
PATIENCE_S = 20

_OUTPUT = threading.Lock()


def say(event, **details):
    """Reports an event. Callbacks come from the library's own thread."""
    with _OUTPUT:
        sys.stdout.write(json.dumps({"event": event, **details}) + "\n")
        sys.stdout.flush()


def say_message(message):
    """Reports a received message."""
    say(
        "message",
        topic=str(message.topic),
        payload=bytes(message.payload).hex(),
        qos=message.qos,
        retain=bool(message.retain),
    )


def refusal(error):
    """The error message of the library, or the type of the error if there is none."""
    return str(error) or type(error).__name__
