"""aMQTT's plugins: events with their arguments, decisions and their combination, configuration,
context, bundled plugins.

Expectations come from aMQTT's documents and from the calls of its own broker."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Start, recorded
from fake_broker import POINTS, FakeBroker, Refused, message

pytest.importorskip("amqtt")

EVENTS = """
    from amqtt.plugins.base import BasePlugin
    from amqtt.session import ApplicationMessage, Session
    from amqtt.mqtt.packet import MQTTPacket
    from amqtt.mqtt.publish import PublishPacket

    def show(value):
        if isinstance(value, Session):
            return ("session", value.client_id, value.transitions.state)
        if isinstance(value, ApplicationMessage):
            packet = value.publish_packet
            return ("message", value.topic, bytes(value.data), value.qos, value.retain, packet and type(packet).__name__)
        if isinstance(value, MQTTPacket):
            return ("packet", type(value).__name__)
        return value

    class All(BasePlugin):
        async def on_mqtt_packet_received(self, *, packet, session):
            self.tell("mqtt_packet_received", packet, session)
        async def on_mqtt_packet_sent(self, *, packet, session):
            self.tell("mqtt_packet_sent", packet, session)
        async def on_broker_pre_start(self):
            self.tell("broker_pre_start")
        async def on_broker_post_start(self):
            self.tell("broker_post_start")
        async def on_broker_pre_shutdown(self):
            self.tell("broker_pre_shutdown")
        async def on_broker_post_shutdown(self):
            self.tell("broker_post_shutdown")
        async def on_broker_client_connected(self, *, client_id, client_session):
            self.tell("broker_client_connected", client_id, client_session)
        async def on_broker_client_disconnected(self, *, client_id, client_session):
            self.tell("broker_client_disconnected", client_id, client_session)
        async def on_broker_client_subscribed(self, *, client_id, topic, qos):
            self.tell("broker_client_subscribed", client_id, topic, qos)
        async def on_broker_client_unsubscribed(self, *, client_id, topic):
            self.tell("broker_client_unsubscribed", client_id, topic)
        async def on_broker_message_received(self, *, client_id, message):
            self.tell("broker_message_received", client_id, message)
        async def on_broker_message_broadcast(self, *, client_id, message):
            self.tell("broker_message_broadcast", client_id, message)
        async def on_broker_retained_message(self, *, client_id, retained_message):
            self.tell("broker_retained_message", client_id, retained_message)
        async def close(self):
            self.tell("close")
        def tell(self, name, *values):
            print(repr((name, *(show(value) for value in values))))
"""
PLUGIN = {"plugins": {"hooks.All": {}}}
PUBLISH = b"\x33\x0b\x00\x03a/b\x00\x05\xffhi!"
IN = ("message", "a/b", b"\xffhi!", 1, True, "PublishPacket")
ABOUT = ("message", "a/b", b"\xffhi", 1, True, "PublishPacket")
ME, GONE = ("session", "c1", "connected"), ("session", "c1", "disconnected")

TABLE: list[tuple[str, int, Any, list[tuple]]] = [
    ("client.connected", 1, [], [("broker_client_connected", "c1", ME)]),
    ("packet.received", 1, [12, b"\xc0\x00"], [("mqtt_packet_received", ("packet", "PingReqPacket"), ME)]),
    (
        "packet.received",
        1,
        [3, PUBLISH],
        [("mqtt_packet_received", ("packet", "PublishPacket"), ME), ("broker_message_received", "c1", IN)],
    ),
    ("packet.sent", 1, [4, b"\x40\x02\x00\x05"], [("mqtt_packet_sent", ("packet", "PubackPacket"), ME)]),
    ("message.publish", 1, message("a/b", b"\xffhi", retain=True), [("broker_message_broadcast", "c1", ABOUT)]),
    ("message.publish", 0, message("$SYS/x", b"ours"), []),
    ("session.subscribed", 1, ["a/#", 0b1101, True, None], [("broker_client_subscribed", "c1", "a/#", 1)]),
    ("session.unsubscribed", 1, ["a/#", "unsubscribe"], [("broker_client_unsubscribed", "c1", "a/#")]),
    ("session.unsubscribed", 1, ["a/#", "revoked"], []),
    (
        "message.retained",
        0,
        [message("a/b", b"\xffhi", retain=True), 0],
        [("broker_retained_message", None, ABOUT[:5] + (None,))],
    ),
    (
        "message.retained",
        0,
        [message("a/b", b"", retain=True), 2],
        [("broker_retained_message", None, ("message", "a/b", b"", 1, True, None))],
    ),
    ("message.retained", 0, [message("a/b", b"\xffhi", retain=True), 3], []),
    ("client.disconnected", 1, [0, "normal"], [("broker_client_disconnected", "c1", GONE)]),
]


@pytest.fixture
def amqtt(start: Start) -> Any:
    def amqtt(source: str | None, config: dict[str, Any], **setup: Any) -> FakeBroker:
        return start(source, driver="amqtt", init_module="", config=config, **setup)

    return amqtt


def test_every_event_gets_its_arguments(amqtt: Any) -> None:
    from amqtt.events import BrokerEvents, MQTTEvents

    broker = amqtt(EVENTS, PLUGIN)
    assert not any(hook["answers"] for hook in broker.hooks.values())
    assert recorded(broker) == [("broker_pre_start",), ("broker_post_start",)]
    broker.describe(1, version=4)
    told = 2
    for point, client, data, expected in TABLE:
        broker.notify(point, client, data)
        seen = recorded(broker)
        assert seen[told:] == expected, point
        told = len(seen)
    assert broker.stop() == 0
    last = [("broker_pre_shutdown",), ("broker_post_shutdown",), ("close",)]
    assert recorded(broker)[told:] == last and broker.lines().count("\n") == 0, broker.lines()
    fired = {name for name, *_ in recorded(broker)}
    assert fired == {event.value for event in (*BrokerEvents, *MQTTEvents)} | {"close"}


def test_a_plugin_loaded_before_the_broker_has_started_gets_post_start_then(amqtt: Any) -> None:
    broker = amqtt(EVENTS, PLUGIN, running=False)
    assert recorded(broker) == [("broker_pre_start",)]
    broker.notify("broker.started", 0, ["1", 1])
    assert recorded(broker) == [("broker_pre_start",), ("broker_post_start",)]
    broker.notify("broker.stopping", 0, ["1", 1])
    broker.stop()
    assert [name for name, *_ in recorded(broker)].count("broker_pre_shutdown") == 1


@pytest.mark.parametrize("signature", ["*, client_id", "client_id", "**kwargs", "*, client_id, other=None"])
def test_a_method_gets_only_what_it_accepts(amqtt: Any, signature: str) -> None:
    source = f"""
        from amqtt.plugins.base import BasePlugin
        class Few(BasePlugin):
            async def on_broker_client_connected(self, {signature}):
                print(repr(("connected", client_id if "kwargs" not in locals() else kwargs["client_id"])))
            async def on_broker_message_received(self, {signature}):
                print(repr(("received",)))
    """
    broker = amqtt(source, {"plugins": ["hooks.Few"]})
    assert broker.ready["hooks"][-1] is not None and "packet.received" in broker.hooks
    broker.describe(1, version=4)
    broker.notify("client.connected", 1, [])
    broker.notify("packet.received", 1, [3, PUBLISH])
    broker.notify("packet.received", 1, [12, b"\xc0\x00"])
    assert recorded(broker) == [("connected", "c1"), ("received",)] and "rror" not in broker.lines()


def test_an_exception_in_every_method_fails_that_call_alone(amqtt: Any) -> None:
    source = EVENTS.replace("print(repr((name, *(show(value) for value in values))))", "raise ValueError(name)")
    broker = amqtt(source, PLUGIN)
    broker.describe(1, version=4)
    for point, client, data, _ in TABLE:
        broker.notify(point, client, data)
    assert broker.stop() == 0
    for name in ("broker_pre_start", "broker_post_start", "mqtt_packet_received", "broker_message_broadcast", "close"):
        assert f"ValueError: {name}" in broker.lines()


def test_a_method_that_waits_does_not_hold_that_of_another_plugin(amqtt: Any) -> None:
    source = """
        import asyncio
        from amqtt.plugins.base import BasePlugin
        gate = asyncio.Event()
        class First(BasePlugin):
            async def on_broker_client_connected(self, *, client_id):
                await gate.wait()
                print(repr(("first", client_id)))
        class Second(BasePlugin):
            async def on_broker_client_connected(self, *, client_id):
                print(repr(("second", client_id)))
                if client_id == "c2": gate.set()
    """
    broker = amqtt(source, {"plugins": {"hooks.First": None, "hooks.Second": None}})
    broker.describe(1, client_id="c1")
    broker.describe(2, client_id="c2")
    broker.calls([[0, POINTS["client.connected"], 1, []]])
    broker.until_printed("('second', 'c1')")
    broker.notify("client.connected", 2, [])
    broker.until_printed("('first', 'c1')")
    broker.until_printed("('first', 'c2')")
    assert set(recorded(broker)[-3:]) == {("second", "c2"), ("first", "c1"), ("first", "c2")}


# Verdicts

VERDICTS = """
    from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
    from amqtt.contexts import Action
    def opinion(name):
        return {"y": True, "n": False, "-": None, "x": 1 / 0 if name == "x" else 0}[name]
    class A(BaseAuthPlugin):
        at = 0
        async def authenticate(self, *, session):
            print(repr((session.client_id, session.username, session.password, session.remote_address, session.remote_port,
                        session.clean_session, session.keep_alive, session.will_flag, session.will_topic,
                        session.will_message, session.will_qos, session.will_retain)))
            return opinion(session.username[self.at])
    class B(A):
        at = 1
    class C(BaseTopicPlugin):
        at = 0
        async def topic_filtering(self, *, session, topic, action):
            assert isinstance(action, Action)
            print(repr((session.client_id, topic, str(action.value))))
            return opinion(topic[self.at])
    class D(C):
        at = 1
"""
BOTH = {"plugins": {"hooks.A": {}, "hooks.B": {}, "hooks.C": {}, "hooks.D": {}}}
OPINIONS = [
    ("yy", True, True), ("yn", False, False), ("ny", False, False), ("y-", True, True), ("-y", True, True),
    ("-n", False, False), ("nn", False, False), ("--", False, None), ("yx", "fails", "fails"),
]  # fmt: skip


def test_verdicts_add_up_one_yes_and_no_no(amqtt: Any) -> None:
    broker = amqtt(VERDICTS, BOTH)
    assert broker.hooks["client.authenticate"]["answers"] and broker.hooks["client.authorize"]["answers"]
    assert broker.hooks["client.authorize"]["deliver"] is True
    for number, (opinions, login, topic) in enumerate(OPINIONS, 1):
        broker.describe(number, username=opinions)
        for point, data, expected in [
            ("client.authenticate", [0, None, None], login),
            ("client.authorize", [1, opinions, 0, False, 0], topic),
        ]:
            code, value = broker.request(point, number, data)
            if expected == "fails":
                assert code == 2 and "ZeroDivisionError" in value
            elif expected is None:
                assert (code, value) == (0, None)
            else:
                assert (code, value) == (1, {"allow": expected}), (opinions, point)


def test_what_plugins_see_of_a_login(amqtt: Any) -> None:
    broker = amqtt(VERDICTS, {"plugins": {"hooks.A": {}}})
    will = {"topic": "w", "payload": b"\xff", "qos": 2, "retain": True}
    broker.describe(1, username="y", password=b"\xffpw", will=will, clean_start=False)
    broker.request("client.authenticate", 1, [0, None, None])
    broker.describe(2, username="y", password=None, will=None)
    broker.request("client.authenticate", 2, [0, None, None])
    assert recorded(broker) == [
        ("c1", "y", "\udcffpw", "10.0.0.7", 50123, False, 60, True, "w", b"\xff", 2, True),
        ("c1", "y", None, "10.0.0.7", 50123, True, 60, False, None, None, 0, False),
    ]


def test_actions_of_topic_filtering(amqtt: Any) -> None:
    broker = amqtt(VERDICTS, {"plugins": {"hooks.C": {}}})
    broker.describe()
    for action in (1, 2, 3, 4):
        broker.request("client.authorize", 1, [action, "y", 0, False, 0])
    assert [action for _, _, action in recorded(broker)] == ["publish", "subscribe", "publish", "receive"]


def test_a_session_is_the_same_object_from_login_to_its_end(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BaseAuthPlugin
        class A(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes["role"] = session.password
                session.is_anonymous = True
                return True
            async def on_broker_client_connected(self, *, client_id, client_session):
                print(repr((client_session.attributes, client_session.is_anonymous, client_session.password,
                            self.context.get_session(client_id) is client_session)))
            on_broker_client_disconnected = on_broker_client_connected
    """
    broker = amqtt(source, {"plugins": {"hooks.A": {}}})
    broker.describe(1)
    broker.request("client.authenticate", 1, [0, None, None])
    broker.describe(1, password=None)
    broker.notify("client.connected", 1, [])
    broker.notify("client.disconnected", 1, [0, ""])
    assert recorded(broker) == [({"role": "secret"}, True, "secret", True)] * 2


def test_who_is_not_let_in_gets_no_session_and_changes_nobody_elses(amqtt: Any) -> None:
    from fake_broker import client

    source = """
        from amqtt.plugins.base import BaseAuthPlugin
        class A(BaseAuthPlugin):
            async def authenticate(self, *, session):
                return session.password == "right"
            async def on_mqtt_packet_received(self, *, packet, session=None):
                if type(packet).__name__ == "ConnectPacket":
                    print(repr(("connect", session)))
            async def on_mqtt_packet_sent(self, *, packet, session):
                print(repr(("sent", session.username, session.transitions.state)))
            async def on_broker_message_broadcast(self, *, client_id, message):
                print(repr(("in", [(s.username, s.password, s.keep_alive) for s in self.context.sessions])))
    """
    broker = amqtt(source, {"plugins": {"hooks.A": {}}})
    connect = packet(1, b"\0\4MQTT\4\2\0\x3c\0\2c1")
    connack = b"\x20\x02\x00\x05"
    keys = ("client_id", "username", "peer_host", "peer_port", "version")

    def comes(number: int, who: dict, in_or_out: bool) -> None:
        """Sends what the broker sends: the packet, the request, and the packet of the answer."""
        short = {key: who[key] for key in keys}
        broker.calls([[0, -1, number, short], [0, POINTS["packet.received"], number, [1, connect]], [0, -1, number, who]])
        code, value = broker.request("client.authenticate", number, [0, None, None])
        assert (code, value) == (1, {"allow": in_or_out})
        broker.calls([[0, -1, number, short]])
        broker.notify("packet.sent", number, [2, connack])
        if in_or_out:
            broker.notify("client.connected", number, [])

    right = client("c1", username="ann", password=b"right", peer_port=1, keep_alive_s=7, version=4)
    wrong = client("c1", username="admin", password=b"wrong", peer_port=2, keep_alive_s=9, version=4)
    comes(1, wrong, False)
    broker.calls([[0, -2, 1, None]])
    comes(2, right, True)
    broker.notify("message.publish", 2, message())
    # A sent packet alone does not mean that a client is in.
    broker.calls([[0, -1, 9, {**{key: wrong[key] for key in keys}, "client_id": "c9"}]])
    broker.notify("packet.sent", 9, [2, connack])
    # A packet to the other connection before its CONNECT is not taken for this one's.
    broker.calls([[0, -1, 2, {key: wrong[key] for key in keys}]])
    broker.notify("packet.sent", 2, [2, connack])
    comes(2, wrong, False)
    broker.calls([[0, -1, 2, {key: right[key] for key in keys}]])
    broker.notify("message.publish", 2, message())
    ann = ("in", [("ann", "right", 7)])
    refused = [("connect", None), ("sent", "admin", "new")]
    assert recorded(broker) == [*refused, ("connect", None), ("sent", "ann", "new"), ann, refused[1], refused[1], *refused, ann]


# Context

CONTEXT = """
    from amqtt.plugins.base import BasePlugin
    class Uses(BasePlugin):
        async def on_broker_post_start(self):
            assert self.context.config is not None and self.context.loop is not None
            self.context.logger.warning("hello")
            await self.context.broadcast_message("b/1", b"one")
            await self.context.broadcast_message("b/2", b"\\xff", 1)
            await self.context.retain_message("r/1", b"kept", 0)
            await self.context.retain_message("r/2", b"")
            await self.context.add_subscription("offline", "o/#", 1)
            await self.context.add_subscription("empty", None, None)
        async def on_broker_retained_message(self, *, client_id, retained_message):
            print(repr(("retained", retained_message.topic, bytes(retained_message.data))))
        async def on_broker_client_disconnected(self, *, client_id):
            context = self.context
            print(repr((
                sorted((s.client_id, s.transitions.state) for s in context.sessions),
                context.get_session("nobody"), context.get_session("c1").client_id,
                {t: bytes(m.data) for t, m in context.retained_messages.items()},
                {t: [(s.client_id, qos) for s, qos in subs] for t, subs in context.subscriptions.items()},
            )))
"""


def test_the_context_gives_commands_and_shows_tables(amqtt: Any) -> None:
    broker = amqtt(CONTEXT, {"plugins": {"hooks.Uses": {}}})
    broker.until(lambda: len(broker.commands) == 5)
    assert (2, "amqtt.broker.plugins.Uses: hello") in broker.log
    assert broker.commands == [
        ["publish", {"topic": "b/1", "payload": b"one", "qos": 2, "retain": False}],
        ["publish", {"topic": "b/2", "payload": b"\xff", "qos": 1, "retain": False}],
        ["publish", {"topic": "r/1", "payload": b"kept", "qos": 0, "retain": True, "store_only": True}],
        ["publish", {"topic": "r/2", "payload": b"", "qos": 0, "retain": True, "store_only": True}],
        ["subscribe", "offline", "o/#", 1],
    ]
    assert recorded(broker) == [("retained", "r/1", b"kept")]
    # The tables do not contain these sessions, because no client has begun them.
    assert "there is no session of empty, and only its client can begin one" in broker.lines()
    broker.describe(1, clean_start=False)
    broker.describe(2, client_id="c2")
    for number in (1, 2):
        broker.notify("client.connected", number, [])
        broker.notify("session.subscribed", number, ["a/#", number, True, None])
    broker.notify("session.subscribed", 1, ["b", 0, True, None])
    broker.notify("session.unsubscribed", 1, ["b", "unsubscribe"])
    broker.notify("message.retained", 0, [message("x", b"1", retain=True), 0])
    broker.notify("message.retained", 0, [message("y", b"1", retain=True), 1])
    broker.notify("message.retained", 0, [message("y", b"", retain=True), 2])
    broker.notify("client.disconnected", 1, [0, ""])
    sessions = [("c1", "disconnected"), ("c2", "connected")]
    tables = (None, "c1", {"r/1": b"kept", "x": b"1"})
    assert recorded(broker)[-1] == (sessions, *tables, {"a/#": [("c1", 1), ("c2", 2)]})
    # A session that ends is removed with its subscriptions; others are found again when the client
    # returns.
    broker.calls([[0, -2, 1, None]])
    broker.describe(3, clean_start=False)
    broker.notify("client.connected", 3, [])
    broker.notify("session.terminated", 2, [False, 0, "closed", 0])
    broker.notify("client.disconnected", 3, [0, ""])
    assert recorded(broker)[-1] == ([("c1", "disconnected")], *tables, {"a/#": [("c1", 1)]})


def test_sessions_that_nobody_has_begun_do_not_fill_the_log(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Restores(BasePlugin):
            async def on_broker_post_start(self):
                for number in range(1, 101):
                    await self.context.add_subscription(f"client{number}", None, None)
    """
    broker = amqtt(source, {"plugins": {"hooks.Restores": {}}})
    broker.until(lambda: "(64 so far)" in broker.lines())
    said = [text for _, text in broker.log if "there is no session of" in text]
    assert [text.split("session of ")[1].split(",")[0] for text in said] == [f"client{1 << power}" for power in range(7)]


def test_without_a_mirror_only_used_hooks_are_requested(amqtt: Any) -> None:
    broker = amqtt(VERDICTS, {"plugins": {"hooks.A": {}}, "mirror": False})
    assert list(broker.hooks) == ["client.authenticate"]


def test_tasks_of_plugins_go_on_and_give_commands(amqtt: Any) -> None:
    source = """
        import asyncio
        from amqtt.plugins.base import BasePlugin
        class Ticks(BasePlugin):
            async def on_broker_post_start(self):
                self.task = asyncio.ensure_future(self.tick())
            async def tick(self):
                for n in range(3):
                    await asyncio.sleep(0.01)
                    await self.context.broadcast_message(f"tick/{n}", b"")
    """
    broker = amqtt(source, {"plugins": {"hooks.Ticks": {}}})
    broker.until(lambda: len(broker.commands) == 3)


# Packets

def test_packets_of_3_1_1_and_5_are_aMQTTs_objects(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Packets(BasePlugin):
            async def on_mqtt_packet_received(self, *, packet, session):
                kind = type(packet).__name__
                header, payload = packet.variable_header, packet.payload
                print(repr((kind, packet.fixed_header.packet_type, header and {
                    name: getattr(header, name) for name in ("packet_id", "topic_name", "keep_alive", "proto_level", "return_code")
                    if hasattr(header, name)}, payload and {
                    name: getattr(payload, name) for name in ("data", "topics", "return_codes", "client_id", "will_topic",
                    "will_message", "username", "password") if hasattr(payload, name)}, packet.bytes_length)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Packets": {}}, "mirror": False})
    broker.describe(4, version=4)
    broker.describe(5, version=5)
    connect = (
        "ConnectPacket", 1, {"keep_alive": 60, "proto_level": 5},
        {"client_id": "c1", "will_topic": "w", "will_message": b"\xff", "username": "ann", "password": "pw"},
    )  # fmt: skip
    cases: list[tuple[int, bytes, tuple]] = [
        (0, packet(1, b"\0\4MQTT\5\xc6\0\x3c" + b"\5\x11\0\0\0\x0a" + b"\0\2c1" + b"\2\1\1" + b"\0\1w\0\1\xff\0\3ann\0\2pw"), connect),
        (5, packet(3, b"\0\3a/b\0\5" + b"\3\x23\0\7" + b"pay", 2), ("PublishPacket", 3, {"packet_id": 5, "topic_name": "a/b"}, {"data": b"pay"})),
        (
            5,
            packet(3, b"\0\0" + b"\x18\1\1\2\0\0\0\1\3\0\1c\x0b\x80\1\x26\0\1k\0\1v\x23\0\7" + b"", 0),
            ("PublishPacket", 3, {"packet_id": None, "topic_name": "a/b"}, {"data": b""}),
        ),
        (4, packet(3, b"\0\1t" + b"\0\xff", 0), ("PublishPacket", 3, {"packet_id": None, "topic_name": "t"}, {"data": b"\0\xff"})),
        (5, packet(4, b"\0\5\x10\0"), ("PubackPacket", 4, {"packet_id": 5}, None)),
        (5, packet(6, b"\0\5", 2), ("PubrelPacket", 6, {"packet_id": 5}, None)),
        (5, packet(8, b"\0\6\2\x0b\1\0\3a/#\x2d", 2), ("SubscribePacket", 8, {"packet_id": 6}, {"topics": [("a/#", 1)]})),
        (4, packet(8, b"\0\6\0\3a/#\1\0\1b\2", 2), ("SubscribePacket", 8, {"packet_id": 6}, {"topics": [("a/#", 1), ("b", 2)]})),
        (5, packet(10, b"\0\6\0\0\3a/#", 2), ("UnsubscribePacket", 10, {"packet_id": 6}, {"topics": ["a/#"]})),
        (5, packet(9, b"\0\6\0\1\x87"), ("SubackPacket", 9, {"packet_id": 6}, {"return_codes": [1, 0x87]})),
        (5, packet(11, b"\0\6\0\0"), ("UnsubackPacket", 11, {"packet_id": 6}, None)),
        (5, packet(2, b"\1\0\3\x21\0\x0a"), ("ConnackPacket", 2, {"return_code": 0}, None)),
        (5, packet(14, b"\x04\0"), ("DisconnectPacket", 14, None, None)),
        (4, packet(12, b""), ("PingReqPacket", 12, None, None)),
    ]
    for client, data, _ in cases:
        broker.notify("packet.received", client, [data[0] >> 4, data])
    broker.notify("packet.received", 5, [15, packet(15, b"\x18\0")])
    seen = recorded(broker)
    assert broker.lines().count("\n") == 0, broker.lines()
    for (kind, number, header, payload, _), (_, data, expected) in zip(seen, cases, strict=True):
        assert (kind, number, header or None, payload or None) == expected, data


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    assert len(body) < 128
    return bytes([kind << 4 | flags, len(body)]) + body


# Configuration


def entry_points(tmp_path: Path, namespace: str, **points: str) -> None:
    folder = tmp_path / "shop-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {value}" for name, value in points.items())
    (folder / "entry_points.txt").write_text(f"[{namespace}]\n{lines}\n")


def test_a_configuration_in_a_yaml_file_as_it_is(amqtt: Any, tmp_path: Path) -> None:
    (tmp_path / "amqtt.yaml").write_text(
        """
listeners:
  default:
    type: tcp
    bind: 0.0.0.0:1883
  tls:
    type: tcp
    bind: 0.0.0.0:8883
    ssl: on
    certfile: /nowhere/cert.pem
    keyfile: /nowhere/key.pem
timeout-disconnect-delay: 2
sys_interval: 20
unheard-of: 5
plugins:
  - amqtt.plugins.authentication.AnonymousAuthPlugin:
      allow_anonymous: false
  - hooks.Mine:
      word: hello
      many: [1, 2]
  - hooks.Plain
"""
    )
    source = """
        from dataclasses import dataclass, field
        from amqtt.plugins.base import BasePlugin
        class Plain(BasePlugin):
            pass
        class Mine(BasePlugin):
            @dataclass
            class Config:
                word: str
                many: list[int] = field(default_factory=list)
                left: int = 7
            async def on_broker_post_start(self):
                print(repr((self.config.word, self.config.many, self.config.left)))
    """
    for config in ({"config": "amqtt.yaml"}, {"config": str(tmp_path / "amqtt.yaml")}):
        broker = amqtt(source, config)
        assert recorded(broker) == [("hello", [1, 2], 7)]
        assert "listeners" in broker.lines() and "unheard-of" in broker.lines()
        broker.describe(1, username=None)
        broker.describe(2)
        assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": False})
        assert broker.request("client.authenticate", 2, [0, None, None]) == (1, {"allow": True})
    assert amqtt(source, {}, path=[str(tmp_path / "amqtt.yaml")]).hooks


def test_aliases_are_entry_points_with_the_old_sections(amqtt: Any, tmp_path: Path) -> None:
    entry_points(tmp_path, "shop.plugins", mine="hooks:A", other="hooks:B", topics="hooks:C", more="hooks:D")
    config = {
        "plugin_namespace": "shop.plugins",
        "plugins": ["mine", "other", "topics", "more"],
        "auth": {"plugins": ["other"]},
        "topic-check": {"enabled": True, "plugins": ["topics"]},
    }
    broker = amqtt(VERDICTS, config)
    broker.describe(1, username="ny")
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
    assert broker.request("client.authorize", 1, [1, "yn", 0, False, 0]) == (1, {"allow": True})
    assert len(recorded(broker)) == 2


@pytest.mark.parametrize(
    ("section", "mounted"),
    [
        ({"enabled": True}, True), ({"enable": True}, True), ({"enable": False}, False), ({"enabled": False}, False),
        ({"plugins": ["topics"]}, False),
    ],
)  # fmt: skip
def test_topic_check_is_switched_by_both_names(amqtt: Any, tmp_path: Path, section: dict, mounted: bool) -> None:
    entry_points(tmp_path, "shop.plugins", mine="hooks:A", topics="hooks:C")
    broker = amqtt(VERDICTS, {"plugin_namespace": "shop.plugins", "auth": {}, "topic-check": section})
    assert ("client.authorize" in broker.hooks) is mounted
    assert "client.authenticate" in broker.hooks


def test_topic_check_without_auth_is_what_amqtt_makes_of_it(amqtt: Any, tmp_path: Path) -> None:
    """The installed package for comparison: it uses its default plugins, and anonymous clients
    connect."""
    from amqtt.contexts import BrokerConfig

    entry_points(tmp_path, "shop.plugins", mine="hooks:A", topics="hooks:C")
    section = {"enabled": True, "plugins": ["topics"]}
    theirs = BrokerConfig.from_dict({"topic-check": dict(section)})
    broker = amqtt(VERDICTS, {"plugin_namespace": "shop.plugins", "topic-check": section})
    assert "amqtt.plugins.authentication.AnonymousAuthPlugin" in theirs.plugins  # type: ignore[operator]
    broker.describe(1, username=None)
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
    assert "client.authorize" not in broker.hooks


def test_without_a_list_all_authentication_plugins_are_called(amqtt: Any, tmp_path: Path) -> None:
    entry_points(tmp_path, "shop.plugins", mine="hooks:A", other="hooks:B")
    broker = amqtt(VERDICTS, {"plugin_namespace": "shop.plugins", "auth": {}})
    broker.describe(1, username="yn")
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": False})


def test_an_alias_with_options_is_a_class_with_options(amqtt: Any) -> None:
    broker = amqtt("", {"plugins": {"auth_anonymous": {"allow_anonymous": False}}})
    broker.describe(1, username=None)
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": False})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"config": "nowhere.yaml"}, "nowhere.yaml is in none of"),
        ({"plugins": {"hooks.Nothing": {}}}, "Plugin import failed: hooks.Nothing"),
        ({"plugins": {"nowhere.Nothing": {}}}, "Plugin import failed: nowhere.Nothing"),
        ({"plugins": ["nothing"]}, "neither a class path nor an entry point of amqtt.broker.plugins; it has auth_anonymous"),
        ({"plugins": {"hooks.A": {"unknown": 1}}}, '^the options of hooks.A do not fit its Config: can not match "unknown"'),
        ({"plugins": {"hooks.Wants": None}}, '^the options of hooks.Wants do not fit its Config: missing value for field "number"'),
        ({"plugins": {"hooks.Wants": {"number": "two"}}}, '^the options of hooks.Wants .*wrong value type for field "number"'),
        ({"plugins": {"hooks.Odd": {}}}, "should be a dataclass"),
        ({"plugins": {"hooks.NotOne": {}}}, "not a subclass"),
        ({"plugins": {"hooks.Sync": {}}}, "not a coroutine"),
        ({"plugins": {"hooks.Fails": {}}}, "ValueError: at once"),
        ({"plugins": {}}, "names no plugins"),
        ({"plugins": [5]}, "can not match type"),
    ],
)
def test_what_cannot_be_loaded_says_why(amqtt: Any, config: dict, says: str) -> None:
    source = VERDICTS + """
    from dataclasses import dataclass
    from amqtt.plugins.base import BasePlugin
    class NotOne: pass
    class Wants(BasePlugin):
        @dataclass
        class Config:
            number: int
    class Odd(BasePlugin):
        class Config: pass
    class Sync(BasePlugin):
        def on_broker_client_connected(self, *, client_id): pass
    class Fails(BasePlugin):
        def __init__(self, context):
            raise ValueError("at once")
    """
    with pytest.raises(Refused, match=says):
        amqtt(source, config)


# aMQTT's own plugins


def request(broker: FakeBroker, client: int, topic: str, action: int = 1) -> bool | None:
    code, value = broker.request("client.authorize", client, [action, topic, 0, False, 0])
    assert code != 2, value
    return None if value is None else value["allow"]


def test_anonymous_auth(amqtt: Any) -> None:
    name = "amqtt.plugins.authentication.AnonymousAuthPlugin"
    for allowed, expected in [(True, [True, True]), (False, [False, True])]:
        broker = amqtt("", {"plugins": {name: {"allow_anonymous": allowed}}})
        broker.describe(1, username=None)
        broker.describe(2)
        assert [broker.request("client.authenticate", n, [0, None, None])[1]["allow"] for n in (1, 2)] == expected


def test_file_auth(amqtt: Any, tmp_path: Path) -> None:
    pytest.importorskip("pwdlib", reason="aMQTT has it since 0.12")
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    hashed = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=1024),)).hash("secret")
    (tmp_path / "passwd").write_text(f"# users\nann:{hashed}\n")
    name = "amqtt.plugins.authentication.FileAuthPlugin"
    broker = amqtt("", {"plugins": {name: {"password_file": str(tmp_path / "passwd")}}})
    cases = [("ann", b"secret", True), ("ann", b"wrong", False), ("bob", b"secret", False), (None, None, False)]
    for number, (username, password, _) in enumerate(cases, 1):
        broker.describe(number, username=username, password=password)
    answers = [broker.request("client.authenticate", n, [0, None, None]) for n in range(1, 5)]
    assert [value["allow"] for _, value in answers] == [expected for *_, expected in cases]
    broker.describe(9, password=b"\xff\xfe")
    code, value = broker.request("client.authenticate", 9, [0, None, None])
    assert code == 2 or value == {"allow": False}


def test_topic_taboo(amqtt: Any) -> None:
    broker = amqtt("", {"plugins": {"amqtt.plugins.topic_checking.TopicTabooPlugin": {}}})
    broker.describe(1)
    broker.describe(2, username="admin")
    assert [request(broker, 1, t) for t in ("prohibited", "data/classified", "free")] == [False, False, True]
    assert request(broker, 2, "top-secret") is True


def test_topic_access_control_list(amqtt: Any) -> None:
    name = "amqtt.plugins.topic_checking.TopicAccessControlListPlugin"
    options = {"acl": {"ann": ["a/#"], "anonymous": ["open"]}, "publish_acl": {"ann": ["a/+/set"]}}
    broker = amqtt("", {"plugins": {name: options}})
    broker.describe(1)
    broker.describe(2, username=None)
    assert [request(broker, 1, t, 2) for t in ("a/b/c", "b")] == [True, False]
    assert [request(broker, 1, t, 1) for t in ("a/b/set", "a/b")] == [True, False]
    assert [request(broker, 2, t, 2) for t in ("open", "a/b")] == [True, False]


def test_topic_access_control_list_of_the_old_sections(amqtt: Any) -> None:
    sections = {
        "auth": {"plugins": ["auth_anonymous"], "allow-anonymous": True},
        "topic-check": {
            "enabled": True, "plugins": ["topic_acl"], "subscribe-acl": {"ann": ["s"]}, "publish-acl": {"ann": ["p"]},
            "receive-acl": {"ann": ["r"]},
        },
    }  # fmt: skip
    broker = amqtt("", sections)
    broker.describe(1)
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
    assert [[request(broker, 1, t, a) for t in "spr"] for a in (2, 1, 4)] == [
        [True, False, False], [False, True, False], [False, False, True],
    ]  # fmt: skip


def test_event_and_packet_logger(amqtt: Any) -> None:
    plugins = {"plugins": {f"amqtt.plugins.logging_amqtt.{name}": {} for name in ("EventLoggerPlugin", "PacketLoggerPlugin")}}
    quiet = amqtt("", {**plugins, "mirror": False})
    # At info only two events are logged; no other hooks are requested.
    assert set(quiet.hooks) == {"client.connected", "client.disconnected"}
    quiet.describe()
    quiet.notify("client.connected", 1, [])
    assert "### 'on_broker_client_connected' EVENT FIRED ###" in quiet.lines()
    loud = amqtt("", {**plugins, "log_level": "debug"})
    loud.describe(1, version=4)
    for point, client, data, _ in TABLE:
        loud.notify(point, client, data)
    for event in ("message_received", "message_broadcast", "client_subscribed", "client_unsubscribed", "retained_message"):
        assert f"### 'on_broker_{event}' EVENT FIRED ###" in loud.lines()
    assert "c1 <-in-- PublishPacket(" in loud.lines() and "c1 -out-> PubackPacket(" in loud.lines()


def test_broker_sys(amqtt: Any) -> None:
    broker = amqtt("", {"plugins": {"amqtt.plugins.sys.broker.BrokerSysPlugin": {"sys_interval": 1}}})
    broker.describe(1, version=4)
    broker.notify("client.connected", 1, [])
    broker.notify("packet.received", 1, [3, PUBLISH])
    topics: dict[str, bytes] = {}

    def seen() -> bool:
        topics.update((command[1]["topic"], command[1]["payload"]) for command in broker.commands)
        return "$SYS/broker/cpu/maximum" in topics

    broker.until(seen)
    assert topics["$SYS/broker/version"].startswith(b"aMQTT version")
    assert topics["$SYS/broker/clients/connected"] == b"1"
    assert topics["$SYS/broker/messages/publish/received"] == b"1"
    assert topics["$SYS/broker/load/bytes/received"] == b"%d" % len(PUBLISH)
    assert broker.stop() == 0


def test_the_default_plugins_where_the_configuration_names_none(amqtt: Any) -> None:
    broker = amqtt("", {"sys_interval": None})
    broker.describe(1, username=None)
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})


def test_a_plugin_of_an_entry_point_need_not_keep_its_context(amqtt: Any, tmp_path: Path) -> None:
    """They are of any class, with a constructor that takes the context."""
    entry_points(tmp_path, "shop.plugins", mine="hooks:Mine")
    source = """
        class Mine:
            def __init__(self, context):
                self.log = context.logger
            async def on_broker_client_connected(self, *, client_id, client_session):
                self.log.warning("%s is here", client_id)
    """
    broker = amqtt(source, {"plugin_namespace": "shop.plugins", "auth": {}})
    broker.describe(1)
    broker.notify("client.connected", 1, [])
    assert "c1 is here" in broker.lines()


def test_what_plugins_take_from_the_table_of_retained_messages_is_cleared(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Uses(BasePlugin):
            async def on_broker_client_connected(self, *, client_id):
                table = self.context.retained_messages
                kept = table["a"]
                print(repr((bytes(table.pop("a").data), table.pop("a", None), sorted(table))))
                table.update({"a": kept})
                assert table.setdefault("a", None) is kept and "a" in table
                table.clear()
                print(repr((len(table), table._bytes)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Uses": {}}})
    for topic in ("a", "b"):
        broker.notify("message.retained", 0, [message(topic, b"12", retain=True), 0])
    broker.describe(1)
    broker.notify("client.connected", 1, [])
    assert recorded(broker) == [(b"12", None, ["b"]), (0, 0)], broker.lines()
    sent = [(command[1]["topic"], command[1]["payload"], command[1]["retain"]) for command in broker.commands]
    assert sent[:2] == [("a", b"", True), ("a", b"12", True)] and sorted(sent[2:]) == [("a", b"", True), ("b", b"", True)]


def test_a_retained_message_says_whose_it_is(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Whose(BasePlugin):
            async def on_broker_retained_message(self, *, retained_message):
                told, kept = retained_message.source_session, self.context.retained_messages[retained_message.topic]
                print(repr((told and told.client_id, kept.topic, kept.source_session is told)))
            async def on_broker_client_disconnected(self, *, client_id):
                import gc
                gc.collect()
                print(repr([(topic, kept.source_session) for topic, kept in self.context.retained_messages.items()]))
    """
    broker = amqtt(source, {"plugins": {"hooks.Whose": {}}})
    broker.describe(1)
    broker.describe(2, client_id="c2")
    for number in (1, 2):
        broker.notify("client.connected", number, [])
    for topic, publisher in [("a", "c1"), ("b", ""), ("c", "gone")]:
        broker.notify("message.retained", 0, [message(topic, b"1", retain=True, publisher=publisher), 0])
    # The table does not keep sessions that have ended.
    broker.notify("session.terminated", 1, [False, 0, "closed", 0])
    broker.calls([[0, -2, 1, None]])
    broker.notify("client.disconnected", 2, [0, ""])
    told = [("c1", "a", True), (None, "b", True), (None, "c", True)]
    assert recorded(broker) == [*told, [("a", None), ("b", None), ("c", None)]], broker.lines()


def test_a_plugin_that_does_not_come_to_its_end_does_not_take_that_of_the_others(amqtt: Any) -> None:
    source = """
        import asyncio
        from amqtt.plugins.base import BasePlugin
        class Hangs(BasePlugin):
            async def on_broker_pre_shutdown(self): await asyncio.sleep(3600)
            on_broker_post_shutdown = close = on_broker_pre_shutdown
        class Flushes(BasePlugin):
            async def on_broker_pre_shutdown(self): print(repr(("pre",)))
            async def on_broker_post_shutdown(self): print(repr(("post",)))
            async def close(self): print(repr(("close",)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Hangs": {}, "hooks.Flushes": {}}})
    assert broker.stop() == 0
    assert recorded(broker) == [("pre",), ("post",), ("close",)]
    assert "Hangs.on_broker_pre_shutdown" in broker.lines() and "Hangs.close" in broker.lines()


def test_shutdown_hooks_and_close_are_awaited(amqtt: Any) -> None:
    """As in aMQTT: the methods of all plugins run concurrently and are awaited, within the broker's
    time."""
    source = """
        import asyncio
        from amqtt.plugins.base import BasePlugin
        class Slow(BasePlugin):
            async def on_broker_pre_shutdown(self):
                await asyncio.sleep(0.8)
                print(repr(("pre",)))
            async def on_broker_post_shutdown(self):
                await asyncio.sleep(0.8)
                print(repr(("post",)))
            async def close(self):
                await asyncio.sleep(2)
                self.context.logger.info("closed at last")
                await self.context.broadcast_message("bye", b"x")
                print(repr(("close",)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Slow": {}}}, farewell_timeout_ms=10_000)
    assert broker.stop(wait_s=12) == 0
    assert recorded(broker) == [("pre",), ("post",), ("close",)]
    assert "closed at last" in broker.lines() and "rror" not in broker.lines()
    assert broker.commands[-1][1]["topic"] == "bye"


def test_plugins_start_beside_each_other(amqtt: Any) -> None:
    source = """
        import asyncio
        from amqtt.plugins.base import BasePlugin
        there = asyncio.Event()
        class Waits(BasePlugin):
            async def on_broker_pre_start(self):
                await asyncio.wait_for(there.wait(), 5)
                print(repr(("both",)))
        class Comes(BasePlugin):
            async def on_broker_pre_start(self): there.set()
    """
    assert recorded(amqtt(source, {"plugins": {"hooks.Waits": {}, "hooks.Comes": {}}})) == [("both",)]


def test_what_a_plugin_sets_on_a_session_is_there_until_the_session_ends(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Counts(BasePlugin):
            async def on_broker_client_connected(self, *, client_id, client_session):
                client_session.times = getattr(client_session, "times", 0) + 1
                client_session.attributes["shop.times"] = client_session.attributes.get("shop.times", 0) + 1
                print(repr((client_session.times, client_session.attributes["shop.times"], client_session.keep_alive)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Counts": {}}})
    comings = [(False, 10), (False, 20), (True, 30), (False, 40)]
    for number, (clean, keep_alive) in enumerate(comings, 1):
        broker.describe(number, clean_start=clean, keep_alive_s=keep_alive, peer_port=number)
        broker.notify("client.connected", number, [])
        broker.notify("client.disconnected", number, [0, ""])
        broker.calls([[0, -2, number, None]])
    assert recorded(broker) == [(1, 1, 10), (2, 2, 20), (1, 1, 30), (2, 2, 40)]


def test_topic_aliases_of_two_logins_with_one_identifier_are_separate(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Messages(BasePlugin):
            async def on_broker_message_received(self, *, client_id, message):
                print(repr((message.topic, bytes(message.data))))
    """
    broker = amqtt(source, {"plugins": {"hooks.Messages": {}}})
    connect = packet(1, b"\0\4MQTT\5\2\0\x3c\0\0\2c1")
    named, short = packet(3, b"\0\3a/b\3\x23\0\7" + b"1"), packet(3, b"\0\0\3\x23\0\7" + b"2")
    broker.describe(1, peer_port=1)
    broker.notify("packet.received", 1, [1, connect])
    broker.notify("packet.received", 1, [3, named])
    # Another client comes with the same identifier and is refused.
    broker.describe(1, peer_port=2)
    broker.notify("packet.received", 1, [1, connect])
    broker.describe(1, peer_port=1)
    broker.notify("packet.received", 1, [3, short])
    assert recorded(broker) == [("a/b", b"1"), ("a/b", b"2")]
    # A new connection begins without aliases.
    broker.describe(1, peer_port=3)
    broker.notify("packet.received", 1, [1, connect])
    broker.notify("packet.received", 1, [3, short])
    assert recorded(broker)[-1] == ("", b"2")


def test_without_a_mirror_clients_leave_nothing_behind(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Sees(BasePlugin):
            async def on_broker_message_broadcast(self, *, client_id, message):
                broker = self.context._broker_instance
                print(repr((client_id, len(broker._sessions), len(broker._filters))))
            async def on_broker_client_connected(self, *, client_id, client_session):
                print(repr((client_id, client_session.transitions.state)))
            async def on_broker_client_subscribed(self, *, client_id, topic): pass
    """
    broker = amqtt(source, {"plugins": {"hooks.Sees": {}}, "mirror": False})
    short = ("client_id", "username", "superuser", "anonymous", "version", "peer_host", "peer_port", "local_port", "listener")
    from fake_broker import client

    for number in (1, 2, 3):
        about = client(f"c{number}")
        broker.calls([[0, -1, number, {key: about[key] for key in short}]])
        broker.notify("client.connected", number, [])
        broker.notify("session.subscribed", number, ["a/#", 1, True, None])
        broker.notify("message.publish", number, message())
        broker.calls([[0, -2, number, None]])
    assert recorded(broker) == [row for n in (1, 2, 3) for row in ((f"c{n}", "connected"), (f"c{n}", 0, 0))]


# Login data

LOGIN = """
    from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

    class Login(BaseAuthPlugin):
        async def authenticate(self, *, session):
            session.attributes["role"] = "admin" if session.username == "root" else "user"
            session.is_anonymous = session.username is None
            session.tag = ("set", session.username)
            return True

    class Token(BaseTopicPlugin):
        async def topic_filtering(self, *, session, topic, action):
            if topic.startswith("role/"):
                # What a missing role means is left to the others.
                role = session.attributes.get("role")
                return None if role is None else role == topic[5:]
            if topic == "count":
                session.attributes["n"] = session.attributes.get("n", 0) + 1
                return True
            if not session.password:
                return None
            return topic == session.password

    class Shows(BasePlugin):
        async def on_broker_client_subscribed(self, *, client_id, topic):
            session = self.context.get_session(client_id)
            print(repr((session.password, dict(session.attributes), session.is_anonymous, session.username,
                        getattr(session, "tag", None))))
"""
LOGINS = {"plugins": {"hooks.Login": {}, "hooks.Token": {}, "hooks.Shows": {}}}
SHORT = ("client_id", "username", "superuser", "anonymous", "version", "peer_host", "peer_port", "local_port", "listener")


def comes_in(broker: FakeBroker, number: int, **about: Any) -> dict[str, Any]:
    """Sends what the broker sends for a connecting client; returns the later description."""
    from fake_broker import client

    who = client(**about)
    broker.calls([[0, -1, number, who]])
    assert broker.request("client.authenticate", number, [0, None, None, False])[1] == {"allow": True}
    later = {key: who[key] for key in SHORT}
    broker.calls([[0, -1, number, later]])
    broker.notify("client.connected", number, [])
    return later


def requested(broker: FakeBroker, number: int, topic: str) -> Any:
    code, value = broker.request("client.authorize", number, [1, topic, 0, False, 0])
    return "fails" if code == 2 else None if value is None else value["allow"]


def test_what_a_login_gave_is_known_to_the_next_worker(amqtt: Any) -> None:
    first = amqtt(LOGIN, LOGINS)
    later = comes_in(first, 7, username="ann", password=b"token")
    first.until(lambda: len(first.kept) == 1)
    assert [requested(first, 7, topic) for topic in ("token", "other", "role/user", "role/admin", "count")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    # Later changes too, with the answer that depends on them.
    assert len(first.kept) == 2
    count = pickle.loads(first.kept[-1][-1])["attributes"]["n"]
    _, number, client_id, host, port, login = first.kept[-1]
    assert (number, client_id, host, port) == (7, "c1", later["peer_host"], later["peer_port"])
    next_one = amqtt(LOGIN, LOGINS)
    next_one.calls([[0, -1, 9, {**later, "earlier": True, "clean_start": True, "login": login}]])
    assert [requested(next_one, 9, topic) for topic in ("token", "other", "role/user", "role/admin", "count")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    next_one.notify("session.subscribed", 9, ["a", 1, True, None])
    assert recorded(next_one)[-1] == ("token", {"role": "user", "n": count + 1}, False, "ann", ("set", "ann"))


LATER = """
    import asyncio
    from amqtt.plugins.base import BaseAuthPlugin, BasePlugin, BaseTopicPlugin

    class Login(BaseAuthPlugin):
        async def authenticate(self, *, session):
            return True

    class Once(BaseTopicPlugin):
        # Who has asked for what it must not has lost everything.
        async def topic_filtering(self, *, session, topic, action):
            kept = session.attributes
            if topic == "slow":
                await asyncio.sleep(0.05)
                kept["banned"] = True
                return False
            if topic == "set":
                session.banned = True
                return False
            if topic == "forbidden":
                kept["banned"] = True
            return not (kept.get("banned") or getattr(session, "banned", False))

    class Counts(BasePlugin):
        async def on_broker_client_subscribed(self, *, client_id, topic):
            kept = self.context.get_session(client_id).attributes
            if topic == "slow":
                await asyncio.sleep(0.05)
            kept["banned"] = True
            if topic == "slow":
                print(repr("changed"))
"""
BANS = {"plugins": {"hooks.Login": {}, "hooks.Once": {}, "hooks.Counts": {}}}


def is_banned_at_the_next(amqtt: Any, first: FakeBroker, later: dict[str, Any]) -> bool:
    """Whether a later worker, with the broker's stored data, denies what was granted before."""
    next_one = amqtt(LATER, BANS)
    login = [command for command in first.kept if command[0] == "keep"][-1][-1]
    next_one.calls([[0, -1, 9, {**later, "earlier": True, "clean_start": True, "login": login}]])
    return requested(next_one, 9, "a") is False


@pytest.mark.parametrize("topic", ["forbidden", "slow", "set"])
def test_what_a_verdict_was_made_of_is_known_with_its_answer(amqtt: Any, topic: str) -> None:
    first = amqtt(LATER, BANS)
    later = comes_in(first, 7)
    assert [requested(first, 7, "a") for _ in range(3)] == [True] * 3
    assert not is_banned_at_the_next(amqtt, first, later)
    if topic == "slow":
        # Another answer is sent while it is suspended.
        ident = first.begin("client.authorize", 7, [1, topic, 0, False, 0])
        assert requested(first, 7, "b") is True
        first.until(lambda: ident in first.answers)
        assert first.answers[ident] == (1, {"allow": False})
    else:
        assert requested(first, 7, topic) is False
    # The worker ends without sending its answer.
    first.process.kill()
    assert is_banned_at_the_next(amqtt, first, later)


@pytest.mark.parametrize("topic", ["at once", "slow"])
def test_what_changes_at_an_event_is_known_with_what_comes_next(amqtt: Any, topic: str) -> None:
    first = amqtt(LATER, BANS)
    later = comes_in(first, 7)
    assert [requested(first, 7, "a") for _ in range(3)] == [True] * 3
    first.notify("session.subscribed", 7, [topic, 1, True, None])
    if topic == "slow":
        first.until_printed("changed")
    assert requested(first, 7, "b") is False
    first.process.kill()
    assert is_banned_at_the_next(amqtt, first, later)


def test_the_last_changes_are_stored_at_shutdown(amqtt: Any) -> None:
    first = amqtt(LATER, BANS)
    later = comes_in(first, 7)
    first.calls([[0, POINTS["session.subscribed"], 7, ["slow", 1, True, None]]])
    assert first.stop() == 0
    assert is_banned_at_the_next(amqtt, first, later)


def test_where_a_login_is_not_known_a_denial_becomes_no_permission(amqtt: Any) -> None:
    """The earlier worker has stored nothing, or the plugin did not exist yet."""
    first = amqtt(LOGIN, LOGINS)
    later = comes_in(first, 7, username="ann", password=b"token")
    for about in ({}, {"earlier": True, "clean_start": True}, {"login": b"no pickle"}):
        broker = amqtt(LOGIN, LOGINS)
        broker.calls([[0, -1, 9, {**later, **about}]])
        assert [requested(broker, 9, topic) for topic in ("token", "other", "role/user", "role/admin")] == ["fails"] * 4
        assert "looks for password of the session of c1, whose login this worker has not seen" in broker.lines()
        # What a plugin finds out anew it knows.
        assert requested(broker, 9, "count") is True
    # A client without a password has none; that is known.
    nobody = amqtt(LOGIN, LOGINS)
    comes_in(nobody, 1, username=None, password=None)
    assert [requested(nobody, 1, topic) for topic in ("token", "role/user")] == [None, True]


def test_what_a_login_gave_is_forgotten_with_its_session(amqtt: Any) -> None:
    broker = amqtt(LOGIN, LOGINS)
    comes_in(broker, 7)
    broker.notify("client.disconnected", 7, [0, ""])
    assert len(broker.kept) == 1
    broker.notify("session.terminated", 7, [True, 30, "expired", None])
    assert [command[-1] for command in broker.kept[1:]] == [None]
    # Nothing of a refused client is stored for the session of the same identifier.
    comes_in(broker, 8, client_id="c2")
    broker.calls([[0, -1, 8, {**broker_client("c2"), "peer_port": 9}]])
    broker.request("client.authenticate", 8, [0, None, None, False])
    broker.notify("client.disconnected", 7, [0, ""])
    assert (len(broker.kept), broker.coming) == (4, [True, False, True, True])


def test_what_a_login_gave_goes_out_with_its_answer(amqtt: Any) -> None:
    """In a reload another worker is notified that the client has connected, and gets its later
    requests."""
    first = amqtt(LOGIN, LOGINS)
    who = broker_client("c1")
    first.describe(7, username="ann", password=b"token")
    ident = first.begin("client.authenticate", 7, [0, None, None, False])
    first.until(lambda: first.kept or ident in first.answers)
    assert (len(first.kept), first.coming) == (1, [True])
    first.until(lambda: ident in first.answers)
    login = first.kept[0][-1]
    second = amqtt(LOGIN, LOGINS)
    later = {key: who[key] for key in (*SHORT, "clean_start", "keep_alive_s")}
    second.calls([[0, -1, 3, {**later, "earlier": True, "login": login}]])
    second.notify("client.connected", 3, [])
    assert [requested(second, 3, topic) for topic in ("token", "other", "role/user")] == [True, False, True]
    # It may come after the client was described: then the description is repeated.
    third = amqtt(LOGIN, LOGINS)
    third.calls([[0, -1, 3, {**later, "earlier": True}]])
    third.notify("client.connected", 3, [])
    assert requested(third, 3, "token") == "fails"
    third.calls([[0, -1, 3, {**{key: who[key] for key in SHORT}, "login": login}]])
    assert [requested(third, 3, topic) for topic in ("token", "other", "role/user")] == [True, False, True]
    # A late change by the earlier worker is used, unless this worker has changed the data itself:
    # then this worker sends its data again.
    changed = pickle.dumps({**pickle.loads(login), "attributes": {"role": "admin"}})
    again = {**{key: who[key] for key in SHORT}, "login": changed}
    third.calls([[0, -1, 3, again]])
    assert [requested(third, 3, topic) for topic in ("role/user", "role/admin")] == [False, True]
    second.calls([[0, -1, 3, {**again, "login": login}]])
    assert second.kept == []
    assert requested(second, 3, "count") is True
    own = second.kept[-1]
    second.calls([[0, -1, 3, again]])
    assert [requested(second, 3, topic) for topic in ("role/user", "role/admin")] == [True, False]
    assert second.kept[1:] == [own]
    # A refused client leaves nothing, and nothing is sent twice.
    comes_in(first, 8, client_id="c2", username="ann", password=b"token")
    assert first.coming == [True, True]


def test_the_will_of_a_pending_login_is_authorized_without_data_of_the_client(amqtt: Any) -> None:
    broker = amqtt(LOGIN, LOGINS)
    later = comes_in(broker, 7, username="ann", password=b"token")
    will = [3, "role/user", 0, False, 0]
    assert broker.request("client.authorize", 7, will) == (1, {"allow": True})
    # For a client whose login this worker has not seen, because it handles only authorization.
    broker.calls([[0, -1, 8, {**later, "peer_port": 9}]])
    assert broker.request("client.authorize", 8, will)[0] == 2
    assert [requested(broker, 7, topic) for topic in ("token", "role/user")] == [True, True]


def test_what_a_login_gave_that_goes_on_with_a_session_goes_out_for_either_end(amqtt: Any) -> None:
    """In a reload the present worker is notified whether the session was resumed, and has the data
    for that case."""
    first = amqtt(LOGIN, LOGINS)
    later = comes_in(first, 7, username="ann", password=b"token")
    assert requested(first, 7, "count") is True
    first.notify("client.disconnected", 7, [0, ""])
    kept = len(first.kept)
    first.describe(8, username="ann", password=b"token", clean_start=False, peer_port=9)
    assert first.request("client.authenticate", 8, [0, None, None, True])[1] == {"allow": True}
    (command,) = first.kept[kept:]
    assert first.coming[kept:] == [True]
    assert pickle.loads(command[5])["attributes"] == {"role": "user", "n": 1}
    assert pickle.loads(first.anew[-1])["attributes"] == {"role": "user"}
    second = amqtt(LOGIN, LOGINS)
    second.calls([[0, -1, 3, {**later, "peer_port": 9, "earlier": True, "clean_start": False, "login": command[5]}]])
    assert [requested(second, 3, topic) for topic in ("token", "role/user", "count")] == [True] * 3


BANNED = """
    from amqtt.plugins.base import BasePlugin, BaseTopicPlugin
    class Shows(BasePlugin):
        async def on_broker_client_connected(self, *, client_id, client_session):
            print(repr((dict(client_session.attributes), client_session.parent)))
    class Once(BaseTopicPlugin):
        async def topic_filtering(self, *, session, topic, action):
            if topic == "set":
                session.attributes["banned"] = True
            return not session.attributes.get("banned")
"""


def test_a_mirror_without_authenticators_knows_whose_session_goes_on(amqtt: Any) -> None:
    config = {"plugins": {"hooks.Shows": {}, "hooks.Once": {}}}
    long_lived = {"clean_start": False, "password": None}

    def enters(broker: FakeBroker, number: int, there: bool, **about: Any) -> None:
        broker.describe(number, **long_lived, **about)
        broker.notify("client.connect", number, [])
        broker.notify("client.connack", number, [0, there])
        broker.notify("client.connected", number, [])

    first = amqtt(BANNED, config)
    enters(first, 1, False, peer_port=1)
    assert requested(first, 1, "a") is True and requested(first, 1, "set") is False
    stored = first.kept[-1][-1]
    second = amqtt(BANNED, config)
    enters(second, 1, True, peer_port=2, stored=stored)
    assert requested(second, 1, "a") is False
    # The broker has no session: the one that this worker has ended without a notification.
    enters(second, 2, False, peer_port=3)
    assert requested(second, 2, "a") is True
    # A refused client sees no data.
    second.describe(3, **long_lived, peer_port=4)
    second.notify("client.connack", 3, [0x87, False])
    assert recorded(second) == [({"banned": True}, 1), ({}, 0)]
    # No data is stored: it is unknown, not empty.
    third = amqtt(BANNED, config)
    enters(third, 1, True, peer_port=2)
    assert requested(third, 1, "a") == "fails"


def broker_client(client_id: str) -> dict[str, Any]:
    from fake_broker import client

    return client(client_id)


def test_data_that_cannot_be_stored_is_reported_and_the_rest_is_stored(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
        class Login(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes["lock"] = (lambda: None)
                session.attributes["role"] = "user"
                return True
        class Filter(BaseTopicPlugin):
            async def topic_filtering(self, *, session, topic, action):
                return topic in session.attributes
    """
    config = {"plugins": {"hooks.Login": {}, "hooks.Filter": {}}}
    first = amqtt(source, config)
    later = comes_in(first, 1)
    first.until(lambda: len(first.kept) == 1)
    assert first.lines().count("'lock' among the attributes of sessions is not known to a worker after this one") == 1
    second = amqtt(source, config)
    second.calls([[0, -1, 1, {**later, "login": first.kept[0][-1]}]])
    assert [requested(second, 1, name) for name in ("role", "lock")] == [True, False]


OWNER = """
    from amqtt.plugins.base import BaseAuthPlugin, BasePlugin
    class Owner(BaseAuthPlugin):
        async def authenticate(self, *, session):
            owner = session.attributes.get("owner")
            print(repr((session.username, session.client_id, owner, session.parent)))
            if owner is not None and owner != session.username:
                return False
            session.attributes["owner"] = session.username
            return True
    class Shows(BasePlugin):
        async def on_broker_client_connected(self, *, client_id, client_session):
            print(repr(("in", dict(client_session.attributes))))
"""
OWNERS = {"plugins": {"hooks.Owner": {}, "hooks.Shows": {}}}


def wants_in(broker: FakeBroker, number: int, there: bool, **about: Any) -> bool:
    broker.calls([[0, -1, number, {**broker_client("c1"), "clean_start": False, **about}]])
    return bool(broker.request("client.authenticate", number, [0, None, None, there])[1]["allow"])


def test_a_resumed_session_is_authorized_with_its_stored_data(amqtt: Any) -> None:
    broker = amqtt(OWNER, OWNERS)
    assert wants_in(broker, 1, False, username="ann", peer_port=1)
    broker.notify("client.connected", 1, [])
    broker.notify("client.disconnected", 1, [0, ""])
    broker.calls([[0, -2, 1, None]])
    assert not wants_in(broker, 2, True, username="eve", peer_port=2)
    # A pending login cannot change the session that it sees, and the owner can still connect.
    assert wants_in(broker, 3, True, username="ann", peer_port=3)
    broker.notify("client.connected", 3, [])
    # With a clean start there is nothing to resume [MQTT-3.1.2-4], nor if the broker has no
    # session.
    assert wants_in(broker, 4, True, username="eve", peer_port=4, clean_start=True)
    assert wants_in(broker, 5, False, username="bob", peer_port=5)
    assert recorded(broker) == [
        ("ann", "c1", None, 0), ("in", {"owner": "ann"}), ("eve", "c1", "ann", 1), ("ann", "c1", "ann", 1),
        ("in", {"owner": "ann"}), ("eve", "c1", None, 0), ("bob", "c1", None, 0),
    ]  # fmt: skip


LARGE = """
    from amqtt.plugins.base import BaseAuthPlugin, BasePlugin

    class Large(BaseAuthPlugin):
        async def authenticate(self, *, session):
            session.attributes["large"] = "x" * (10000 if session.username == "eve" else 1)
            return True

    class Shows(BasePlugin):
        async def on_broker_client_connected(self, *, client_id, client_session):
            pass
"""


def test_a_login_whose_own_part_is_longer_than_a_frame_is_answered(amqtt: Any) -> None:
    broker = amqtt(LARGE, {"plugins": {"hooks.Large": {}, "hooks.Shows": {}}}, frame_bytes_max=4096)
    assert wants_in(broker, 1, False, username="ann", peer_port=1)
    broker.notify("client.connected", 1, [])
    assert wants_in(broker, 2, True, username="eve", peer_port=2)
    # That data exists, but neither the data of the session nor that of a new one.
    assert broker.kept[-1][1] == 2 and broker.kept[-1][5:] in ([None], [None, True])


AGAIN = """
    from amqtt.plugins.base import BaseAuthPlugin, BasePlugin

    class Again(BaseAuthPlugin):
        async def authenticate(self, *, session):
            if session.username == "ann" or getattr(session, "tries", 0):
                session.attributes["role"] = "user"
            session.tries = 1
            return True

    class Shows(BasePlugin):
        async def on_broker_client_connected(self, *, client_id, client_session):
            pass
"""


def test_login_data_is_stored_for_a_new_session(amqtt: Any) -> None:
    broker = amqtt(AGAIN, {"plugins": {"hooks.Again": {}, "hooks.Shows": {}}})
    assert wants_in(broker, 1, False, username="ann", peer_port=1)
    broker.notify("client.connected", 1, [])
    assert wants_in(broker, 2, True, username="eve", peer_port=2)
    assert wants_in(broker, 2, True, username="eve", peer_port=2)
    own = [pickle.loads(anew)["attributes"] for anew in broker.anew if anew is not None]
    assert own[-1] == {"role": "user"} and own[0] == {}


def test_a_session_older_than_the_worker_is_shown_as_stored(amqtt: Any) -> None:
    first = amqtt(OWNER, OWNERS)
    assert wants_in(first, 1, False, username="ann", peer_port=1)
    first.notify("client.connected", 1, [])
    first.until(lambda: len(first.kept) == 1)
    second = amqtt(OWNER, OWNERS)
    kept = first.kept[0][-1]
    assert not wants_in(second, 2, True, username="eve", peer_port=2, stored=kept)
    assert wants_in(second, 3, True, username="ann", peer_port=3, stored=kept)
    second.notify("client.connected", 3, [])
    assert recorded(second) == [("eve", "c1", "ann", 1), ("ann", "c1", "ann", 1), ("in", {"owner": "ann"})]


def test_only_login_data_survives_a_session_that_was_not_resumed(amqtt: Any) -> None:
    """The broker's `session_owner` may allow this."""
    source = """
        from amqtt.plugins.base import BaseAuthPlugin
        class Any(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes.setdefault("role", session.username)
                session.attributes["last"] = session.username
                return True
            async def on_broker_client_connected(self, *, client_id, client_session):
                print(repr((dict(client_session.attributes), client_session.parent)))
    """
    broker = amqtt(source, {"plugins": {"hooks.Any": {}}})
    wants_in(broker, 1, False, username="ann", peer_port=1)
    broker.notify("client.connected", 1, [])
    wants_in(broker, 2, True, username="eve", peer_port=2)
    broker.calls([[0, -1, 2, {**{key: broker_client("c1")[key] for key in SHORT}, "username": "ann", "peer_port": 1}]])
    broker.notify("session.discarded", 2, [True, 30, "discarded", 0x8E])
    broker.calls([[0, -1, 2, {**{key: broker_client("c1")[key] for key in SHORT}, "username": "eve", "peer_port": 2}]])
    broker.notify("client.connected", 2, [])
    assert recorded(broker) == [({"role": "ann", "last": "ann"}, 0), ({"last": "eve"}, 0)]


def test_a_login_that_another_process_has_answered_decides_nothing_here(amqtt: Any) -> None:
    """Another process answered the login, before a reload or before its end: a denial must not
    become a permission."""
    source = """
        from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
        class Login(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes["role"] = "user"
                return True
        class Admins(BaseTopicPlugin):
            async def topic_filtering(self, *, session, topic, action):
                role = session.attributes.get("role")
                if role is None or not topic.endswith("/admin"):
                    return None
                return role == "admin"
    """
    config = {"plugins": {"hooks.Login": {}, "hooks.Admins": {}}}
    seen, missed = amqtt(source, config), amqtt(source, config)
    later = comes_in(seen, 1)
    assert requested(seen, 1, "a/admin") is False
    missed.calls([[0, -1, 1, {**later, "clean_start": True, "keep_alive_s": 60, "earlier": True}]])
    missed.notify("client.connected", 1, [])
    assert requested(missed, 1, "a/admin") == "fails"
    assert missed.kept == [], "what is not known is not kept as if it were all"
    # Data of another connection under its identifier is not used either.
    comes_in(missed, 1, peer_port=2)
    missed.notify("client.disconnected", 1, [0, ""])
    missed.calls([[0, -1, 1, {**later, "peer_port": 3, "clean_start": False, "keep_alive_s": 60, "earlier": True}]])
    missed.notify("client.connected", 1, [])
    assert requested(missed, 1, "a/admin") == "fails"


def fails_to_come_in(broker: FakeBroker, number: int, **about: Any) -> bool:
    broker.calls([[0, -1, number, {**broker_client("c1"), "clean_start": False, **about}]])
    code, value = broker.request("client.authenticate", number, [0, None, None, True])
    if code == 2:
        assert "authenticate looks for owner of the session of c1, which is older than this worker" in value
    return code == 2


def test_a_login_fails_where_what_the_session_has_is_not_known_and_a_plugin_looks_for_it(amqtt: Any) -> None:
    broker = amqtt(OWNER, OWNERS)
    assert fails_to_come_in(broker, 1, username="eve", peer_port=1)
    assert fails_to_come_in(broker, 2, username="eve", peer_port=2, stored=b"no pickle")
    # Also if the session is in the table already.
    assert fails_to_come_in(broker, 3, username="eve", peer_port=3)
    # If the broker has no session, or the client does not want it, no data is missing.
    assert wants_in(broker, 4, True, username="ann", peer_port=4, clean_start=True)
    assert wants_in(broker, 5, False, username="ann", peer_port=5)
    broker.notify("client.connected", 5, [])
    assert not wants_in(broker, 6, True, username="eve", peer_port=6)
    # A plugin that reads no attributes is not delayed.
    blind = amqtt(LOGIN, LOGINS)
    assert wants_in(blind, 1, True, username="ann", password=b"token", peer_port=1)
    later = {key: broker_client("c1")[key] for key in SHORT}
    blind.calls([[0, -1, 1, {**later, "username": "ann", "peer_port": 1}]])
    blind.notify("client.connected", 1, [])
    # Values that its login has set are known, others are not.
    assert [requested(blind, 1, topic) for topic in ("role/user", "role/admin", "token")] == [True, False, True]


def test_what_is_not_known_of_a_session_is_not_known_to_the_next_worker_either(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
        class Login(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes["last"] = session.username
                session.attributes["lock"] = (lambda: None)
                return True
        class Banned(BaseTopicPlugin):
            async def topic_filtering(self, *, session, topic, action):
                return session.attributes.get(topic) is None
    """
    config = {"plugins": {"hooks.Login": {}, "hooks.Banned": {}}}

    def next_with(kept: bytes, later: dict[str, Any]) -> FakeBroker:
        worker = amqtt(source, config)
        worker.calls([[0, -1, 1, {**later, "earlier": True, "clean_start": True, "login": kept}]])
        return worker

    first = amqtt(source, config)
    later = {**{key: broker_client("c1")[key] for key in SHORT}, "peer_port": 1}
    assert wants_in(first, 1, True, peer_port=1)
    first.calls([[0, -1, 1, later]])
    first.notify("client.connected", 1, [])
    second = next_with(first.kept[-1][-1], later)
    for worker in (first, second):
        assert [requested(worker, 1, topic) for topic in ("last", "banned")] == [False, "fails"]
    # If one value of a login cannot be pickled, only that one is unknown.
    whole = amqtt(source, config)
    later = comes_in(whole, 1)
    assert [requested(whole, 1, topic) for topic in ("lock", "banned")] == [False, True]
    third = next_with(whole.kept[-1][-1], later)
    assert [requested(third, 1, topic) for topic in ("last", "lock", "banned")] == [False, "fails", True]


def test_a_session_whose_end_was_not_notified_leaves_nothing_to_the_next(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BaseAuthPlugin
        class Marks(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes[session.username] = True
                return True
            async def on_broker_client_connected(self, *, client_id, client_session):
                print(repr((dict(client_session.attributes), list(self.context._broker_instance.subscriptions))))
    """
    broker = amqtt(source, {"plugins": {"hooks.Marks": {}}})
    assert wants_in(broker, 1, False, username="ann", peer_port=1)
    broker.notify("client.connected", 1, [])
    broker.notify("session.subscribed", 1, ["a", 1, True, None])
    broker.notify("client.disconnected", 1, [0, ""])
    broker.calls([[0, -2, 1, None]])
    # session.terminated had no room. The broker has no session.
    assert wants_in(broker, 2, False, username="bob", peer_port=2)
    broker.notify("client.connected", 2, [])
    assert recorded(broker) == [({"ann": True}, []), ({"bob": True}, [])]


def test_a_login_that_has_become_too_long_is_forgotten(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BaseAuthPlugin, BaseTopicPlugin
        class Login(BaseAuthPlugin):
            async def authenticate(self, *, session):
                session.attributes["n"] = 1
                return True
        class Grows(BaseTopicPlugin):
            async def topic_filtering(self, *, session, topic, action):
                session.attributes["long"] = "x" * 100_000
                return True
    """
    broker = amqtt(source, {"plugins": {"hooks.Login": {}, "hooks.Grows": {}}}, frame_bytes_max=1 << 16)
    comes_in(broker, 1)
    broker.until(lambda: len(broker.kept) == 1)
    assert requested(broker, 1, "a") is True
    assert [command[-1] is None for command in broker.kept] == [False, True]


# QoS 2, wills, and messages of plugins

MESSAGES = """
    from amqtt.plugins.base import BasePlugin
    class Messages(BasePlugin):
        async def on_broker_message_received(self, *, client_id, message):
            print(repr(("received", client_id, bytes(message.data), message.qos)))
        async def on_broker_message_broadcast(self, *, client_id, message):
            print(repr(("broadcast", client_id, bytes(message.data))))
"""


def published(ident: int, data: bytes, dup: bool = False) -> list[Any]:
    return [3, packet(3, b"\0\1t" + ident.to_bytes(2, "big") + data, 0b100 | dup << 3)]


def released(ident: int) -> list[Any]:
    return [6, packet(6, ident.to_bytes(2, "big"), 2)]


def test_a_message_of_qos_2_is_notified_once_with_its_pubrel(amqtt: Any) -> None:
    broker = amqtt(MESSAGES, {"plugins": {"hooks.Messages": {}}})
    broker.describe(1, version=4)
    broker.notify("client.connected", 1, [])
    for data in (published(1, b"a"), published(1, b"a", dup=True), released(2)):
        broker.notify("packet.received", 1, data)
    assert recorded(broker) == []
    for data in (published(2, b"b"), released(1), released(1), released(2), published(1, b"c"), released(1)):
        broker.notify("packet.received", 1, data)
    # In MQTT 5 a refused one ends without PUBREL: it is reported when its identifier is used again.
    for data in (published(1, b"d"), published(1, b"e")):
        broker.notify("packet.received", 1, data)
    assert recorded(broker) == [("received", "c1", data, 2) for data in (b"a", b"b", b"c", b"d")]


def test_messages_of_qos_2_are_held_within_bounds(amqtt: Any) -> None:
    source = MESSAGES + """
        async def on_broker_client_subscribed(self, *, client_id, topic):
            session = self.context.get_session(client_id)
            print(repr((len(session.inflight_in), session.held_bytes)))
        async def on_broker_client_disconnected(self, *, client_id, client_session):
            print(repr(("bytes", self.context._broker_instance.plugins_manager is not None)))
"""
    broker = amqtt(source, {"plugins": {"hooks.Messages": {}}})
    broker.describe(1, version=4)
    broker.notify("client.connected", 1, [])
    for ident in range(1, 1030):
        broker.calls([[0, POINTS["packet.received"], 1, published(ident, b"x")]])
    broker.notify("session.subscribed", 1, ["t", 2, True, None, None])
    told_early = [("received", "c1", b"x", 2)] * 5
    assert recorded(broker) == [*told_early, (1024, 1024)]
    # A message that was reported early is not reported again, neither for a retransmission nor with
    # its PUBREL.
    for data in (published(1029, b"x", dup=True), released(1029), released(1)):
        broker.notify("packet.received", 1, data)
    broker.notify("session.subscribed", 1, ["t", 2, True, None, None])
    assert recorded(broker)[6:] == [told_early[0], (1023, 1023)]


def test_messages_of_qos_2_are_notified_after_a_reconnect(amqtt: Any) -> None:
    broker = amqtt(MESSAGES, {"plugins": {"hooks.Messages": {}}})
    broker.describe(1, version=4, clean_start=False, peer_port=1)
    broker.notify("client.connected", 1, [])
    broker.notify("packet.received", 1, published(1, b"a"))
    broker.notify("client.disconnected", 1, [0, ""])
    broker.calls([[0, -2, 1, None]])
    broker.describe(2, version=4, clean_start=False, peer_port=2)
    broker.notify("client.connected", 2, [])
    broker.notify("packet.received", 2, released(1))
    assert recorded(broker) == [("received", "c1", b"a", 2)]


def test_a_will_is_no_broadcast(amqtt: Any) -> None:
    broker = amqtt(MESSAGES, {"plugins": {"hooks.Messages": {}}})
    broker.describe()
    broker.notify("message.publish", 1, message("w", b"gone", properties={"will": True}))
    broker.notify("message.publish", 1, message("t", b"here"))
    assert recorded(broker) == [("broadcast", "c1", b"here")]


def test_a_subscription_that_a_plugin_adds_is_no_event(amqtt: Any) -> None:
    source = """
        from amqtt.plugins.base import BasePlugin
        class Adds(BasePlugin):
            async def on_broker_client_subscribed(self, *, client_id, topic, qos):
                await self.context.add_subscription(client_id, topic + "/more", 1)
                print(repr((topic, {t: [s.client_id for s, _ in who] for t, who in self.context.subscriptions.items()})))
    """
    broker = amqtt(source, {"plugins": {"hooks.Adds": {}}})
    broker.describe()
    broker.notify("client.connected", 1, [])
    broker.notify("session.subscribed", 1, ["a", 1, True, None, None])
    assert broker.commands == [["subscribe", "c1", "a/more", 1]]
    # As the broker notifies.
    broker.notify("session.subscribed", 1, ["a/more", 1, True, None, "plugin"])
    assert len(broker.commands) == 1 and [topic for topic, _ in recorded(broker)] == ["a"]
    broker.notify("session.subscribed", 1, ["b", 1, True, None, None])
    assert recorded(broker)[1:] == [("b", {"a": ["c1"], "a/more": ["c1"], "b": ["c1"]})]


# The table of retained messages

LOOKS = """
    from amqtt.plugins.base import BasePlugin

    class Looks(BasePlugin):
        async def on_broker_message_broadcast(self, *, client_id, message):
            table = self.context._broker_instance.retained_messages
            print(repr((sorted((topic, bytes(kept.data)) for topic, kept in table.items()), table._bytes)))
"""


def test_retained_messages_have_a_bound_of_memory(amqtt: Any) -> None:
    each = 500 + len("r/1") + 10
    broker = amqtt(LOOKS, {"plugins": {"hooks.Looks": {}}, "retained_bytes_max": 2 * each})

    def retain(topic: str, payload: bytes) -> None:
        broker.notify("message.retained", 0, [message(topic, payload), 0 if payload else 2])

    def table() -> Any:
        broker.describe(1)
        broker.notify("message.publish", 1, message("look"))
        return recorded(broker)[-1]

    ten = b"x" * 10
    retain("r/1", ten)
    retain("r/2", ten)
    assert table() == ([("r/1", ten), ("r/2", ten)], 2 * each), "to the last byte"
    assert "do not see all" not in broker.lines()
    retain("r/2", ten + b"x")
    assert table() == ([("r/1", ten)], each), "what it was is not true any more"
    retain("r/2", b"x" * 9)
    retain("r/3", ten)
    retain("r/4", ten)
    assert table() == ([("r/1", ten), ("r/2", b"x" * 9)], 2 * each - 1)
    for topic in ("r/1", "r/2", "r/3"):
        retain(topic, b"")
    assert table() == ([], 0)
    retain("r/3", ten)
    assert table() == ([("r/3", ten)], each)
    said = [line for line in broker.lines().splitlines() if "do not see all retained messages" in line]
    assert [line[-10:] for line in said] == ["(1 so far)", "(2 so far)"], said
    assert f"retained_bytes_max is {2 * each}" in said[0]


@pytest.mark.parametrize("wrong", [-1, "64 MiB", True, 1.5])
def test_a_bound_that_is_no_number_of_bytes_is_refused(amqtt: Any, wrong: Any) -> None:
    with pytest.raises(Refused, match="retained_bytes_max = .*: must be a number of bytes"):
        amqtt(LOOKS, {"plugins": {"hooks.Looks": {}}, "retained_bytes_max": wrong})


def test_a_bound_of_nothing_keeps_no_message(amqtt: Any) -> None:
    broker = amqtt(LOOKS, {"plugins": {"hooks.Looks": {}}, "retained_bytes_max": 0})
    broker.notify("message.retained", 0, [message("r", b"x"), 0])
    broker.describe(1)
    broker.notify("message.publish", 1, message("look"))
    assert recorded(broker) == [([], 0)]


@pytest.mark.parametrize("in_turn", [True, False])
def test_a_session_that_ended_unseen_leaves_nothing_to_the_next(amqtt: Any, in_turn: bool) -> None:
    """The broker's number says which session a client has, whatever events are missing."""
    config = {"plugins": {"hooks.Shows": {}, "hooks.Once": {}}}
    broker = amqtt(BANNED, config)
    ann = {**broker_client("c1"), "clean_start": False, "password": None, "session": 5}
    broker.calls([[0, -1, 1, ann]])
    broker.notify("client.connected", 1, [])
    assert requested(broker, 1, "a") is True and requested(broker, 1, "set") is False
    # Events are missing: only the client of the next session is described, by its first event.
    eve = {key: ann[key] for key in SHORT}
    broker.calls([[0, -1, 2, {**eve, "username": "eve", "peer_port": 2, "session": 6}]])
    assert requested(broker, 2, "a") == "fails", "its login is not known, and nothing is shown of hers"
    if in_turn:
        # A late event of the earlier session changes nothing of the later one.
        broker.calls([[0, -1, 3, {**eve, "peer_port": 3, "session": 5}]])
        broker.notify("session.terminated", 3, [True, 30, "expired", None])
        assert requested(broker, 2, "set") is False
    # The same session goes on with another connection.
    broker.calls([[0, -1, 4, {**eve, "username": "eve", "peer_port": 4, "session": 6}]])
    assert requested(broker, 4, "a") == (False if in_turn else "fails")


def test_a_login_is_shown_no_session_that_has_ended_unseen(amqtt: Any) -> None:
    broker = amqtt(OWNER, OWNERS)
    assert wants_in(broker, 1, False, username="ann", peer_port=1, session=None)
    broker.calls([[0, -1, 1, {**broker_client("c1"), "peer_port": 1, "clean_start": False, "session": 5}]])
    broker.notify("client.connected", 1, [])
    # Others log in while the session is there, while there is none, and while there is a later one.
    assert not wants_in(broker, 2, True, username="eve", peer_port=2, session=5)
    assert wants_in(broker, 3, False, username="eve", peer_port=3, session=None)
    assert not wants_in(broker, 4, True, username="eve", peer_port=4, session=5)
    broker.calls([[0, -1, 5, {**broker_client("c1"), "clean_start": False, "peer_port": 5, "session": 6}]])
    code, _ = broker.request("client.authenticate", 5, [0, None, None, True])
    assert code == 2, "the session is not known to this worker"


FIRST = """
    class First(BaseAuthPlugin):
        async def authenticate(self, *, session):
            print(repr(("at", session.attributes.setdefault("first", session.username))))
            return True
"""


def test_what_a_login_was_shown_of_a_session_that_it_does_not_get_is_not_its_own(amqtt: Any) -> None:
    broker = amqtt(OWNER + FIRST, {"plugins": {"hooks.First": {}, "hooks.Shows": {}}})
    ann = {**broker_client("c1"), "clean_start": False}
    assert wants_in(broker, 1, False, username="ann", peer_port=1, session=None)
    broker.calls([[0, -1, 1, {**ann, "peer_port": 1, "session": 5}]])
    broker.notify("client.connected", 1, [])
    later = {key: ann[key] for key in SHORT}
    for number, session in ((2, 5), (3, 6)):
        # Where the broker begins another session, client.connack is missing.
        assert wants_in(broker, number, True, username="eve", peer_port=number, session=5)
        broker.calls([[0, -1, number, {**later, "username": "eve", "peer_port": number, "session": session}]])
        broker.notify("client.connected", number, [])
    there = [("at", "ann"), ("in", {"first": "ann"})]
    assert recorded(broker) == [*there, *there, ("at", "ann"), ("in", {})]
