"""Our own API: each hook point with its event, each return value with its answer, and how hooks are
found."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Start, recorded
from fake_broker import ANSWERING, DATA, POINTS, Refused, message

FULL = message(
    "a/b", b"\xffhi", qos=1, retain=True, dup=True, publisher="pub", timestamp_ms=9,
    properties={"content_type": "ct", "response_topic": "rt", "correlation_data": b"\0", "message_expiry_s": 3,
                "payload_format": 1, "user": [["k", "v"]]},
)  # fmt: skip
SHOWN = ("a/b", b"\xffhi", 1, True, True, "pub", 9, "ct", "rt", b"\0", 3, True, [("k", "v")])

TABLE: list[tuple[str, Any, tuple]] = [
    ("client.connect", [], ()),
    ("client.connack", [0x87, True], (0x87, True)),
    ("client.connected", [], ()),
    ("client.authenticate", [2, "SCRAM", b"\xff"], (2, "SCRAM", b"\xff")),
    ("client.authorize", [4, "a/b", 1, True, 1], (4, "a/b", 1, True, 1)),
    (
        "client.subscribe",
        [[["a/#", 0b101110], ["b", 1]], 7, [["k", "v"]]],
        ([("a/#", (2, True, True, 2)), ("b", (1, False, False, 0))], 7, [("k", "v")]),
    ),
    ("client.unsubscribe", [["a/#", "b"], [["k", "v"]]], (["a/#", "b"], [("k", "v")])),
    ("session.created", [True, 30, None, None], (True, 30, None, None)),
    ("session.resumed", [True, 30, None, None], (True, 30, None, None)),
    ("session.discarded", [False, 0, None, None], (False, 0, None, None)),
    ("session.takenover", [True, 30, None, None], (True, 30, None, None)),
    ("session.terminated", [True, 30, "kicked", 0x98], (True, 30, "kicked", 0x98)),
    ("session.subscribed", ["a/#", 1, True, 7], ("a/#", (1, False, False, 0), True, 7)),
    ("message.publish", FULL, (SHOWN,)),
    ("message.delivered", FULL, (SHOWN,)),
    ("message.acked", FULL, (SHOWN,)),
    ("message.retained", [FULL, 2], (SHOWN, 2)),
    ("packet.received", [1, b"\x10\x00"], (1, b"\x10\x00")),
    ("packet.sent", [2, b"\x20\x00"], (2, b"\x20\x00")),
]

# The data of the other points, unchanged, by its names in PROTOCOL.md.
AS_IT_IS = {
    point: names.strip("[]").replace(",", "") for point, names in DATA.items() if point not in {row[0] for row in TABLE}
}  # fmt: skip
for point, names in AS_IT_IS.items():
    data = [FULL if name == "message" else f"the {name}" for name in names.split()]
    TABLE.append((point, data, tuple(SHOWN if each is FULL else each for each in data)))

RECORDER = """
    from grapnel_exhook import on
    FIELDS = AS_IT_IS | {
        "client.connack": "reason session_present",
        "client.authenticate": "verdict method auth_data", "client.authorize": "action topic qos retain verdict",
        "client.subscribe": "filters subscription_id properties", "client.unsubscribe": "filters properties",
        "session.subscribed": "filter options is_new subscription_id",
        "message.publish": "message", "message.delivered": "message", "message.acked": "message",
        "message.retained": "message change",
        "packet.received": "type data", "packet.sent": "type data",
    }
    for point in "created resumed discarded takenover terminated".split():
        FIELDS["session." + point] = "persistent expiry_s cause reason"
    MESSAGE = ("topic payload qos retain dup publisher timestamp_ms content_type response_topic correlation_data "
               "message_expiry_s payload_is_text properties")
    def plain(value):
        if type(value).__name__ == "Message":
            return tuple(getattr(value, name) for name in MESSAGE.split())
        if isinstance(value, list):
            return [plain(each) for each in value]
        if isinstance(value, tuple):
            return tuple(plain(each) for each in value)
        return int(value) if isinstance(value, int) and not isinstance(value, bool) else value
    def record(point):
        def hook(event):
            values = tuple(plain(getattr(event, name)) for name in FIELDS.get(point, "").split())
            print(repr((point, type(event).__name__, event.client.client_id, values)))
        return hook
    for point in %r:
        globals()[point.replace(".", "_")] = getattr(on, point.replace(".", "_"))(record(point))
""".replace("AS_IT_IS", repr(AS_IT_IS))


def test_every_point_of_the_broker_has_a_decorator_and_stands_in_the_table() -> None:
    from grapnel_exhook import on
    from grapnel_exhook.events import OF_POINT

    assert set(POINTS) == {row[0] for row in TABLE} == set(OF_POINT)
    assert all(hasattr(on, point.replace(".", "_")) for point in POINTS)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_every_point_gets_its_event(start: Start, kind: str) -> None:
    source = RECORDER.replace("def hook", f"{kind} hook") % list(POINTS)
    broker = start(source)
    assert {point: hook["answers"] for point, hook in broker.hooks.items()} == {point: point in ANSWERING for point in POINTS}
    broker.describe(1, client_id="c1")
    for point, data, _ in TABLE:
        if point in ANSWERING:
            assert broker.request(point, 1, data) == (0, None)
        else:
            broker.notify(point, 1, data)
    seen = {point: (who, values) for point, _, who, values in recorded(broker)}
    for point, _, values in TABLE:
        assert seen[point] == ("c1", values), point


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_at_every_point_fails_that_call_alone(start: Start, kind: str) -> None:
    source = f"""
        from grapnel_exhook import on
        def make(point):
            {kind} hook(event):
                raise ValueError(point)
            return hook
        for point in {list(POINTS)!r}:
            globals()[point.replace(".", "_")] = getattr(on, point.replace(".", "_"))(make(point))
    """
    broker = start(source)
    broker.describe()
    for point, data, _ in TABLE:
        if point in ANSWERING:
            code, text = broker.request(point, 1, data)
            assert code == 2 and text.endswith(f"ValueError: {point}")
        else:
            broker.notify(point, 1, data)
    for point in POINTS:
        assert f"ValueError: {point}" in broker.lines()


def test_what_a_client_shows(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        NAMES = ("client_id username password password_text peer_host peer_port local_port listener version clean_start "
                 "keep_alive_s session_expiry_s receive_maximum connected_at_ms superuser anonymous properties").split()
        @on.client_connected
        def connected(event):
            client = event.client
            client.attributes["times"] = client.attributes.get("times", 0) + 1
            will = client.will and tuple(client.will)
            print(repr(tuple(getattr(client, name) for name in NAMES) + (will, client.attributes["times"])))
    """
    broker = start(source)
    will = {"topic": "w", "payload": b"\xff", "qos": 1, "retain": True}
    broker.describe(1, password=b"\xff", will=will, properties=[["k", "v"]], superuser=True)
    broker.notify("client.connected", 1, [])
    broker.calls([[0, -1, 1, {"client_id": "c1"}]])
    broker.notify("client.connected", 1, [])
    broker.calls([[0, -2, 1, None], [0, -1, 1, {"client_id": "c1"}]])
    broker.notify("client.connected", 1, [])
    first, second, third = recorded(broker)
    assert first == (
        "c1", "ann", b"\xff", None, "10.0.0.7", 50123, 1883, "default", 5, True, 60, 30, 100, 1_700_000_000_000, True,
        False, [("k", "v")], ("w", b"\xff", 1, True), 1,
    )  # fmt: skip
    # Values that are not repeated remain, except the password; attributes of hooks remain until the
    # client is forgotten.
    assert second == (*first[:2], None, *first[3:-1], 2)
    assert third == ("c1", None, None, None, "", 0, 0, "", 0, False, 0, 0, 0, 0, False, False, [], None, 1)


def test_what_a_client_shows_of_its_transport(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.client_connected
        def connected(event):
            client = event.client
            tls = client.tls
            certificate = tls and tls.certificate
            shown = (tls and tuple(tls[:3]), certificate and tuple(certificate))
            print(repr((client.transport, *shown, client.certified, client.username, client.connect_username)))
    """
    broker = start(source)
    certificate = {
        "subject": "CN=pump,O=Works", "common_name": "pump", "alternative_names": ["DNS:pump", "IP:10.0.0.7"],
        "issuer": "CN=CA", "serial": "0a", "fingerprint": "ff",
    }  # fmt: skip
    tls = {"version": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256", "server_name": "", "certificate": certificate}
    session = (tls["version"], tls["cipher"], "")
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"transport": "unix"}, ("unix", None, None, False, "ann", "ann")),
        ({"transport": "tls", "tls": {**tls, "certificate": None}}, ("tls", session, None, False, "ann", "ann")),
        (
            {"transport": "wss", "tls": tls, "username": "pump", "certified": True, "connect_username": "ann"},
            ("wss", session, ("CN=pump,O=Works", "pump", ("DNS:pump", "IP:10.0.0.7"), "CN=CA", "0a", "ff"), True, "pump", "ann"),
        ),
        ({}, ("", None, None, False, "ann", "ann")),
    ]  # fmt: skip
    for about, _ in cases:
        broker.describe(1, **about)
        broker.notify("client.connected", 1, [])
        broker.calls([[0, -2, 1, None]])
    assert recorded(broker) == [expected for _, expected in cases]


ANSWERS: list[tuple[str, Any, str, Any]] = [
    ("client.connect", [], "None", (0, None)),
    ("client.connect", [], "Refuse(0x8a, 'no')", (1, {"refuse": 0x8A, "text": "no"})),
    ("client.connect", [], "Limits(10, 20)", (0, {"keep_alive_s": 10, "session_expiry_s": 20})),
    ("client.connect", [], "Limits()", (0, None)),
    ("client.connect", [], "True", (2, "returned True")),
    ("client.connect", [], "Refuse(0)", (2, "reason code")),
    ("client.connect", [], "Limits(keep_alive_s=70000)", (2, "70000")),
    ("client.authenticate", [0, None, None], "True", (1, {"allow": True})),
    ("client.authenticate", [0, None, None], "False", (1, {"allow": False})),
    ("client.authenticate", [0, None, None], "None", (0, None)),
    ("client.authenticate", [0, None, None], "1", (2, "returned 1")),
    (
        "client.authenticate",
        [0, None, None],
        "Allow(superuser=True, auth_data=b'x', last=False)",
        (0, {"allow": True, "superuser": True, "auth_data": b"x"}),
    ),
    ("client.authenticate", [0, None, None], "Deny(0x86)", (1, {"allow": False, "reason": 0x86})),
    ("client.authenticate", [0, None, None], "Challenge(b'x')", (1, {"another_round": b"x"})),
    ("client.authorize", [1, "t", 0, False, 0], "True", (1, {"allow": True})),
    ("client.authorize", [1, "t", 0, False, 0], "Deny(last=False)", (0, {"allow": False})),
    ("client.authorize", [1, "t", 0, False, 0], "'yes'", (2, "returned 'yes'")),
    ("client.subscribe", [[["a", 0], ["b", 0], ["c", 1]], None, []], "None", (0, None)),
    (
        "client.subscribe",
        [[["a", 0], ["b", 0], ["c", 1], ["d", 1]], None, []],
        "['x/#', Refuse(0x87), None, Rewrite(options=Options(2, no_local=True))]",
        (0, {"filters": [[0, "x/#", None, None], [1, None, None, 0x87], [3, None, 6, None]]}),
    ),
    ("client.subscribe", [[["a", 0]], None, []], "[]", (2, "one item for each of the 1")),
    ("client.subscribe", [[["a", 0]], None, []], "['x#']", (2, "no topic filter")),
    ("client.unsubscribe", [["a", "b"], []], "['x', Refuse()]", (0, {"filters": [[0, "x", None, None], [1, None, None, 0x87]]})),
    ("client.unsubscribe", [["a"], []], "[Rewrite('x', Options(1))]", (2, "not None, a filter")),
    ("message.publish", message(), "Drop()", (1, {"drop": True})),
    ("message.publish", message(), "Reject(0x97, 'full')", (1, {"reject": 0x97, "text": "full"})),
    ("message.publish", message(), "Disconnect()", (1, {"disconnect": 0x98})),
    (
        "message.publish",
        message(),
        "Modify(topic='n', payload='ä', qos=0, retain=False, content_type='c', response_topic='r', correlation_data=b'd', "
        "message_expiry_s=4, add_properties=[('k', 'v')])",
        (
            0,
            {
                "topic": "n", "payload": "ä".encode(), "qos": 0, "retain": False, "content_type": "c",
                "response_topic": "r", "correlation_data": b"d", "message_expiry_s": 4, "user": [["k", "v"]],
            },  # fmt: skip
        ),
    ),
    ("message.publish", message(), "Modify(payload=b'')", (0, {"payload": b""})),
    ("message.publish", message(), "Modify()", (0, None)),
    ("message.publish", message(), "Modify(topic='a/+')", (2, "no topic")),
    ("message.publish", message(), "Modify(qos=3)", (2, "qos")),
    ("message.publish", message(), "Modify(payload=7)", (2, "int")),
    ("message.publish", message(), "False", (2, "returned False")),
    ("message.publish", message(), "Modify(message_expiry_s=-1)", (2, "message_expiry_s -1")),
    ("message.publish", message(), "Modify(message_expiry_s=1 << 32)", (2, "message_expiry_s 4294967296")),
    ("message.publish", message(), "Modify(correlation_data=5)", (2, "correlation_data of type int")),
    ("message.publish", message(), "Modify(topic='ä' * 32768)", (2, "longer than the 65535 bytes")),
    ("message.publish", message(), "Modify(content_type='x' * 65536)", (2, "longer than the 65535 bytes")),
    ("message.publish", message(), "Modify(add_properties=[('k', 'x' * 65536)])", (2, "longer than the 65535 bytes")),
    ("message.publish", message(), "Reject(0x97, 'x' * 65536)", (2, "longer than the 65535 bytes")),
    ("client.authenticate", [0, None, None], "Allow(auth_data=5)", (2, "auth_data of type int")),
    ("client.authenticate", [0, None, None], "Challenge(5)", (2, "auth_data of type int")),
    ("client.subscribe", [[["a", 0]], None, []], "[Rewrite(options=Options(3))]", (2, "Options(qos=3")),
    ("client.subscribe", [[["a", 0]], None, []], "[Rewrite(options=Options(retain_handling=3))]", (2, "Options(qos=0")),
    ("client.subscribe", [[["a", 0]], None, []], "[Rewrite(options=5)]", (2, "options=5")),
    ("message.publish", message(), "hook_of_somebody_else()", (2, "make the hook itself async def")),
]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_every_answer_comes_to_what_the_protocol_says(start: Start, kind: str) -> None:
    lines = ["from grapnel_exhook import *", "async def hook_of_somebody_else(): pass", "now = None"]
    for point in sorted(ANSWERING):
        name = point.replace(".", "_")
        lines.append(f"@on.{name}\n{kind} {name}(event): return eval(open('answer').read())")
    broker = start("\n".join(lines))
    broker.describe()
    for point, data, answer, (code, value) in ANSWERS:
        (broker.output.parent / "answer").write_text(answer)
        got = broker.request(point, 1, data)
        if code == 2:
            assert got[0] == 2 and value in got[1] and point.replace(".", "_") in got[1], (point, answer, got)
        else:
            assert got == (code, value), (point, answer)


def test_classes_have_an_instance_setup_and_close(start: Start) -> None:
    source = """
        from grapnel_exhook import Hooks, on
        class Base(Hooks):
            @on.client_connected
            def connected(self, event):
                self.seen += 1
                print(repr((type(self).__name__, self.seen, self.who)))
        class Mine(Base):
            def setup(self, config):
                self.seen, self.who = 0, (config["who"], config.worker, config.index, config.pool_size, config.node)
            async def close(self):
                print(repr(("closed", self.seen)))
        class Made:
            def __init__(self, n): self.n = n
            @on.client_disconnected
            def gone(self, event): print(repr(("gone", self.n)))
            @staticmethod
            @on.session_created
            def created(event): print(repr(("created",)))
        made = Made(7)
    """
    broker = start(source, config={"who": "me"}, worker="shop/2", index=2, pool_size=3)
    broker.describe()
    broker.notify("client.connected", 1, [])
    broker.notify("client.connected", 1, [])
    broker.notify("client.disconnected", 1, [0, ""])
    broker.notify("session.created", 1, [False, 0, None, None])
    broker.stop()
    assert broker.lines() == ""
    who = ("me", "shop/2", 2, 3, "grapnel@test")
    assert recorded(broker) == [("Mine", 1, who), ("Mine", 2, who), ("gone", 7), ("created",), ("closed", 2)]


def test_setup_of_the_module_sync_and_async(start: Start) -> None:
    source = "from grapnel_exhook import on\n@on.client_connected\ndef c(e): print(repr((state,)))\n"
    for setup in ("def setup():", "def setup(config):", "async def setup(config):"):
        broker = start(source + f"{setup}\n    global state\n    state = 5\n")
        broker.describe()
        broker.notify("client.connected", 1, [])
        assert recorded(broker) == [(5,)]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_setup_that_fails_refuses_the_load(start: Start, kind: str) -> None:
    with pytest.raises(Refused, match="ValueError: no database"):
        start(f"from grapnel_exhook import on\n@on.client_connected\ndef c(e): pass\n{kind} setup(c): raise ValueError('no database')")


def test_a_class_without_base_and_instance_is_refused_with_the_remedy(start: Start) -> None:
    with pytest.raises(Refused, match="class Lost has hooks, but neither derives from grapnel_exhook.Hooks"):
        start("from grapnel_exhook import on\nclass Lost:\n    @on.client_connected\n    def c(self, e): pass\n")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("@on.message_publish(topics='a/#')", r"topics=\['a/#'\]"),
        ("@on.message_publish(topics=['a#'])", "no topic filter"),
        ("@on.message_publish(batch=True)", "needs notify=True"),
    ],
)
def test_decorators_refuse_what_cannot_be_meant(start: Start, line: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        start(f"from grapnel_exhook import on\n{line}\ndef hook(event): pass\n")


def test_topics_of_several_hooks_add_up_and_each_gets_its_own(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.message_delivered(topics=["a/#"])
        def a(event): print(repr(("a", event.message.topic)))
        @on.message_delivered(topics=["+/b", "c"])
        def b(event): print(repr(("b", event.message.topic)))
        @on.message_dropped(topics=["x"])
        def x(event): print(repr(("x", event.message.topic)))
        @on.message_dropped(topics=["y"])
        async def y(event): print(repr(("y", event.message.topic)))
    """
    broker = start(source)
    assert broker.hooks["message.delivered"]["topics"] == ["+/b", "a/#", "c"]
    for topic in ("a/b", "a/c", "c", "z/b"):
        broker.notify("message.delivered", 0, message(topic))
    for topic in ("x", "y"):
        broker.notify("message.dropped", 0, [message(topic), "", ""])
    assert recorded(broker) == [("a", "a/b"), ("b", "a/b"), ("a", "a/c"), ("b", "c"), ("b", "z/b"), ("x", "x"), ("y", "y")]


def test_one_hook_without_topics_wants_every_topic(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.message_delivered(topics=["a"])
        def a(event): pass
        @on.message_delivered
        def b(event): pass
    """
    assert start(source).hooks["message.delivered"]["topics"] == []


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_hooks_at_one_point_see_what_those_before_them_changed(start: Start, kind: str) -> None:
    source = f"""
        from grapnel_exhook import *
        @on.message_publish
        def first(event):
            return Modify(topic="moved", add_properties=[("a", "1")]) if event.message.topic != "plain" else None
        @on.message_publish(topics=["moved"])
        {kind} second(event):
            return Modify(payload=event.message.payload + b"!", add_properties=[("b", "2")])
        @on.message_publish(topics=["gone"])
        def third(event):
            return Drop()
        @on.message_publish(notify=True)
        def told(event):
            print(repr((event.message.topic, event.message.payload, event.message.properties)))
    """
    broker = start(source)
    assert broker.request("message.publish", 0, message("t", b"x")) == (
        0,
        {"topic": "moved", "payload": b"x!", "user": [["a", "1"], ["b", "2"]]},
    )
    assert broker.request("message.publish", 0, message("plain", b"x")) == (0, None)
    assert recorded(broker) == [("moved", b"x!", [("a", "1"), ("b", "2")]), ("plain", b"x", [])]


def test_filters_of_several_hooks_add_up(start: Start) -> None:
    source = """
        from grapnel_exhook import *
        @on.client_subscribe
        def first(event):
            return [event.filters[0][0] + "/x", None]
        @on.client_subscribe
        def second(event):
            assert event.filters[0][0] == "a/x"
            return [Rewrite(options=Options(1)), Refuse()]
    """
    broker = start(source)
    broker.describe()
    answer = broker.request("client.subscribe", 1, [[["a", 0], ["b", 0]], None, []])
    assert answer == (0, {"filters": [[0, "a/x", 1, None], [1, None, None, 0x87]]})


def test_the_first_verdict_that_is_last_ends_the_chain(start: Start) -> None:
    source = """
        from grapnel_exhook import *
        @on.client_authorize
        def first(event): return Allow(last=False)
        @on.client_authorize
        def second(event):
            assert event.verdict == Verdict.ALLOW
            return None if event.topic == "x" else False
        @on.client_authorize
        def third(event):
            print(repr(("third",)))
    """
    broker = start(source)
    broker.describe()
    assert broker.request("client.authorize", 1, [1, "y", 0, False, 0]) == (1, {"allow": False})
    assert recorded(broker) == []
    assert broker.request("client.authorize", 1, [1, "x", 0, False, 0]) == (0, {"allow": True})
    assert broker.hooks["client.authorize"]["deliver"] is False


def test_a_verdict_that_ends_the_chain_keeps_what_those_before_it_added(start: Start) -> None:
    source = """
        from grapnel_exhook import *
        @on.client_authenticate
        def first(event): return Allow(superuser=True, last=False)
        @on.client_authenticate
        def second(event): return True
    """
    broker = start(source)
    broker.describe()
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True, "superuser": True})


def test_deliveries_are_only_authorized_if_a_hook_requests_them(start: Start) -> None:
    broker = start("from grapnel_exhook import on\n@on.client_authorize(deliver=True)\ndef a(e): return True\n")
    assert broker.hooks["client.authorize"] == {"point": "client.authorize", "topics": [], "answers": True, "deliver": True}


def test_publish_notifications_do_not_wait(start: Start) -> None:
    broker = start("from grapnel_exhook import on\n@on.message_publish(notify=True, topics=['a'])\ndef p(e): return 5\n")
    assert broker.hooks["message.publish"] == {"point": "message.publish", "topics": ["a"], "answers": False}
    broker.notify("message.publish", 0, message("a"))
    assert broker.lines() == ""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_batch_hook_gets_the_events_of_a_frame(start: Start, kind: str) -> None:
    source = f"""
        from grapnel_exhook import on
        @on.message_delivered(batch=True)
        {kind} store(events):
            print(repr([event.message.payload for event in events]))
            if len(events) == 3: raise ValueError("full")
    """
    broker = start(source)
    for count in (5, 3, 2):
        broker.calls([[0, POINTS["message.delivered"], 0, message("t", b"%d" % n)] for n in range(count)])
        broker.until(lambda: broker.done == broker.requested)
    assert [len(batch) for batch in recorded(broker)] == [5, 3, 2]
    assert "full" in broker.lines()


def test_a_batch_hook_that_waits_gets_the_rest_in_one_list(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        gate = asyncio.Event()
        @on.message_delivered(batch=True)
        async def store(events):
            print(repr([event.message.payload for event in events]))
            await gate.wait()
        @on.client_connected
        def connected(event): gate.set()
    """
    broker = start(source)
    at = POINTS["message.delivered"]
    broker.describe()
    broker.calls([[0, at, 0, message("t", b"0")]])
    broker.until_printed("[b'0']")
    for n in range(1, 4):
        broker.calls([[0, at, 0, message("t", b"%d" % n)]])
    broker.calls([[0, -1, 2, {"client_id": "c2"}]])
    broker.until(lambda: broker.done == broker.requested)
    broker.notify("client.connected", 1, [])
    broker.until_printed("[b'1', b'2', b'3']")
    assert recorded(broker) == [[b"0"], [b"1", b"2", b"3"]]


@pytest.mark.parametrize(("events", "payload"), [(200_000, b""), (64, b"x" * (1 << 20))])
def test_a_batch_hook_that_is_too_far_behind_loses_events_and_says_so(start: Start, events: int, payload: bytes) -> None:
    """200,000 events, or 64 MiB of payloads: so many wait, and not one more."""
    source = """
        import asyncio
        from grapnel_exhook import on
        gate = asyncio.Event()
        @on.message_delivered(batch=True)
        async def store(events):
            print(repr([len(events)]))
            await gate.wait()
        @on.client_connected
        def connected(event): gate.set()
    """
    broker = start(source)
    at = POINTS["message.delivered"]
    broker.describe()
    call = [0, at, 0, message("t", payload)]
    broker.calls([call])
    broker.until_printed("[1]")
    frame = 8 if payload else 2000
    for _ in range(events // frame):
        broker.calls([call] * frame)
        broker.until(lambda: broker.done > broker.requested - 4 * frame)
    broker.until(lambda: broker.done == broker.requested)
    assert "lost" not in broker.lines()
    broker.calls([call] * 3)
    broker.until(lambda: broker.done == broker.requested)
    assert f"store: an event is lost: the batch hook is {events} events behind" in broker.lines().replace("RuntimeError: ", "")
    broker.notify("client.connected", 1, [])
    broker.until_printed(f"[{events}]")
    # Now there is room.
    broker.calls([call])
    broker.until_printed(f"[{events}]\n[1]")


def test_a_batch_hook_beside_others_at_its_point(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.message_delivered(batch=True, topics=["a"])
        def store(events): print(repr(["batch", len(events)]))
        @on.message_delivered(topics=["b"])
        def one(event): print(repr(("one", event.message.topic)))
    """
    broker = start(source)
    broker.calls([[0, POINTS["message.delivered"], 0, message(t)] for t in ("a", "b", "a")])
    broker.until(lambda: broker.done == 3)
    broker.notify("message.delivered", 0, message("b"))
    assert recorded(broker) == [("one", "b"), ["batch", 2], ("one", "b")]


BATCH_BESIDE = {
    "a notification": (
        "message.delivered",
        """
        from grapnel_exhook import on
        @on.message_delivered
        async def one(event): pass
        @on.message_delivered(batch=True)
        {kind} store(events): print(repr([event.message.payload for event in events]))
        """,
    ),
    "a verdict": (
        "message.publish",
        """
        from grapnel_exhook import on
        @on.message_publish
        async def verdict(event): pass
        @on.message_publish(notify=True, batch=True)
        {kind} store(events): print(repr([event.message.payload for event in events]))
        """,
    ),
}


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("beside", BATCH_BESIDE)
def test_a_batch_hook_beside_async_hooks_gets_the_events_of_a_frame_with_it(start: Start, kind: str, beside: str) -> None:
    point, source = BATCH_BESIDE[beside]
    broker = start(source.format(kind=kind))
    answers = point == "message.publish"
    for frame in ([b"1", b"2"], [b"3"]):
        broker.calls([[int(payload) * answers, POINTS[point], 0, message("t", payload)] for payload in frame])
        broker.until_printed(repr(frame), wait_s=3)
    # Events of the last frame before the shutdown are not lost.
    broker.calls([[4 * answers, POINTS[point], 0, message("t", b"4")]])
    assert broker.stop() == 0
    assert recorded(broker) == [[b"1", b"2"], [b"3"], [b"4"]] and broker.lines() == ""


def test_a_batch_hook_counts_the_bytes_of_packets(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        import grapnel_exhook.drivers.own as own
        own._BEHIND_BYTES_MAX = 1000
        gate = asyncio.Event()
        @on.packet_received(batch=True)
        async def store(events):
            print(repr([event.type for event in events]))
            await gate.wait()
        @on.client_connected
        async def connected(event): gate.set()
    """
    broker = start(source)
    for kind in (1, 2, 3, 4):
        broker.notify("packet.received", 0, [kind, bytes(600)])
        broker.until_printed("[1]")
    broker.notify("client.connected", 0, [])
    broker.until_printed("[2, 3]")
    assert "an event is lost" in broker.lines()


ODD_VALUES = """
    import unittest.mock, xmlrpc.client
    class Answers:
        def __getattr__(self, name): return Answers()
    class Raises:
        def __getattribute__(self, name): raise RuntimeError("outside of a request")
    class Unequal:
        __hash__ = None
        def __eq__(self, other): raise RuntimeError("not comparable")
    values = [call, server, answers, raises, unequal] = [
        unittest.mock.call, xmlrpc.client.ServerProxy("http://localhost:1"), Answers(), Raises(), Unequal()
    ]
"""


def test_objects_that_answer_to_any_name_are_no_hooks(start: Start) -> None:
    own = "    from grapnel_exhook import on\n    @on.client_connected\n    def connected(event): print(repr(('connected',)))\n"
    broker = start(ODD_VALUES + own)
    assert [hook["point"] for hook in broker.ready["hooks"]] == ["client.connected"]
    emqx = start(ODD_VALUES + "    def init(): return 0, ([('client_connected', __name__, 'c')], ())\n    def c(info, state): pass\n")
    assert [hook["point"] for hook in emqx.ready["hooks"]] == ["client.connected"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_hook_with_yield_is_refused_since_nothing_would_run_it(start: Start, kind: str) -> None:
    with pytest.raises(Refused, match="hook connected has a yield"):
        start(f"from grapnel_exhook import on\n@on.client_connected\n{kind} connected(event):\n    yield event\n")


@pytest.mark.parametrize("beside", ["", "@on.session_created\nasync def s(event): pass\n"])
def test_a_hook_that_returns_a_coroutine_without_being_async_is_reported(start: Start, beside: str) -> None:
    source = """
        import functools
        from grapnel_exhook import on
        def wrapped(function):
            @functools.wraps(function)
            def wrapper(event): return function(event)
            return wrapper
        @on.client_connected
        @wrapped
        async def connected(event): pass
        @on.message_delivered(batch=True)
        @wrapped
        async def store(events): pass
    """
    import textwrap

    broker = start(textwrap.dedent(source) + beside)
    broker.notify("client.connected", 0, [])
    broker.notify("message.delivered", 0, message())
    broker.until(lambda: sum("returned a coroutine that nobody awaits" in text for _, text in broker.log) == 2, wait_s=3)
    assert "connected" in broker.lines() and "store" in broker.lines()


def test_a_setup_that_returns_a_coroutine_without_being_async_is_awaited_or_refused(start: Start) -> None:
    source = "from grapnel_exhook import on\n@on.client_connected\n{kind} c(e): print(repr((state,)))\n"
    source += "async def later():\n    global state\n    state = 5\nsetup = lambda: later()\nsetup.__module__ = __name__\n"
    broker = start(source.format(kind="async def"))
    broker.notify("client.connected", 0, [])
    assert recorded(broker) == [(5,)]
    with pytest.raises(Refused, match="setup returned a coroutine; make it async def"):
        start(source.format(kind="def"))


def test_the_broker_can_be_called_while_the_module_is_loaded(start: Start) -> None:
    source = """
        from grapnel_exhook import Hooks, broker, on
        broker.publish("from/import")
        class Mine(Hooks):
            def __init__(self): broker.publish("from/init")
            @on.client_connected
            def connected(self, event): pass
    """
    broker = start(source)
    broker.until(lambda: [command[1]["topic"] for command in broker.commands] == ["from/import", "from/init"])


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_notification_hooks_are_called_also_if_a_verdict_fails(start: Start, kind: str) -> None:
    source = f"""
        from grapnel_exhook import on
        @on.message_publish
        {kind} verdict(event):
            return 5 if event.message.topic == "wrong" else 1 / 0
        @on.message_publish(notify=True)
        {kind} told(event):
            print(repr((event.message.topic,)))
    """
    broker = start(source)
    for topic in ("wrong", "raises"):
        code, text = broker.request("message.publish", 0, message(topic))
        assert code == 2 and ("returned 5" in text or "ZeroDivisionError" in text)
    assert recorded(broker) == [("wrong",), ("raises",)]
