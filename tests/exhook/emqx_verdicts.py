"""A user name, or the last level of a topic, selects the answer. On EMQX's own SDK."""

import time

from emqx_extension.hooks import EmqxHookSdk, hooks_handler
from call_printer import call_printed


def _answer(what):
    if what == "raise":
        raise RuntimeError("on purpose")
    if what == "slow":
        time.sleep(3600)
    return {
        "true": True,
        "false": False,
        "error": (1, "the database is away"),
        "text": "yes",
        "wrong": (0, "yes"),
        "number": 7,
        "list": [],
    }.get(what)


class Verdicts(EmqxHookSdk):
    @hooks_handler()
    def on_client_authenticate(self, clientinfo, authresult, state):
        return _answer(clientinfo.username)

    @hooks_handler()
    def on_client_check_acl(self, clientinfo, pubsub, topic, result, state):
        kind, _, what = topic.rpartition("/")
        return _answer(what) if kind == "acl" else None

    @hooks_handler()
    def on_message_publish(self, message, state):
        kind, _, what = message.topic.rpartition("/")
        if kind != "message":
            return None
        return {
            "topic": (0, [("topic", "changed/topic")]),
            "bytes": (0, [(b"topic", b"changed/topic")]),
            "payload": (0, [("payload", b"\xff\x00")]),
            "surrogates": (0, [("payload", message.payload + "\udcff")]),
            "text payload": (0, [("payload", "ä")]),
            "qos": (0, [("qos", 0)]),
            "all": (0, [("topic", "changed/all"), ("payload", "p"), ("qos", 2)]),
            "nothing": (0, []),
            "wrong qos": (0, [("qos", 3)]),
            "wrong pairs": (0, [1]),
        }.get(what, _answer(what))


verdicts = Verdicts(hook_module=f"{__name__}.verdicts")


def init():
    return verdicts.start()


def deinit():
    call_printed("deinit")
