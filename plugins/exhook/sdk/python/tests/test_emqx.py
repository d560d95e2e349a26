"""EMQX's hooks: their arguments, the results of their answers, and how modules are loaded.
Expectations come from EMQX's documents and from the SDK's own code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from conftest import Start, recorded
from fake_broker import Refused, message

from grapnel_exhook.drivers.emqx import HOOKS

RAW = """
    NAMES = %r
    def recorder(name):
        def hook(*args):
            print(repr((name, args)))
        return hook
    for name in NAMES:
        globals()[name] = recorder(name)
    def init():
        return (0, ([(name, __name__, name) for name in NAMES], ("the", "state")))
    def deinit():
        print(repr(("deinit",)))
"""
CLIENTINFO = [
    (b"node", b"grapnel@test"), (b"clientid", b"c1"), (b"username", b"ann"), (b"password", b"secret"),
    (b"peerhost", b"10.0.0.7"), (b"sockport", 1883), (b"protocol", b"mqtt"), (b"mountpoint", b""),
    (b"is_superuser", False), (b"anonymous", False),
]  # fmt: skip
CONNINFO = [
    (b"node", b"grapnel@test"), (b"clientid", b"c1"), (b"username", b"ann"), (b"peerhost", b"10.0.0.7"),
    (b"sockport", 1883), (b"proto_name", b"MQTT"), (b"proto_ver", 5), (b"keepalive", 60),
]  # fmt: skip
MESSAGE = [
    (b"node", b"grapnel@test"), (b"id", b"01ab"), (b"qos", 1), (b"from", b"pub"), (b"topic", b"a/b"),
    (b"payload", b"\xffhi"), (b"timestamp", 1_700_000_000_123),
]  # fmt: skip
SENT = message("a/b", b"\xffhi")
OPTS = [(b"nl", 1), (b"qos", 2), (b"rap", 1), (b"rh", 2)]
SESSION = [True, 30, None, None]

# hook, point, what the broker sends, arguments before state, whether the broker waits
TABLE: list[tuple[str, str, Any, list[Any], bool]] = [
    ("client_connect", "client.connect", [], [CONNINFO, [(b"Session-Expiry-Interval", 30), (b"Receive-Maximum", 100)]], False),
    ("client_connack", "client.connack", [0x87, False], [CONNINFO, b"not_authorized", []], False),
    ("client_connected", "client.connected", [], [CLIENTINFO], False),
    ("client_disconnected", "client.disconnected", [0x8D, "keep alive timeout"], [CLIENTINFO, b"keep alive timeout"], False),
    ("client_authenticate", "client.authenticate", [1, None, None], [CLIENTINFO, True], True),
    ("client_check_acl", "client.authorize", [1, "a/b", 1, False, 0], [CLIENTINFO, b"publish", b"a/b", True], True),
    (
        "client_subscribe",
        "client.subscribe",
        [[["a/#", 0b101110], ["ä", 0]], 7, [["k", "v"]]],
        [
            CLIENTINFO,
            [(b"User-Property", [(b"k", b"v")]), (b"Subscription-Identifier", 7)],
            [(b"a/#", 2), ("ä".encode(), 0)],
        ],
        False,
    ),
    ("client_unsubscribe", "client.unsubscribe", [["a/#"], []], [CLIENTINFO, [], [(b"a/#", 0)]], False),
    ("session_created", "session.created", SESSION, [CLIENTINFO], False),
    ("session_subscribed", "session.subscribed", ["a/#", 0b101110, True, 7], [CLIENTINFO, b"a/#", [(b"is_new", True), *OPTS]], False),
    ("session_unsubscribed", "session.unsubscribed", ["a/#", "unsubscribe"], [CLIENTINFO, b"a/#"], False),
    ("session_resumed", "session.resumed", SESSION, [CLIENTINFO], False),
    ("session_discarded", "session.discarded", SESSION, [CLIENTINFO], False),
    ("session_takeovered", "session.takenover", SESSION, [CLIENTINFO], False),
    ("session_terminated", "session.terminated", [True, 30, "expired", None], [CLIENTINFO, b"expired"], False),
    ("message_publish", "message.publish", SENT, [MESSAGE], True),
    ("message_delivered", "message.delivered", SENT, [CLIENTINFO, MESSAGE], False),
    ("message_acked", "message.acked", SENT, [CLIENTINFO, MESSAGE], False),
    ("message_dropped", "message.dropped", [SENT, "broker", "no_subscribers"], [MESSAGE, b"no_subscribers"], False),
]


def test_the_table_has_every_hook_of_emqx() -> None:
    from emqx_extension.hooks import EMQX_HOOK_DICT

    assert {row[0] for row in TABLE} == set(EMQX_HOOK_DICT.values()) == set(HOOKS)


def test_every_hook_gets_its_arguments_in_order_with_the_state_last(start: Start) -> None:
    broker = start(RAW % [row[0] for row in TABLE])
    broker.describe()
    for _, point, data, _, answers in TABLE:
        assert broker.hooks[point]["answers"] is answers and broker.hooks[point]["topics"] == []
        if answers:
            assert broker.request(point, 1, data) == (0, None)
        else:
            broker.notify(point, 1, data)
    assert broker.stop() == 0
    seen = recorded(broker)
    assert seen.pop() == ("deinit",)
    for (name, args), (hook, _, _, expected, _) in zip(seen, TABLE, strict=True):
        assert (name, args) == (hook, (*expected, ("the", "state")))


def test_every_hook_of_the_sdk_is_called_with_what_its_signature_says(start: Start) -> None:
    """With the SDK's class, its decorator, and the parameters of its own methods."""
    source = """
        import inspect
        from emqx_extension.hooks import EmqxHookSdk, hooks_handler, EMQX_HOOK_DICT
        def show(value):
            if hasattr(value, "to_dict"):
                return value.__dict__
            return value
        def make(name):
            signature = inspect.signature(getattr(EmqxHookSdk, name))
            names = [p for p in signature.parameters if p != "self"]
            code = f"def {name}(self, {', '.join(names)}): print(repr(({name!r}, [show(v) for v in ({', '.join(names)},)])))"
            scope = {"show": show}
            exec(code, scope)
            return hooks_handler()(scope[name])
        class Custom(EmqxHookSdk):
            for name in EMQX_HOOK_DICT:
                locals()[name] = make(name)
        emqx_hook = Custom(hook_module=f"{__name__}.emqx_hook")
        def init():
            return emqx_hook.start()
    """
    broker = start(source)
    broker.describe(1, password=b"\xff\x00")
    for _, point, data, _, answers in TABLE:
        if answers:
            assert broker.request(point, 1, data) == (0, None), broker.lines()
        else:
            broker.notify(point, 1, data)
    assert broker.lines() == ""
    seen = dict(recorded(broker))
    assert len(seen) == len(TABLE)
    assert seen["on_client_connected"][0]["password"] == "\udcff\x00"
    assert seen["on_client_connack"][1] == {} and len(seen["on_client_connack"]) == 3
    assert seen["on_message_publish"][0]["from_clientid"] == "pub"
    assert seen["on_message_publish"][0]["payload"] == "\udcffhi"
    assert seen["on_client_subscribe"][1] == {"User-Property": [(b"k", b"v")], "Subscription-Identifier": 7}
    assert seen["on_client_subscribe"][2] == {"a/#": 2, "ä": 0}
    assert seen["on_client_connect"][1] == {"Session-Expiry-Interval": 30, "Receive-Maximum": 100}
    assert seen["on_client_unsubscribe"][1:3] == [{}, {"a/#": 0}]
    assert seen["on_client_disconnected"][1] == "keep alive timeout" and seen["on_message_dropped"][1] == "no_subscribers"
    assert seen["on_client_check_acl"][1:3] == ["publish", "a/b"]
    assert seen["on_session_subscribed"][2] == {"is_new": True, "nl": 1, "qos": 2, "rap": 1, "rh": 2}
    assert all(values[-1] == () for values in seen.values())


def test_client_connack_gets_rc_where_its_signature_has_it(start: Start) -> None:
    source = """
        from emqx_extension.hooks import EmqxHookSdk, hooks_handler
        class Custom(EmqxHookSdk):
            @hooks_handler()
            def on_client_connack(self, conninfo, rc, props, state):
                print(repr((conninfo.clientid, rc, props.to_dict(), state)))
        emqx_hook = Custom(hook_module=f"{__name__}.emqx_hook")
        def init():
            return emqx_hook.start()
    """
    broker = start(source)
    broker.describe()
    broker.notify("client.connack", 1, [0, True])
    assert recorded(broker) == [("c1", "success", {}, ())]


def test_what_is_absent_is_the_empty_string(start: Start) -> None:
    broker = start(RAW % ["client_connect", "client_connected", "client_disconnected", "message_publish"])
    broker.describe(1, username=None, password=None, version=3)
    broker.notify("client.connect", 1, [])
    broker.notify("client.connected", 1, [])
    broker.notify("client.disconnected", 1, [0x8D, None])
    broker.request("message.publish", 0, message("a", b"", publisher=None))
    connect, connected, disconnected, publish = (args for _, args in recorded(broker))
    assert (b"username", b"") in connect[0] and (b"proto_name", b"MQIsdp") in connect[0] and connect[1] == []
    assert (b"username", b"") in connected[0] and (b"password", b"") in connected[0]
    assert disconnected[1] == b"keepalive_timeout"
    assert (b"from", b"") in publish[0] and (b"payload", b"") in publish[0]


@pytest.mark.parametrize(
    ("data", "kind", "result"),
    [
        ([1, "t", 0, False, 0], b"publish", True),
        ([3, "t", 0, False, 1], b"publish", True),
        ([2, "t", 0, False, 2], b"subscribe", False),
    ],
)
def test_check_acl_says_publish_for_a_will_and_the_verdict_so_far(start: Start, data: Any, kind: bytes, result: bool) -> None:
    broker = start(RAW % ["client_check_acl"])
    assert broker.hooks["client.authorize"].get("deliver", False) is False
    broker.describe()
    broker.request("client.authorize", 1, data)
    assert recorded(broker)[0][1][1:4] == (kind, b"t", result)


@pytest.mark.parametrize(("verdict", "anonymous", "result"), [(0, False, False), (0, True, False), (1, False, True), (2, True, False)])
def test_authresult_says_whether_a_hook_before_has_let_it_in(start: Start, verdict: int, anonymous: bool, result: bool) -> None:
    broker = start(RAW % ["client_authenticate"])
    broker.describe(1, anonymous=anonymous)
    broker.request("client.authenticate", 1, [verdict, None, None])
    assert recorded(broker)[0][1][1] is result


ANSWERS = [
    ("(0, True)", (1, {"allow": True}), None),
    ("(0, False)", (1, {"allow": False}), None),
    ("None", (0, None), (0, None)),
    ("(0, None)", (0, None), (0, None)),
    ("(1, 'database')", 2, 2),
    ("True", 2, 2),
    ("(0, 1)", 2, 2),
    ("(2, True)", 2, 2),
    ("(0, True, 3)", 2, 2),
    ("'yes'", 2, 2),
    ("1 / 0", 2, 2),
    ("(0, [(b'topic', b'new'), (b'payload', b'\\xff'), (b'qos', 2)])", 2, (0, {"topic": "new", "payload": b"\xff", "qos": 2})),
    ("(0, [('topic', 'new'), ('payload', '\\udcff\\xe4')])", 2, (0, {"topic": "new", "payload": b"\xff\xc3\xa4"})),
    ("(0, [('payload', '')])", 2, (0, {"payload": b""})),
    ("(0, [])", 2, (0, None)),
    ("(0, [('node', 'n'), ('timestamp', 3)])", 2, (0, None)),
    ("(0, True)", None, 2),
    ("(0, [('qos', 3)])", 2, 2),
    ("(0, [('qos', True)])", 2, 2),
    ("(0, [('payload', 3)])", 2, 2),
    ("(0, [('payload',)])", 2, 2),
    ("(0, [5])", 2, 2),
]


def test_every_answer_comes_to_what_emqx_makes_of_it_or_a_failure(start: Start) -> None:
    source = """
        def answer(*args):
            return eval(open("answer").read())
        def init():
            return 0, ([(n, __name__, "answer") for n in ("client_authenticate", "client_check_acl", "message_publish")], ())
    """
    broker = start(source)
    broker.describe()
    for text, verdict, change in ANSWERS:
        (broker.output.parent / "answer").write_text(text)
        for point, data, expected in [
            ("client.authenticate", [0, None, None], verdict),
            ("client.authorize", [1, "t", 0, False, 0], verdict),
            ("message.publish", message(), change),
        ]:
            if expected is None:
                continue
            got = broker.request(point, 1, data)
            assert got[0] == 2 if expected == 2 else got == expected, (text, point, got)
            if expected == 2:
                assert got[1].startswith("on_")


def test_an_exception_in_every_hook_fails_that_call_alone(start: Start) -> None:
    source = """
        NAMES = %r
        def make(name):
            def hook(*args):
                raise ValueError(name)
            return hook
        for name in NAMES:
            globals()[name] = make(name)
        def init():
            return (0, ([(name, __name__, name) for name in NAMES], ()))
    """
    broker = start(source % [row[0] for row in TABLE])
    broker.describe()
    for name, point, data, _, answers in TABLE:
        if answers:
            code, text = broker.request(point, 1, data)
            assert code == 2 and text == f"on_{name}: ValueError: {name}"
        else:
            broker.notify(point, 1, data)
        assert f"on_{name}: ValueError: {name}" in broker.lines()


def test_topics_as_opts_and_as_the_sdk_passes_them(start: Start) -> None:
    source = """
        def tell(*args): pass
        def init():
            spec = [("message_publish", __name__, "tell", [("topics", ["a/#", b"b"])]),
                    ("message_delivered", __name__, "tell", ["c/+"]),
                    ("message_acked", __name__, "tell", []),
                    (b"message_dropped", __name__.encode(), b"tell", [(b"topics", [])]),
                    ("client_connected", __name__, "tell", [("topics", ["a"])])]
            return 0, (spec, ())
    """
    broker = start(source)
    assert {point: hook["topics"] for point, hook in broker.hooks.items()} == {
        "message.publish": ["a/#", "b"], "message.delivered": ["c/+"], "message.acked": [], "message.dropped": [],
        "client.connected": [],
    }  # fmt: skip


def test_what_a_hook_does_to_its_records_stays_with_it(start: Start) -> None:
    source = """
        def spoil(clientinfo, kind, topic, result, state):
            clientinfo.clear()
        def show(clientinfo, kind, topic, result, state):
            print(repr((len(clientinfo),)))
        def init():
            return 0, ([("client_check_acl", __name__, "spoil"), ("client_check_acl", __name__, "show")], ())
    """
    broker = start(source)
    broker.describe()
    for _ in range(2):
        broker.request("client.authorize", 1, [1, "t", 0, False, 0])
    assert recorded(broker) == [(10,), (10,)]


def test_several_functions_of_a_hook_run_in_order(start: Start) -> None:
    source = """
        def first(message, state):
            print(repr(("first", dict(message)[b"topic"], state)))
            return (0, [("topic", "moved")])
        def second(message, state):
            print(repr(("second", dict(message)[b"topic"], state)))
            return (0, [("payload", "new")])
        def allow_a(clientinfo, kind, topic, result, state):
            return (0, True) if topic == b"a" else None
        def deny(clientinfo, kind, topic, result, state):
            return (0, False)
        def init():
            return 0, ([("message_publish", __name__, "first"), ("message_publish", __name__, "second", [("topics", ["moved"])]),
                        ("client_check_acl", __name__, "allow_a"), ("client_check_acl", __name__, "deny")], 5)
    """
    broker = start(source)
    broker.describe()
    assert broker.request("message.publish", 0, message("t")) == (0, {"topic": "moved", "payload": b"new"})
    assert recorded(broker) == [("first", b"t", 5), ("second", b"moved", 5)]
    assert broker.request("client.authorize", 1, [1, "a", 0, False, 0]) == (1, {"allow": True})
    assert broker.request("client.authorize", 1, [1, "b", 0, False, 0]) == (1, {"allow": False})


def test_messages_below_sys_are_not_shown(start: Start) -> None:
    broker = start(RAW % ["message_publish", "message_delivered", "message_dropped"])
    broker.request("message.publish", 0, message("$SYS/a"))
    broker.notify("message.delivered", 0, message("$SYS/a"))
    broker.notify("message.dropped", 0, [message("$SYS/a"), "", ""])
    broker.request("message.publish", 0, message("$other"))
    assert [name for name, _ in recorded(broker)] == ["message_publish"]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ("(1, 'no database')", "refused: 'no database'"),
        ("None", "returned None, not"),
        ("(0, 5)", "not \\(0, \\(hookspec, state\\)\\)"),
        ("(0, ([], ()))", "is empty"),
        ("(0, ([('client_login', __name__, 'f')], ()))", "names hook 'client_login', which EMQX has not; it has client_connect, "),
        ("(0, ([('client_connect', 'nowhere', 'f')], ()))", "module 'nowhere', which cannot be found"),
        ("(0, ([('client_connect', __name__, 'f.g')], ()))", "hooks.f.g, but there is no 'g'"),
        ("(0, ([('client_connect', __name__, 'x')], ()))", "hooks.x, which cannot be called"),
        ("(0, ([('client_connect', __name__)], ()))", "is not \\(name, module, function\\)"),
        ("(0, ([('message_publish', __name__, 'f', [('topics', ['a#'])])], ()))", "no topic filter"),
        ("(0, ([('message_publish', __name__, 'f', 'a')], ()))", "not a list"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_bad_hookspec_refuses_the_load_and_says_why(start: Start, result: str, says: str) -> None:
    with pytest.raises(Refused, match=says):
        start(f"x = 5\ndef f(*args): pass\ndef init():\n    return {result}\n")


def test_without_init_it_says_so(start: Start) -> None:
    with pytest.raises(Refused, match="no init"):
        start("x = 5\n", driver="emqx")


def test_a_module_with_our_decorators_is_ours_even_with_an_init(start: Start) -> None:
    source = "from grapnel_exhook import on\n@on.client_connected\ndef c(e): pass\ndef init(): raise ValueError\n"
    assert list(start(source).hooks) == ["client.connected"]


def _files() -> list[Path]:
    files = [Path(__file__).parent / "data" / "hooks.py"]
    given = os.environ.get("GRAPNEL_COMPAT_DIR")
    return [*files, Path(given) / "hooks.py"] if given else files


@pytest.mark.parametrize("file", _files(), ids=lambda file: file.parent.name)
def test_a_file_of_the_article_behaves_as_in_the_article(start: Start, file: Path) -> None:
    broker = start(path=[str(file)], init_module="hooks")
    assert set(broker.hooks) == {
        "client.connect", "client.connected", "client.authorize", "client.authenticate", "message.publish",
    }  # fmt: skip
    broker.describe(1, client_id="with", username="ann")
    broker.describe(2, client_id="without", username=None)
    broker.describe(3, client_id="")
    broker.notify("client.connect", 1, [])
    assert [broker.request("client.authenticate", n, [0, None, None])[1] for n in (1, 2, 3)] == [
        {"allow": True}, {"allow": True}, {"allow": False},
    ]  # fmt: skip
    broker.notify("client.connected", 1, [])
    for action in (1, 2):
        assert broker.request("client.authorize", 1, [action, "t", 0, False, 0]) == (1, {"allow": True})
        assert broker.request("client.authorize", 2, [action, "t", 0, False, 0]) == (1, {"allow": False})
    for payload in (b"hello", b"", b"\xff\xfe"):
        assert broker.request("message.publish", 1, message("t", payload)) == (0, None)
    assert broker.stop() == 0
    printed = broker.printed()
    for line in (
        "[Python SDK] [on_client_connect] with connecte", "[Python SDK] [on_client_authenticate] without authenticate",
        "[Python SDK] [on_client_connected] with connected", "[Python SDK] [on_client_check_acl] ann check ACL: publish t",
        "[Python SDK] [on_client_check_acl]  check ACL: subscribe t", "[Python SDK] [on_message_publish] t hello",
        "[Python SDK] [on_message_publish] t \\udcff\\udcfe",
    ):  # fmt: skip
        assert line + "\n" in printed
    assert broker.lines() == ""


def test_connack_shows_what_only_connect_has_also_without_another_hook_of_a_login(start: Start) -> None:
    source = """
        def connack(conninfo, rc, props, state): print(repr((dict(conninfo)[b"keepalive"],)))
        def init(): return (0, ([("client_connack", __name__, "connack")], ()))
    """
    broker = start(source)
    # The broker describes the rest only for these two points.
    assert broker.hooks["client.connect"] == {"point": "client.connect", "topics": [], "answers": False}
    broker.describe(1, keep_alive_s=42)
    broker.notify("client.connect", 1, [])
    broker.calls([[0, -1, 1, {"client_id": "c1", "username": "ann", "peer_host": "10.0.0.7", "peer_port": 50123}]])
    broker.notify("client.connack", 1, [0, False])
    assert recorded(broker) == [(42,)]


@pytest.mark.parametrize("decorator", ["", "@hooks_handler()\n"])
def test_an_async_hook_is_refused_since_nobody_awaits_it(start: Start, decorator: str) -> None:
    source = f"""
from emqx_extension.hooks import hooks_handler
{decorator}async def connected(clientinfo, state): pass
def init(): return (0, ([("client_connected", __name__, "connected")], ()))
"""
    with pytest.raises(Refused, match=r"hooks\.connected, which is async def"):
        start(source)


def test_hooks_without_the_decorator_read_records_as_erlport_gave_them(start: Start) -> None:
    """The raw hooks in EMQX's own examples."""
    source = """
        def authenticate(clientinfo, authresult, state):
            about = dict(clientinfo)
            return (0, about[b"username"].decode() == "ann" and about[b"password"] == b"secret")
        def subscribe(clientinfo, props, topics, state):
            print(repr([topic.decode() for topic, qos in topics if qos > 1]))
            print(repr(dict(props)[b"User-Property"]))
        def publish(message, state):
            payload = dict(message)[b"payload"]
            text = payload.decode("utf-8")
            print(repr((payload, text, text.encode("utf-8", "surrogateescape") == payload, payload.decode("latin-1"))))
            try:
                payload.decode("utf-8", "strict")
            except UnicodeDecodeError:
                print(repr(("strict",)))
        def init():
            names = {"client_authenticate": "authenticate", "client_subscribe": "subscribe", "message_publish": "publish"}
            return 0, ([(hook, __name__, name) for hook, name in names.items()], ())
    """
    broker = start(source)
    broker.describe()
    assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
    broker.notify("client.subscribe", 1, [[["a/#", 0b101110], ["b", 1]], None, [["k", "v"]]])
    assert broker.request("message.publish", 1, message("t", b"\xff\xc3\xa4")) == (0, None)
    shown = (b"\xff\xc3\xa4", "\udcff\xe4", True, "\xff\xc3\xa4")
    assert recorded(broker) == [["a/#"], [(b"k", b"v")], shown, ("strict",)], broker.lines()


def test_props_under_the_decorator_have_to_dict(start: Start) -> None:
    source = """
        from emqx_extension.hooks import EmqxHookSdk, hooks_handler
        class Custom(EmqxHookSdk):
            @hooks_handler()
            def on_client_connect(self, conninfo, props, state):
                print(repr((conninfo.clientid, props.to_dict())))
        emqx_hook = Custom(hook_module=f"{__name__}.emqx_hook")
        def init():
            return emqx_hook.start()
    """
    broker = start(source)
    for number, (version, properties) in enumerate([(5, [["k", "v"]]), (4, [])], 1):
        broker.describe(number, version=version, properties=properties, receive_maximum=None)
        broker.notify("client.connect", number, [])
    assert recorded(broker) == [("c1", {"User-Property": [(b"k", b"v")], "Session-Expiry-Interval": 30}), ("c1", {})]
