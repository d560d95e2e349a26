"""Hooks for EMQX's Python extension SDK, as its users write them: a client with a user name may
publish and subscribe.
"""

from emqx_extension.hooks import EmqxHookSdk, hooks_handler
from emqx_extension.types import EMQX_CLIENTINFO_PARSE_T, EMQX_MESSAGE_PARSE_T


class Gate(EmqxHookSdk):
    @hooks_handler()
    def on_client_connect(self, conninfo: EMQX_CLIENTINFO_PARSE_T = None, props: dict = None, state: list = None):
        print(f"[on_client_connect] {conninfo.clientid} connects")

    @hooks_handler()
    def on_client_connected(self, clientinfo: EMQX_CLIENTINFO_PARSE_T, state: list = None):
        print(f"[on_client_connected] {clientinfo.clientid} connected")

    @hooks_handler()
    def on_client_check_acl(
        self, clientinfo: EMQX_CLIENTINFO_PARSE_T, pubsub: str, topic: str, result: bool, state: tuple
    ) -> bool:
        print(f"[on_client_check_acl] {clientinfo.username} {pubsub} {topic}")
        return clientinfo.username != ""

    @hooks_handler()
    def on_client_authenticate(self, clientinfo: EMQX_CLIENTINFO_PARSE_T, authresult, state) -> bool:
        return clientinfo.clientid != ""

    @hooks_handler()
    def on_message_publish(self, message: EMQX_MESSAGE_PARSE_T, state):
        print(f"[on_message_publish] {message.topic} {message.payload}")


gate = Gate(hook_module=f"{__name__}.gate")


def init():
    return gate.start()


def deinit():
    return
