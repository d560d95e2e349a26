"""Hooks every point of EMQX on its own SDK, with the SDK's signatures, and prints its calls."""

from emqx_extension.hooks import EmqxHookSdk, hooks_handler
from call_printer import call_printed


class Spy(EmqxHookSdk):
    @hooks_handler()
    def on_client_connect(self, conninfo=None, props=None, state=None):
        call_printed("client_connect", conninfo, props, state)

    @hooks_handler()
    def on_client_connack(self, conninfo, props, state):
        call_printed("client_connack", conninfo, props, state)

    @hooks_handler()
    def on_client_connected(self, clientinfo, state):
        call_printed("client_connected", clientinfo, state)

    @hooks_handler()
    def on_client_disconnected(self, clientinfo, reason, state):
        call_printed("client_disconnected", clientinfo, reason, state)

    @hooks_handler()
    def on_client_authenticate(self, clientinfo, authresult, state):
        call_printed("client_authenticate", clientinfo, authresult, state)
        # A client with this name is allowed; for others the broker decides.
        return True if clientinfo.username == "alice" else None

    @hooks_handler()
    def on_client_check_acl(self, clientinfo, pubsub, topic, result, state):
        call_printed("client_check_acl", clientinfo, pubsub, topic, result, state)

    @hooks_handler()
    def on_client_subscribe(self, clientinfo, props, topics, state):
        call_printed("client_subscribe", clientinfo, props, topics, state)

    @hooks_handler()
    def on_client_unsubscribe(self, clientinfo, props, topics, state):
        call_printed("client_unsubscribe", clientinfo, props, topics, state)

    @hooks_handler()
    def on_session_created(self, clientinfo, state):
        call_printed("session_created", clientinfo, state)

    @hooks_handler()
    def on_session_subscribed(self, clientinfo, topic, opts, state):
        call_printed("session_subscribed", clientinfo, topic, opts, state)

    @hooks_handler()
    def on_session_unsubscribed(self, clientinfo, topic, state):
        call_printed("session_unsubscribed", clientinfo, topic, state)

    @hooks_handler()
    def on_session_resumed(self, clientinfo, state):
        call_printed("session_resumed", clientinfo, state)

    @hooks_handler()
    def on_session_discarded(self, clientinfo, state):
        call_printed("session_discarded", clientinfo, state)

    @hooks_handler()
    def on_session_takeovered(self, clientinfo, state):
        call_printed("session_takeovered", clientinfo, state)

    @hooks_handler()
    def on_session_terminated(self, clientinfo, reason, state):
        call_printed("session_terminated", clientinfo, reason, state)

    @hooks_handler()
    def on_message_publish(self, message, state):
        call_printed("message_publish", message, state)

    @hooks_handler()
    def on_message_delivered(self, clientinfo, message, state):
        call_printed("message_delivered", clientinfo, message, state)

    @hooks_handler()
    def on_message_acked(self, clientinfo, message, state):
        call_printed("message_acked", clientinfo, message, state)

    @hooks_handler()
    def on_message_dropped(self, message, reason, state):
        call_printed("message_dropped", message, reason, state)


spy = Spy(hook_module=f"{__name__}.spy")


def init():
    return spy.start()


def deinit():
    call_printed("deinit")
