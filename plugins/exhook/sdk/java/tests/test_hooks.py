"""EMQX's hooks in Java: their arguments, and the results of their answers. Expectations come from
EMQX's documents, its driver's sources and PROTOCOL.md."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import SHOW, Start, hookspec, recorded, recorder
from java_broker import HERE, POINTS, client, compiled, message


def atom(name: str) -> dict[str, str]:
    return {"atom": name}


def pairs(**values: Any) -> list[tuple[dict[str, str], Any]]:
    return [(atom(key.rstrip("_")), value) for key, value in values.items()]


CLIENTINFO = pairs(
    node=atom("grapnel@test"), clientid=b"c1", username=b"ann", password=b"secret", peerhost=b"10.0.0.7", sockport=1883,
    protocol=atom("mqtt"), mountpoint=b"", is_superuser=False, anonymous=False,
)  # fmt: skip
CONNINFO = pairs(
    node=atom("grapnel@test"), clientid=b"c1", username=b"ann", peerhost=b"10.0.0.7", sockport=1883, proto_name=b"MQTT",
    proto_ver=5, keepalive=60,
)  # fmt: skip
SENT = message("a/b", b"\xffhi", id=0x1AB)
MESSAGE = pairs(
    node=atom("grapnel@test"), id=b"000000000000000000000000000001AB", qos=1, from_=b"pub", topic=b"a/b",
    payload=b"\xffhi", timestamp={"big": 1_700_000_000_123},
)  # fmt: skip
OPTS = pairs(is_new=True, nl=1, qos=2, rap=1, rh=2)
PROPS = [(atom("Session-Expiry-Interval"), 30), (atom("Receive-Maximum"), 100)]
SUBSCRIBE_PROPS = [(atom("User-Property"), [(b"k", b"v")]), (atom("Subscription-Identifier"), 7)]
SESSION = [True, 30, None, None]

# hook, point, what the broker sends, arguments before state, whether the broker waits
TABLE: list[tuple[str, str, Any, list[Any], bool]] = [
    ("client_connect", "client.connect", [], [CONNINFO, PROPS], False),
    ("client_connack", "client.connack", [0x87, False], [CONNINFO, atom("not_authorized"), []], False),
    ("client_connected", "client.connected", [], [CLIENTINFO], False),
    ("client_disconnected", "client.disconnected", [0x8D, "keep alive timeout"], [CLIENTINFO, b"keep alive timeout"], False),
    ("client_authenticate", "client.authenticate", [1, None, None], [CLIENTINFO, True], True),
    ("client_check_acl", "client.authorize", [1, "a/b", 1, False, 0], [CLIENTINFO, atom("publish"), b"a/b", True], True),
    (
        "client_subscribe", "client.subscribe", [[["a/#", 0b101110], ["ä", 0]], 7, [["k", "v"]]],
        [CLIENTINFO, SUBSCRIBE_PROPS, [(b"a/#", 2), ("ä".encode(), 0)]], False,
    ),
    ("client_unsubscribe", "client.unsubscribe", [["a/#"], []], [CLIENTINFO, [], [(b"a/#", 0)]], False),
    ("session_created", "session.created", SESSION, [CLIENTINFO], False),
    ("session_subscribed", "session.subscribed", ["a/#", 0b101110, True, 7], [CLIENTINFO, b"a/#", OPTS], False),
    ("session_unsubscribed", "session.unsubscribed", ["a/#", "unsubscribe"], [CLIENTINFO, b"a/#"], False),
    ("session_resumed", "session.resumed", SESSION, [CLIENTINFO], False),
    ("session_discarded", "session.discarded", SESSION, [CLIENTINFO], False),
    ("session_takeovered", "session.takenover", SESSION, [CLIENTINFO], False),
    ("session_terminated", "session.terminated", [True, 30, "expired", None], [CLIENTINFO, b"expired"], False),
    ("message_publish", "message.publish", SENT, [MESSAGE], True),
    ("message_delivered", "message.delivered", SENT, [CLIENTINFO, MESSAGE], False),
    ("message_acked", "message.acked", SENT, [CLIENTINFO, MESSAGE], False),
    ("message_dropped", "message.dropped", [SENT, "broker", "no_subscribers"], [MESSAGE, b"no_subscribers"], False),
]  # fmt: skip
NAMES = [row[0] for row in TABLE]


def recording(*names: str, state: str = 'Tuple.two("the", "state")') -> str:
    arguments = {row[0]: len(row[3]) for row in TABLE}
    return SHOW + hookspec(*names, state=state) + "".join(recorder(name, arguments[name]) for name in names)


def test_every_hook_gets_its_arguments_in_order_with_the_state_last(start: Start) -> None:
    broker = start(recording(*NAMES))
    broker.describe()
    for _, point, data, _, answers in TABLE:
        assert broker.hooks[point] == {"point": point, "answers": answers, "topics": []}
        if answers:
            assert broker.request(point, 1, data) == (0, None), broker.lines()
        else:
            broker.notify(point, 1, data)
    assert broker.stop() == 0 and broker.lines() == ""
    seen = recorded(broker)
    assert len(seen) == len(TABLE)
    for (name, arguments), (hook, _, _, expected, _) in zip(seen, TABLE, strict=True):
        assert (name, arguments) == (hook, [*expected, ("the", "state")])


# EMQX 4.1 had two jars, one after the other, with these class names.
PACKAGES = ["com.erlport.erlang.term", "erlport.terms"]


def written_for(package: str, file: str) -> str:
    return (HERE / "data" / file).read_text().replace(PACKAGES[0], package)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_main_of_the_raw_driver_is_compiled_and_run_as_it_is(start: Start, package: str) -> None:
    broker = start(path=[str(compiled(written_for(package, "raw/Main.java")))])
    assert broker.hooks["message.publish"]["topics"] == ["t/#", "test/+"]
    broker.describe()
    for name, point, data, _, answers in TABLE:
        if name == "client_authenticate":
            assert broker.request(point, 1, data) == (1, {"allow": True})
        elif name == "client_check_acl":
            assert broker.request(point, 1, data) == (1, {"allow": False})
            assert broker.request(point, 1, [2, "t/1", 0, False, 0]) == (1, {"allow": True})
        elif name == "message_publish":
            payload = bytes(range(256))
            assert broker.request(point, 1, message("t/1", payload)) == (0, {"payload": payload * 2})
        else:
            broker.notify(point, 1, data if not name.startswith("message_") else acknowledged(name, "test/1"))
    assert broker.stop() == 0 and broker.lines() == ""
    lines = broker.printed().splitlines()
    assert lines[0] == "init" and lines[-1] == "deinit"
    called = [line.split()[:2] for line in lines[1:-1]]
    names = [name for name in NAMES for _ in range(1 + (name == "client_check_acl"))]
    # The state is one object; each call gets it as the call before left it.
    assert called == [[name, str(n)] for n, name in enumerate(names, 1)]


def acknowledged(name: str, topic: str) -> list[Any]:
    sent = message(topic, b"\xff")
    return [sent, "broker", "no_subscribers"] if name == "message_dropped" else sent


@pytest.mark.parametrize("package", PACKAGES)
def test_what_emqxs_sdk_for_java_does_with_its_arguments_works(start: Start, package: str) -> None:
    """Methods of an instance, a class in a package, and casts to the types that EMQX's driver delivered."""
    classes = compiled(written_for(package, "sdk/Handler.java"), "Handler")
    broker = start(path=[str(classes)], init_module="shop.Handler", options=("-Dfile.encoding=UTF-8",))
    broker.describe(1, username=None, version=4)
    broker.notify("client.connect", 1, [])
    broker.notify("client.connack", 1, [0, False])
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
    assert broker.request("client.authorize", 1, [2, "t", 0, False, 0]) == (1, {"allow": True})
    assert broker.request("client.authorize", 1, [3, "t", 0, False, 0]) == (1, {"allow": False})
    broker.notify("client.subscribe", 1, [[["ä/#", 2]], None, []])
    broker.notify("client.unsubscribe", 1, [["a"], []])
    broker.notify("session.subscribed", 1, ["a", 1, False, None])
    broker.notify("client.disconnected", 1, [0, None])
    broker.notify("session.terminated", 1, [True, 0, None, 0x8E])
    sent = message("ä", b"\xff\x00", qos=2, publisher="")
    assert broker.request("message.publish", 1, sent) == (0, {"qos": 2, "topic": "ä", "payload": b"\xff\x00"})
    assert broker.stop() == 0 and broker.lines() == ""
    client = "grapnel@test c1 null secret 10.0.0.7 1883 mqtt null false false"
    conn = "grapnel@test c1 null 10.0.0.7 1883 MQTT 4 60"
    seen = [conn, "0 props", conn, "success0", client, client, client, "ä/#2", "a0", "afalse0100", client, "success", client]
    assert f"seen [{', '.join([*seen, 'session_taken_over'])}]" in broker.printed()


def test_client_connack_takes_three_parameters_too(start: Start) -> None:
    broker = start(SHOW + hookspec("client_connack") + recorder("client_connack", 2))
    broker.describe()
    broker.notify("client.connack", 1, [0, True])
    assert recorded(broker) == [("client_connack", [CONNINFO, [], "the state"])]


def test_what_is_absent_is_the_empty_binary(start: Start) -> None:
    broker = start(recording("client_connect", "client_connected", "client_disconnected", "message_publish"))
    broker.describe(1, username=None, password=None, version=3)
    broker.notify("client.connect", 1, [])
    broker.notify("client.connected", 1, [])
    broker.notify("client.disconnected", 1, [0x8D, None])
    broker.request("message.publish", 0, message("a", b"", publisher=None))
    connect, connected, disconnected, publish = (arguments for _, arguments in recorded(broker))
    assert (atom("username"), b"") in connect[0] and (atom("proto_name"), b"MQIsdp") in connect[0] and connect[1] == []
    assert (atom("username"), b"") in connected[0] and (atom("password"), b"") in connected[0]
    assert disconnected[1] == b"keepalive_timeout"
    assert (atom("from"), b"") in publish[0] and (atom("payload"), b"") in publish[0]


def test_numbers_that_32_bits_do_not_hold_are_big_integers(start: Start) -> None:
    broker = start(recording("client_connect"))
    broker.describe(1, session_expiry_s=0xFFFFFFFF, receive_maximum=65535)
    broker.notify("client.connect", 1, [])
    assert recorded(broker)[0][1][1] == [(atom("Session-Expiry-Interval"), {"big": 0xFFFFFFFF})]


@pytest.mark.parametrize("secret", [b"\xff\x00", bytes(range(256))])
def test_passwords_of_any_bytes_come_whole(start: Start, secret: bytes) -> None:
    broker = start(recording("client_authenticate"))
    broker.describe(1, password=secret)
    broker.request("client.authenticate", 1, [0, None, None])
    assert (atom("password"), secret) in recorded(broker)[0][1][0]


def test_check_acl_says_publish_for_a_will_and_the_verdict_so_far(start: Start) -> None:
    broker = start(recording("client_check_acl"))
    assert broker.hooks["client.authorize"].get("deliver", False) is False
    broker.describe()
    for action, verdict in [(1, 0), (3, 1), (2, 2)]:
        broker.request("client.authorize", 1, [action, "t", 0, False, verdict])
    seen = [arguments[1:4] for _, arguments in recorded(broker)]
    assert seen == [[atom("publish"), b"t", True], [atom("publish"), b"t", True], [atom("subscribe"), b"t", False]]


def test_authresult_says_whether_a_hook_before_has_let_it_in(start: Start) -> None:
    broker = start(recording("client_authenticate"))
    broker.describe(1, anonymous=True)
    for verdict in (0, 1, 2):
        broker.request("client.authenticate", 1, [verdict, None, None])
    assert [arguments[1] for _, arguments in recorded(broker)] == [False, True, False]


# Java, what a verdict becomes, what a change becomes; 2 is a failure
ANSWERS: list[tuple[str, Any, Any]] = [
    ("Tuple.two(0, true)", (1, {"allow": True}), 2),
    ("Tuple.two(0, false)", (1, {"allow": False}), 2),
    ('Tuple.two(0, new Atom("true"))', (1, {"allow": True}), 2),
    ('Tuple.two(0, new Atom("false"))', (1, {"allow": False}), 2),
    ("null", (0, None), (0, None)),
    ('new Atom("ok")', (0, None), (0, None)),
    ("Tuple.two(0, null)", (0, None), (0, None)),
    ('Tuple.two(1, "database")', 2, 2),
    ("true", 2, 2),
    ("Tuple.two(0, 1)", 2, 2),
    ('Tuple.two(0, "true")', 2, 2),
    ("Tuple.two(2, true)", 2, 2),
    ("Tuple.two(true, true)", 2, 2),
    ("Tuple.three(0, true, 3)", 2, 2),
    ('"yes"', 2, 2),
    ("42", 2, 2),
    ("Tuple.two(1 / zero, 0)", 2, 2),
    (
        'Tuple.two(0, Arrays.asList(Tuple.two(new Atom("topic"), new Binary("nëw")),'
        ' Tuple.two("payload", new Binary(new byte[] {-1, 0})), Tuple.two(new Binary("qos"), 2)))',
        2, (0, {"topic": "nëw", "payload": b"\xff\x00", "qos": 2}),
    ),
    (
        'Tuple.two(0, List.of(Tuple.two("topic", "new"), Tuple.two("payload", "ä")))',
        2, (0, {"topic": "new", "payload": "ä".encode()}),
    ),
    ('Tuple.two(0, new Object[] {Tuple.two("qos", java.math.BigInteger.ONE)})', 2, (0, {"qos": 1})),
    ('Tuple.two(0, List.of(Tuple.two("payload", "")))', 2, (0, {"payload": b""})),
    ("Tuple.two(0, List.of())", 2, (0, None)),
    ('Tuple.two(0, List.of(Tuple.two("node", new Atom("n")), Tuple.two("timestamp", 3)))', 2, (0, None)),
    ('Tuple.two(0, List.of(Tuple.two("qos", 3)))', 2, 2),
    ('Tuple.two(0, List.of(Tuple.two("qos", true)))', 2, 2),
    ('Tuple.two(0, List.of(Tuple.two("qos", 1.5)))', 2, 2),
    ('Tuple.two(0, List.of(Tuple.two("payload", 3)))', 2, 2),
    ('Tuple.two(0, List.of(Tuple.two("topic", new Binary(new byte[] {-1}))))', 2, 2),
    ('Tuple.two(0, List.of(new Tuple(1)))', 2, 2),
    ("Tuple.two(0, List.of(5))", 2, 2),
    ("deep(0)", 2, 2),
    ("fails()", 2, 2),
]  # fmt: skip


def test_every_answer_comes_to_what_emqx_makes_of_it_or_a_failure(start: Start) -> None:
    cases = "".join(f"case {n}: return {java};\n" for n, (java, _, _) in enumerate(ANSWERS))
    source = f"""
        static int zero = 0;
        static int next = 0;
        static Object deep(int n) {{ return deep(n + 1) + "x"; }}
        static Object fails() {{ throw new NoClassDefFoundError("driver/Sql"); }}
        static Object answer() {{ switch (next++ / 3) {{ {cases} default: return "too many"; }} }}
        public static Object on_client_authenticate(Object c, Object r, Object state) {{ return answer(); }}
        public static Object on_client_check_acl(Object c, Object a, Object t, Object r, Object state) {{ return answer(); }}
        public static Object on_message_publish(Object m, Object state) {{ return answer(); }}
    """
    broker = start(hookspec("client_authenticate", "client_check_acl", "message_publish") + source)
    broker.describe()
    for java, verdict, change in ANSWERS:
        for point, data, expected in [
            ("client.authenticate", [0, None, None], verdict),
            ("client.authorize", [1, "t", 0, False, 0], verdict),
            ("message.publish", message(), change),
        ]:
            got = broker.request(point, 1, data)
            assert got[0] == 2 if expected == 2 else got == expected, (java, point, got)
            if expected == 2:
                assert got[1].startswith("Main.on_"), (java, got)


def test_what_a_failed_answer_says(start: Start) -> None:
    source = """
        public static Object on_message_publish(Object m, Object state) throws Exception {
            switch (((Binary) ((Tuple) ((List<?>) m).get(4)).get(1)).raw[0]) {
                case 'e': return Tuple.two(1, new Binary("no dätabase"));
                case 'w': return 5;
                case 'q': return Tuple.two(0, List.of(Tuple.two("qos", 3)));
                default: throw new java.io.IOException("gone");
            }
        }
    """
    broker = start(hookspec("message_publish") + source)
    says = {
        "e": "Main.on_message_publish: no dätabase",
        "w": "Main.on_message_publish answered 5: not Tuple.two(0, list of pairs)",
        "q": ": qos 3 is not 0, 1 or 2",
        "x": "Main.on_message_publish: java.io.IOException: gone",
    }
    for topic, text in says.items():
        code, told = broker.request("message.publish", 0, message(topic))
        assert code == 2 and text in told


def test_an_exception_in_every_hook_fails_that_call_alone(start: Start) -> None:
    source = ""
    for name, _, _, arguments, _ in TABLE:
        parameters = ", ".join(f"Object a{n}" for n in range(len(arguments) + 1))
        source += f'public static Object on_{name}({parameters}) {{ throw new IllegalStateException("{name}"); }}\n'
    broker = start(hookspec(*NAMES) + source)
    broker.describe()
    for name, point, data, _, answers in TABLE:
        if answers:
            assert broker.request(point, 1, data) == (2, f"Main.on_{name}: java.lang.IllegalStateException: {name}")
        else:
            broker.notify(point, 1, data)
        assert f"Main.on_{name}: java.lang.IllegalStateException: {name}" in broker.lines()
        assert f"at Main.on_{name}(Main.java:" in broker.lines() and "io.grapnel" not in broker.lines()


def test_the_failures_of_a_hook_are_logged_once_a_second(start: Start) -> None:
    source = 'public static void on_message_delivered(Object c, Object m, Object s) { throw new RuntimeException("again"); }'
    broker = start(hookspec("message_delivered") + source)
    for _ in range(100):
        broker.notify("message.delivered", 0, message())
    assert 1 <= len(broker.log) < 50 and broker.log[0][0] == 1


MATCHES = [
    # MQTT 5.0, 4.7.1-4.7.3
    ("sport/tennis/#", ["sport/tennis", "sport/tennis/player1", "sport/tennis/player1/ranking"], ["sport"]),
    ("sport/#", ["sport", "sport/"], ["sports", "a/sport"]),
    ("#", ["a", "/", "a/b/c", "ä"], ["$other", "$other/a"]),
    ("sport/tennis/+", ["sport/tennis/player1", "sport/tennis/"], ["sport/tennis", "sport/tennis/player1/ranking"]),
    ("+", ["sport"], ["/sport", "sport/", "$other"]),
    ("+/+", ["/finance", "a/b"], ["$other/a", "a"]),
    ("/+", ["/finance"], ["finance", "/a/b"]),
    ("+/tennis/#", ["a/tennis", "a/tennis/b"], ["$other/tennis"]),
    ("$other/#", ["$other", "$other/monitor/Clients"], ["other"]),
    ("$other/monitor/+", ["$other/monitor/Clients"], ["$other/monitor"]),
    ("a//b", ["a//b"], ["a/b"]),
    ("ACCOUNTS", ["ACCOUNTS"], ["Accounts", "ACCOUNTS/"]),
]  # fmt: skip


def test_each_hook_with_topics_is_called_for_those_that_match(start: Start) -> None:
    actions = [
        f'Tuple.four("message_publish", "Main", "on{n}", List.of(Tuple.two("topics", List.of("{filter}"))))'
        for n, (filter, _, _) in enumerate(MATCHES)
    ]
    methods = "".join(f'public static void on{n}(Object m, Object s) {{ said("{n}"); }}\n' for n in range(len(MATCHES)))
    init = f"public static Object init() {{ return Tuple.two(0, Tuple.two(Arrays.asList({', '.join(actions)}), null)); }}"
    broker = start(SHOW + methods + init)
    topics = sorted({topic for _, yes, no in MATCHES for topic in (*yes, *no)})
    for topic in topics:
        before = len(recorded(broker))
        assert broker.request("message.publish", 0, message(topic)) == (0, None)
        called = {int(name) for name, _ in recorded(broker)[before:]}
        for n, (filter, yes, no) in enumerate(MATCHES):
            if topic in yes or topic in no:
                assert (n in called) == (topic in yes), (filter, topic)


def test_one_hook_without_topics_wants_all(start: Start) -> None:
    source = """
        public static void tell(Object a, Object s) { said("every"); }
        public static void some(Object a, Object s) { said("some"); }
        public static Object init() {
            return Tuple.two(0, Tuple.two(Arrays.asList(Tuple.three("message_publish", "Main", "tell"),
                Tuple.four("message_publish", "Main", "some", List.of(Tuple.two("topics", List.of("a"))))), null));
        }
    """
    broker = start(SHOW + source)
    assert broker.hooks["message.publish"]["topics"] == []
    broker.request("message.publish", 0, message("a"))
    broker.request("message.publish", 0, message("b"))
    assert [name for name, _ in recorded(broker)] == ["every", "some", "every"]


def test_one_hook_alone_takes_what_the_broker_sends(start: Start) -> None:
    """The operator may have replaced the hook's topics; the broker filters."""
    source = """
        public static Object init() {
            return Tuple.two(0, Tuple.two(List.of(Tuple.four("message_publish", "Main", "on_message_publish",
                List.of(Tuple.two("topics", List.of("a"))))), null));
        }
    """
    broker = start(SHOW + source + recorder("message_publish", 1))
    assert broker.hooks["message.publish"]["topics"] == ["a"]
    broker.request("message.publish", 0, message("other"))
    assert len(recorded(broker)) == 1


def test_messages_below_sys_are_not_shown(start: Start) -> None:
    broker = start(recording("message_publish", "message_delivered", "message_acked", "message_dropped"))
    assert broker.request("message.publish", 0, message("$SYS/a")) == (0, None)
    broker.notify("message.delivered", 0, message("$SYS/a"))
    broker.notify("message.acked", 0, message("$SYS/a"))
    broker.notify("message.dropped", 0, [message("$SYS/a"), "", ""])
    broker.request("message.publish", 0, message("$SYSTEM"))
    assert [name for name, _ in recorded(broker)] == ["message_publish"]


def test_several_methods_of_a_hook_run_in_order(start: Start) -> None:
    source = """
        static Object topic(Object m) { return ((Tuple) ((List<?>) m).get(4)).get(1); }
        public static Object first(Object m, Object s) {
            said("first", topic(m), s);
            return Tuple.two(0, List.of(Tuple.two("topic", "moved")));
        }
        public static Object second(Object m, Object s) {
            said("second", topic(m), s);
            return Tuple.two(0, List.of(Tuple.two("payload", "new")));
        }
        public static Object allowA(Object c, Object a, Object t, Object r, Object s) {
            return ((Binary) t).raw[0] == 'a' ? Tuple.two(0, true) : null;
        }
        public static Object deny(Object c, Object a, Object t, Object r, Object s) { return Tuple.two(0, false); }
        public static void fail(Object c, Object s) { throw new RuntimeException("first one"); }
        public static void after(Object c, Object s) { said("after"); throw new RuntimeException("second one"); }
        public static Object init() {
            return Tuple.two(0, Tuple.two(Arrays.asList(
                Tuple.three("message_publish", "Main", "first"),
                Tuple.four("message_publish", "Main", "second", List.of(Tuple.two("topics", List.of("moved")))),
                Tuple.three("client_check_acl", "Main", "allowA"), Tuple.three("client_check_acl", "Main", "deny"),
                Tuple.three("client_connected", "Main", "fail"), Tuple.three("client_connected", "Main", "after")), 5));
        }
    """
    broker = start(SHOW + source)
    broker.describe()
    assert broker.request("message.publish", 0, message("t")) == (0, {"topic": "moved", "payload": b"new"})
    assert recorded(broker) == [("first", [b"t", 5]), ("second", [b"moved", 5])]
    assert broker.request("client.authorize", 1, [1, "a", 0, False, 0]) == (1, {"allow": True})
    assert broker.request("client.authorize", 1, [1, "b", 0, False, 0]) == (1, {"allow": False})
    broker.notify("client.connected", 1, [])
    assert recorded(broker)[-1] == ("after", [])
    assert "Main.fail: java.lang.RuntimeException: first one" in broker.lines() and "second one" not in broker.lines()


def test_what_a_hook_does_to_its_arguments_stays_with_it(start: Start) -> None:
    source = """
        public static Object spoil(Object client, Object action, Object topic, Object result, Object state) {
            for (Object each : (List<?>) client)
                if (((Tuple) each).get(1) instanceof Binary && ((Binary) ((Tuple) each).get(1)).raw.length > 0)
                    ((Binary) ((Tuple) each).get(1)).raw[0] = 'X';
            ((List<?>) client).clear();
            ((Binary) topic).raw[0] = 'X';
            return null;
        }
        public static void change(Object m, Object state) {
            ((Binary) ((Tuple) ((List<?>) m).get(5)).get(1)).raw[0] = 'X';
        }
        public static Object init() {
            return Tuple.two(0, Tuple.two(Arrays.asList(
                Tuple.three("client_check_acl", "Main", "spoil"), Tuple.three("client_check_acl", "Main", "on_client_check_acl"),
                Tuple.three("message_publish", "Main", "change"), Tuple.three("message_publish", "Main", "on_message_publish")),
                null));
        }
    """
    broker = start(SHOW + source + recorder("client_check_acl", 4) + recorder("message_publish", 1))
    broker.describe()
    for _ in range(2):
        broker.request("client.authorize", 1, [1, "t", 0, False, 0])
        assert recorded(broker)[-1][1] == [CLIENTINFO, atom("publish"), b"t", True, None]
        broker.request("message.publish", 1, SENT)
        assert recorded(broker)[-1][1] == [MESSAGE, None]


def test_two_logins_with_one_identifier_are_checked_by_their_own_passwords(start: Start) -> None:
    source = """
        public static Object on_client_authenticate(Object client, Object result, Object state) {
            byte[] secret = ((Binary) ((Tuple) ((List<?>) client).get(3)).get(1)).raw;
            return Tuple.two(0, Arrays.equals(secret, "right".getBytes()));
        }
    """
    broker = start(SHOW + hookspec("client_authenticate", "client_connected") + source + recorder("client_connected", 1))
    at = POINTS["client.authenticate"]
    wrong = client("c1", password=b"wrong", peer_port=1)
    right = client("c1", password=b"right", peer_port=2)
    frame = []
    for ident, who in enumerate([wrong, right, wrong, right], 1):
        frame += [[0, -1, 1, who], [ident, at, 1, [0, None, None]]]
    broker.calls([*frame, [0, -1, 1, wrong], [0, -2, 1, None]])
    broker.until(lambda: len(broker.answers) == 4)
    assert [broker.answers[n][1]["allow"] for n in (1, 2, 3, 4)] == [False, True, False, True]
    # One connection takes the identifier over from the other, with a short description: earlier
    # values remain.
    short = {key: right[key] for key in ("client_id", "username", "peer_host", "peer_port", "version")}
    broker.calls([[0, -1, 2, {**short, "username": "bob"}]])
    broker.notify("client.connected", 2, [])
    info = {key["atom"]: value for key, value in recorded(broker)[-1][1][0]}
    assert info["sockport"] == 1883 and info["username"] == b"bob" and info["password"] == b""


def test_what_is_not_said_again_still_holds_of_that_connection_alone(start: Start) -> None:
    broker = start(recording("client_connected"))

    def told(**said: Any) -> dict[str, Any]:
        broker.calls([[0, -1, 1, {"client_id": "c1", **said}]])
        broker.notify("client.connected", 1, [])
        return {key["atom"]: value for key, value in recorded(broker)[-1][1][0]}

    here, there = {"peer_host": "10.0.0.7", "peer_port": 1}, {"peer_host": "10.0.0.8", "peer_port": 1}
    assert told(**here, username="ann", password=b"secret", local_port=1883)["password"] == b"secret"
    again = told(**here, superuser=True)
    assert (again["username"], again["sockport"], again["is_superuser"], again["password"]) == (b"ann", 1883, True, b"")
    # Another connection of the same identifier has none of these values.
    other = told(**there)
    assert (other["username"], other["sockport"], other["is_superuser"]) == (b"", 0, False)
    # Without an address, it means the connection that was described last.
    assert told(username="eve")["peerhost"] == b"10.0.0.8"
    assert told(**here)["username"] == b"ann"


def test_the_terms_are_values(start: Start) -> None:
    """What users' code may do with the values besides reading: compare, print, change."""
    source = """
        public static Object on_message_publish(Object m, Object state) {
            Tuple tuple = new Tuple(2);
            tuple.set(0, new Atom("a"));
            tuple.set(1, new Binary("b"));
            said("terms", tuple.equals(Tuple.two(new Atom("a"), new Binary("b"))), tuple.length(), tuple.get(1),
                new HashSet<>(List.of(new Atom("x"))).contains(new Atom("x", "ISO-8859-1")), new Atom("a").equals("a"),
                new Binary("ä"), tuple.elements[0], Tuple.four(1, 2, 3, 4).get(3), tuple.hashCode() == tuple.hashCode());
            System.out.println("texts " + new Atom("x") + tuple.get(1) + Tuple.two(1, "2"));
            return null;
        }
    """
    broker = start(SHOW + hookspec("message_publish") + source)
    assert broker.request("message.publish", 0, message()) == (0, None)
    ((_, values),) = recorded(broker)
    texts = next(line for line in broker.printed().splitlines() if line.startswith("texts "))
    assert values == [True, 2, b"b", True, False, "ä".encode(), atom("a"), 4, True]
    assert "x" in texts and "98" in texts and "[1, 2]" in texts


