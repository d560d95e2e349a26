"""An aMQTT plugin that writes every event with its arguments as one line of JSON. It runs under
the real aMQTT and under Grapnel, and the results are compared.
"""

import json

from amqtt.plugins.base import BaseAuthPlugin, BasePlugin


def _text(data):
    return bytes(data).decode("latin-1")


class Everybody(BaseAuthPlugin):
    """Allows every client. Clients that aMQTT's own plugin allows are anonymous, and nothing is
    queued for them.
    """

    async def authenticate(self, *, session):
        return True


class Journal(BasePlugin):
    def write(self, event, *values):
        print("EVENT", json.dumps([event, *values]), flush=True)

    def message(self, event, client_id, message):
        self.write(event, client_id, message.topic, _text(message.data), message.qos, bool(message.retain))

    def session(self, event, client_id, session):
        self.write(
            event, client_id, session.username, session.password, session.clean_session, session.keep_alive,
            session.is_anonymous, session.parent, session.transitions.state, session.will_topic, session.will_qos, session.will_retain,
        )

    async def on_broker_pre_start(self):
        self.write("pre_start")

    async def on_broker_post_start(self):
        self.write("post_start")

    async def on_broker_pre_shutdown(self):
        self.write("pre_shutdown")

    async def on_broker_post_shutdown(self):
        self.write("post_shutdown")

    async def close(self):
        self.write("close")

    async def on_broker_client_connected(self, *, client_id, client_session):
        self.session("connected", client_id, client_session)

    async def on_broker_client_disconnected(self, *, client_id, client_session):
        self.session("disconnected", client_id, client_session)

    async def on_broker_client_subscribed(self, *, client_id, topic, qos):
        self.write("subscribed", client_id, topic, qos)

    async def on_broker_client_unsubscribed(self, *, client_id, topic):
        self.write("unsubscribed", client_id, topic)

    async def on_broker_message_received(self, *, client_id, message):
        self.message("received", client_id, message)

    async def on_broker_message_broadcast(self, *, client_id, message):
        self.message("broadcast", client_id, message)
        if message.topic.startswith("mark/"):
            # The end of a step.
            self.write("step", message.topic[5:])

    async def on_broker_retained_message(self, *, client_id, retained_message):
        source = retained_message.source_session
        self.write(
            "retained", client_id, retained_message.topic, _text(retained_message.data), retained_message.qos, source and source.client_id,
        )

    async def on_mqtt_packet_received(self, *, packet, session=None):
        self.packet("packet_in", packet, session)

    async def on_mqtt_packet_sent(self, *, packet, session=None):
        self.packet("packet_out", packet, session)

    def packet(self, event, packet, session):
        header = packet.variable_header
        details = {}
        for name in ("packet_id", "topic_name", "return_code", "session_parent"):
            if hasattr(header, name):
                details[name] = getattr(header, name)
        if hasattr(packet, "data") and packet.data is not None:
            details["data"] = _text(packet.data)
        for name in ("return_codes", "topics"):
            if hasattr(packet.payload, name):
                details[name] = getattr(packet.payload, name)
        flags = packet.fixed_header.flags
        self.write(event, session and session.client_id, type(packet).__name__, flags, details)
