"""Answers each message with its working directory and environment, as JSON."""

import json
import os
import sys

from grapnel_exhook import Modify, on


@on.message_publish
def publish(event):
    return Modify(payload=json.dumps({"cwd": os.getcwd(), "environment": dict(os.environ), "path": sys.path}))
