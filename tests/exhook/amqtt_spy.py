"""aMQTT plugins as its documents show them: one that handles every event with all arguments, one
with few arguments, two for logins and two topic filters whose results are given by the input,
and one that uses its context. They print their calls.
"""

from dataclasses import dataclass

from amqtt.contexts import Action
from amqtt.mqtt.packet import MQTTPacket
from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin
from amqtt.session import ApplicationMessage, Session
from call_printer import call_printed


def _show(value):
    if isinstance(value, Session):
        names = "client_id username remote_address clean_session keep_alive will_flag will_topic will_message will_qos will_retain"
        return {"Session": {name: getattr(value, name) for name in names.split()}}
    if hasattr(value, "source_session"):
        return {"RetainedApplicationMessage": [value.topic, bytes(value.data), value.qos]}
    if isinstance(value, ApplicationMessage):
        return {"ApplicationMessage": [value.topic, bytes(value.data), value.qos, value.retain]}
    if isinstance(value, MQTTPacket):
        return {"packet": type(value).__name__}
    return value


def _tell(hook, **arguments):
    call_printed(hook, {name: _show(value) for name, value in arguments.items()})


class Spy(BasePlugin):
    @dataclass
    class Config:
        greeting: str
        times: int = 3

    async def on_broker_pre_start(self):
        _tell("on_broker_pre_start", greeting=self.config.greeting, times=self.config.times)

    async def on_broker_post_start(self):
        _tell("on_broker_post_start")

    async def on_broker_pre_shutdown(self):
        _tell("on_broker_pre_shutdown")

    async def on_broker_post_shutdown(self):
        _tell("on_broker_post_shutdown")

    async def close(self):
        _tell("close")

    async def on_mqtt_packet_received(self, *, packet, session=None):
        _tell("on_mqtt_packet_received", packet=packet, client=session.client_id if session else None)

    async def on_mqtt_packet_sent(self, *, packet, session=None):
        _tell("on_mqtt_packet_sent", packet=packet, client=session.client_id if session else None)

    async def on_broker_client_connected(self, *, client_id, client_session):
        _tell("on_broker_client_connected", client_id=client_id, client_session=client_session)

    async def on_broker_client_disconnected(self, *, client_id, client_session):
        _tell("on_broker_client_disconnected", client_id=client_id, client_session=client_session)

    async def on_broker_client_subscribed(self, *, client_id, topic, qos):
        _tell("on_broker_client_subscribed", client_id=client_id, topic=topic, qos=qos)

    async def on_broker_client_unsubscribed(self, *, client_id, topic):
        _tell("on_broker_client_unsubscribed", client_id=client_id, topic=topic)

    async def on_broker_message_received(self, *, client_id, message):
        _tell("on_broker_message_received", client_id=client_id, message=message)

    async def on_broker_message_broadcast(self, *, client_id, message):
        _tell("on_broker_message_broadcast", client_id=client_id, message=message)

    async def on_broker_retained_message(self, *, client_id, retained_message):
        _tell("on_broker_retained_message", client_id=client_id, retained_message=retained_message)


class Few(BasePlugin):
    """Takes some of the arguments by name, and one with a default."""

    async def on_broker_client_connected(self, *, client_id):
        _tell("on_broker_client_connected", client_id=client_id)

    async def on_broker_client_disconnected(self, *, client_session):
        _tell("on_broker_client_disconnected", username=client_session.username)

    async def on_broker_client_subscribed(self, *, topic, mine="default"):
        _tell("on_broker_client_subscribed", topic=topic, mine=mine)

    async def on_broker_client_unsubscribed(self):
        _tell("on_broker_client_unsubscribed")

    async def on_broker_message_received(self, **arguments):
        _tell("on_broker_message_received", **arguments)

    async def on_broker_message_broadcast(self, *, message):
        _tell("on_broker_message_broadcast", message=message)


def _answer(word):
    if word == "raise":
        raise RuntimeError("on purpose")
    return {"true": True, "false": False}.get(word)


class _Login(BaseAuthPlugin):
    """The user name contains a result for each of two plugins: true-none."""

    async def authenticate(self, *, session):
        words = (session.username or "none-none").split("-")
        _tell("authenticate", client=session.client_id, password=session.password)
        return _answer(words[self.which])


class LoginA(_Login):
    which = 0


class LoginB(_Login):
    which = 1


class _Filter(BaseTopicPlugin):
    """The topic contains the action, and a result for each of two plugins: receive/true-none."""

    async def topic_filtering(self, *, session=None, topic=None, action=None):
        _tell("topic_filtering", client=session.client_id, topic=topic, action=str(action.value))
        meant, _, words = topic.partition("/")
        return _answer(words.split("-")[self.which]) if isinstance(action, Action) and action == meant else None


class FilterA(_Filter):
    which = 0


class FilterB(_Filter):
    which = 1


class Acts(BasePlugin):
    """Uses its context as the topic says."""

    async def on_broker_message_received(self, *, client_id, message):
        context = self.context
        if message.topic == "do/broadcast":
            await context.broadcast_message("from/plugin", b"\xffhi", 1)
        elif message.topic == "do/retain":
            await context.retain_message("kept", bytes(message.data), 1)
        elif message.topic == "do/subscribe":
            await context.add_subscription(client_id, "added/#", 1)
        elif message.topic == "do/look":
            _tell(
                "look",
                sessions=sorted(session.client_id for session in context.sessions),
                mine=context.get_session(client_id).username,
                nobody=context.get_session("nobody"),
                subscriptions=sorted((f, s.client_id, qos) for f, those in context.subscriptions.items() for s, qos in those),
                retained=sorted((topic, bytes(kept.data)) for topic, kept in context.retained_messages.items()),
            )
