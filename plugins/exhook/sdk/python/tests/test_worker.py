"""The worker from the broker's side: frames, failures, order, the end. The drivers' tests check
hooks."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from conftest import Start
from fake_broker import POINTS, SOURCES, FakeBroker, Refused, client, message

ECHO = """
    from grapnel_exhook import on, Modify
    @on.message_publish
    def publish(event):
        return Modify(payload=event.message.payload, topic=event.message.topic)
"""


def test_ready_names_sdk_process_and_hooks(start: Start) -> None:
    broker = start(ECHO)
    assert broker.ready["sdk"].startswith("grapnel-exhook ")
    assert broker.ready["hooks"] == [{"point": "message.publish", "topics": [], "answers": True}]


@pytest.mark.parametrize("payload", [b"", bytes(range(256)), b"\xff" * 100_000])
def test_payloads_of_any_bytes_come_and_go(start: Start, payload: bytes) -> None:
    assert start(ECHO).request("message.publish", 0, message("t", payload)) == (0, {"payload": payload, "topic": "t"})


def test_a_topic_of_65535_bytes_comes_and_goes(start: Start) -> None:
    topic = "ä" * 32767 + "x"
    assert start(ECHO).request("message.publish", 0, message(topic, b""))[1] == {"topic": topic, "payload": b""}


def test_the_answers_to_a_frame_of_calls_come_together(start: Start) -> None:
    broker = start(ECHO)
    broker.calls([[n, POINTS["message.publish"], 0, message()] for n in range(1, 301)])
    broker.until(lambda: broker.done == 300)
    # One frame, or a few on a slow machine: answers wait at most 20 ms for later ones.
    assert len(broker.answers) == 300 and broker.frames_of_answers <= 10


def test_frames_in_pieces_are_put_together(start: Start) -> None:
    import msgpack

    broker = start(ECHO)
    body = msgpack.packb([1, [[7, POINTS["message.publish"], 0, message("t", b"x")]]])
    broker.requested += 1
    for byte in len(body).to_bytes(4, "little") + body:
        broker.socket.send(bytes([byte]))
    broker.until(lambda: 7 in broker.answers)


def test_answers_that_do_not_fit_into_a_frame_are_split(start: Start) -> None:
    broker = start(ECHO, frame_bytes_max=64 * 1024)
    broker.calls([[n, POINTS["message.publish"], 0, message("t", b"x" * 30_000)] for n in range(1, 11)])
    broker.until(lambda: broker.done == 10)
    assert all(code == 0 for code, _ in broker.answers.values()) and broker.frames_of_answers >= 5


def test_an_answer_longer_than_a_frame_is_a_failure(start: Start) -> None:
    source = """
        from grapnel_exhook import on, Modify
        @on.message_publish
        def publish(event):
            return Modify(payload=bytes(100 << 20))
    """
    code, text = start(source, frame_bytes_max=64 * 1024).request("message.publish", 0, message())
    assert code == 2 and "frame_bytes_max" in text


def test_an_answer_that_cannot_be_packed_fails_alone(start: Start) -> None:
    source = """
        from grapnel_exhook import on, Modify
        @on.message_publish
        def publish(event):
            return Modify(content_type="\\udcff") if event.message.topic == "bad" else Modify(qos=0)
    """
    broker = start(source)
    topics = ["good", "bad", "good"]
    broker.calls([[n, POINTS["message.publish"], 0, message(t)] for n, t in enumerate(topics, 1)])
    broker.until(lambda: broker.done == 3)
    assert [broker.answers[n][0] for n in (1, 2, 3)] == [0, 2, 0]


@pytest.mark.parametrize(
    ("setup", "source", "says"),
    [
        ({"init_module": "nowhere"}, ECHO, "no module nowhere"),
        ({"path": ["/does/not/exist"]}, ECHO, "/does/not/exist does not exist"),
        ({"protocol": 2}, ECHO, "protocol 2"),
        ({"init_module": "socket"}, ECHO, "init_module socket has the name of a module that Python has loaded itself"),
        ({"driver": "python2"}, ECHO, "python2"),
        ({"points": {"client.connect": 0}}, ECHO, "no hook point message.publish"),
        ({}, "import does_not_exist_either\n", "ModuleNotFoundError: No module named 'does_not_exist_either'"),
        ({}, "1 / 0\n", "ZeroDivisionError"),
        ({}, "raise SystemExit(3)\n", "SystemExit: 3"),
        ({}, "def (\n", "SyntaxError"),
        ({}, "x = 1\n", "has no hooks"),
    ],
)
def test_what_cannot_be_loaded_says_why(start: Start, setup: dict, source: str, says: str) -> None:
    with pytest.raises(Refused, match=says.replace("/", "\\/")):
        start(source, **setup)


def test_the_worker_ends_after_it_has_refused(start: Start, tmp_path) -> None:
    (tmp_path / "hooks.py").write_text("1 / 0\n")
    with FakeBroker(tmp_path, path=[str(tmp_path)]) as broker:
        with pytest.raises(Refused):
            broker.start()
        assert broker.process.wait(5) == 1


def test_a_long_traceback_shows_its_end(start: Start) -> None:
    source = "def f(n):\n    if n: f(n - 1)\n    raise ValueError('x' * 9000 + 'the end')\nf(200)\n"
    with pytest.raises(Refused, match="the end") as refused:
        start(source)
    assert len(str(refused.value)) < 7000


def test_a_file_as_path_is_found_in_its_folder(start: Start, tmp_path) -> None:
    (tmp_path / "other.py").write_text("VALUE = 1\n")
    (tmp_path / "hooks.py").write_text("import other\nfrom grapnel_exhook import on\n@on.client_connected\ndef c(e): pass\n")
    assert start(path=[str(tmp_path / "hooks.py")]).hooks


def test_prints_go_to_standard_output_line_by_line(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.message_delivered
        def delivered(event):
            print("got", event.message.payload.decode("utf-8", "surrogateescape"))
    """
    broker = start(source)
    broker.notify("message.delivered", 0, message("t", b"\xfftext"))
    assert "got \\udcfftext" in broker.printed()


def test_logging_goes_to_the_brokers_log_with_its_level(start: Start) -> None:
    source = """
        import logging
        from grapnel_exhook import on
        log = logging.getLogger("shop")
        @on.client_connected
        def connected(event):
            for level in (10, 20, 30, 40, 50):
                log.log(level, "level %d", level)
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("look")
    """
    broker = start(source)
    broker.describe()
    broker.notify("client.connected", 1, [])
    expected = [(3, "shop: level 20"), (2, "shop: level 30"), (1, "shop: level 40"), (1, "shop: level 50")]
    assert broker.log[:4] == expected
    assert broker.log[4][1].startswith("shop: look\nTraceback") and "ZeroDivisionError" in broker.log[4][1]
    debug = start(config={"log_level": "debug"})
    debug.describe()
    debug.notify("client.connected", 1, [])
    assert (4, "shop: level 10") in debug.log


def test_failures_in_a_flood_are_logged_without_one(start: Start) -> None:
    source = """
        from grapnel_exhook import on
        @on.message_delivered
        def delivered(event):
            raise ValueError("every time")
    """
    broker = start(source)
    broker.calls([[0, POINTS["message.delivered"], 0, message()] for _ in range(5000)])
    broker.until(lambda: broker.done == 5000)
    lines = [text for _, text in broker.log if "every time" in text]
    assert 1 <= len(lines) <= 3 and "Traceback" in lines[0] and "delivered" in lines[0]


def test_sys_exit_in_a_hook_is_a_failure_of_the_hook(start: Start) -> None:
    source = """
        import sys
        from grapnel_exhook import on
        @on.client_authorize
        def authorize(event):
            sys.exit(4)
    """
    broker = start(source)
    broker.describe()
    assert broker.request("client.authorize", 1, [1, "t", 0, False, 0]) == (2, "authorize: SystemExit: 4")
    assert broker.process.poll() is None


WAITS = """
    import asyncio
    from grapnel_exhook import on
    gates = {}
    @on.client_authorize
    async def authorize(event):
        if event.topic.startswith("wait"):
            await gates.setdefault(event.topic, asyncio.Event()).wait()
        return True
    @on.message_delivered
    async def delivered(event):
        if event.message.topic.startswith("wait"):
            await gates.setdefault(event.message.topic, asyncio.Event()).wait()
        print(repr((event.client.client_id, event.message.topic)))
    @on.message_acked
    def acked(event):
        gates.setdefault(event.message.topic, asyncio.Event()).set()
"""


def test_a_verdict_that_waits_does_not_hold_the_others(start: Start) -> None:
    broker = start(WAITS)
    broker.describe()
    slow = broker.begin("client.authorize", 1, [1, "wait", 0, False, 0])
    for n in range(50):
        assert broker.request("client.authorize", 1, [1, f"t{n}", 0, False, 0]) == (1, {"allow": True})
    assert slow not in broker.answers
    broker.calls([[0, POINTS["message.acked"], 0, message("wait")]])
    broker.until(lambda: slow in broker.answers)
    broker.until(lambda: broker.done == broker.requested)


def test_notifications_of_one_client_keep_their_order_behind_one_that_waits(start: Start) -> None:
    from conftest import recorded

    broker = start(WAITS)
    broker.calls([[0, -1, n, {"client_id": f"c{n}"}] for n in (1, 2)])
    at = POINTS["message.delivered"]
    calls = [(1, "1"), (1, "wait/1"), (1, "2"), (2, "a"), (1, "wait/2"), (1, "3"), (2, "b")]
    broker.calls([[0, at, n, message(t)] for n, t in calls])
    # The other client's notifications pass; those of this client wait, including those of later
    # frames.
    broker.until_printed("('c2', 'b')")
    broker.calls([[0, at, 1, message("4")], [0, at, 2, message("c")]])
    broker.until_printed("('c2', 'c')")
    # Suspended calls do not block the broker from sending.
    broker.until(lambda: broker.done == broker.requested)
    assert recorded(broker) == [("c1", "1"), ("c2", "a"), ("c2", "b"), ("c2", "c")]
    broker.notify_only("message.acked", "wait/1")
    broker.until_printed("('c1', '2')")
    broker.notify_only("message.acked", "wait/2")
    broker.until_printed("('c1', '4')")
    mine = [topic for who, topic in recorded(broker) if who == "c1"]
    assert mine == ["1", "wait/1", "2", "wait/2", "3", "4"]


def test_hooks_begin_in_the_order_of_events_whether_async_or_not(start: Start) -> None:
    from conftest import recorded

    source = """
        import asyncio
        from grapnel_exhook import on
        @on.client_connected
        async def connected(event): print(repr(("connected",)))
        @on.message_delivered
        def delivered(event): print(repr(("delivered",)))
        @on.client_authorize
        def authorize(event): print(repr(("authorize",)))
        @on.client_disconnected
        async def disconnected(event): print(repr(("disconnected",)))
    """
    broker = start(source)
    points = ["client.connected", "client.authorize", "message.delivered", "client.disconnected"]
    data = [[], [1, "t", 0, False, 0], message(), [0, ""]]
    broker.describe()
    broker.calls([[int("auth" in point), POINTS[point], 1, each] for point, each in zip(points, data, strict=True)])
    broker.until(lambda: broker.done == broker.requested)
    assert recorded(broker) == [("connected",), ("authorize",), ("delivered",), ("disconnected",)]


LOGINS = {
    "sync": """
        from grapnel_exhook import on
        @on.client_authenticate
        def login(event): return event.client.password == b"right"
    """,
    "async": """
        import asyncio
        from grapnel_exhook import on
        @on.client_authenticate
        async def login(event):
            event.client.attributes["tried"] = event.client.password
            await asyncio.sleep(0.01)
            return event.client.password == b"right"
        @on.client_connected
        def connected(event):
            assert event.client.attributes["tried"] == b"right" and event.client.keep_alive_s == 60
    """,
    "emqx": """
        def login(clientinfo, result, state):
            return (0, dict(clientinfo)[b"password"] == b"right")
        def init():
            return 0, ([("client_authenticate", __name__, "login")], ())
    """,
    "amqtt": """
        import asyncio
        from amqtt.plugins.base import BaseAuthPlugin
        class Login(BaseAuthPlugin):
            async def authenticate(self, *, session):
                await asyncio.sleep(0.01)
                return session.password == "right"
            async def on_broker_client_connected(self, *, client_id, client_session):
                assert client_session.password == "right" and client_session.keep_alive == 60
    """,
}


@pytest.mark.parametrize("kind", LOGINS)
def test_two_logins_with_one_identifier_are_checked_by_their_own_passwords(start: Start, kind: str) -> None:
    from fake_broker import client

    amqtt = {"driver": "amqtt", "config": {"plugins": {"hooks.Login": {}}}} if kind == "amqtt" else {}
    broker = start(LOGINS[kind], **amqtt)
    at = POINTS["client.authenticate"]
    wrong = client("c1", password=b"wrong", peer_port=1, keep_alive_s=9)
    right = client("c1", password=b"right", peer_port=2)
    # In one frame, with one number, because both claim the same client identifier.
    frame = []
    for ident, who in enumerate([wrong, right, wrong, right], 1):
        frame += [[0, -1, 1, who], [ident, at, 1, [0, None, None]]]
    broker.calls([*frame, [0, -1, 1, wrong], [0, -2, 1, None]])
    broker.until(lambda: len(broker.answers) == 4)
    assert [broker.answers[n][1]["allow"] for n in (1, 2, 3, 4)] == [False, True, False, True]
    # A description of one connection is not used for the other.
    broker.calls([[0, -1, 2, right], [5, at, 2, [0, None, None]], [0, -1, 2, wrong], [6, at, 2, [0, None, None]]])
    broker.until(lambda: {5, 6} <= set(broker.answers))
    if "client.connected" in broker.hooks:
        # The connected client is described when it goes, and the number is forgotten.
        broker.calls([[0, -1, 2, wrong], [0, -2, 2, None]])
        short = {key: right[key] for key in ("client_id", "username", "peer_host", "peer_port", "version")}
        broker.calls([[0, -1, 3, short]])
        broker.notify("client.connected", 3, [])
    assert "rror" not in broker.lines()


def test_timeouts_of_asyncio_work_from_the_first_step(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        @on.client_authorize
        async def authorize(event):
            assert asyncio.current_task() is not None
            try:
                await asyncio.wait_for(asyncio.sleep(60), 0.05)
            except asyncio.TimeoutError:
                pass
            if hasattr(asyncio, "timeout"):
                try:
                    async with asyncio.timeout(0.05):
                        await asyncio.sleep(60)
                except TimeoutError:
                    return False
            return False
    """
    broker = start(source)
    broker.describe()
    ids = [broker.begin("client.authorize", 1, [1, "t", 0, False, 0]) for _ in range(20)]
    broker.until(lambda: all(i in broker.answers for i in ids), wait_s=5)
    assert {broker.answers[i] for i in ids if broker.answers[i][0] == 2} == set()
    assert all(broker.answers[i][1] == {"allow": False} for i in ids)


def test_exceptions_after_waiting_and_cancelling_oneself_are_failures(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        @on.client_authorize
        async def authorize(event):
            if event.topic == "late":
                await asyncio.sleep(0.01)
                raise ValueError("late")
            if event.topic == "cancelled":
                raise asyncio.CancelledError
            asyncio.current_task().cancel()
            await asyncio.sleep(1)
    """
    broker = start(source)
    broker.describe()
    for topic, says in [("late", "ValueError: late"), ("cancelled", "CancelledError"), ("self", "CancelledError")]:
        code, text = broker.request("client.authorize", 1, [1, topic, 0, False, 0])
        assert code == 2 and says in text


def test_what_waits_does_not_keep_the_broker_from_sending_on_up_to_a_limit(start: Start) -> None:
    broker = start(WAITS)
    at = POINTS["message.delivered"]
    for frame in range(25):
        broker.calls([[0, at, 0, message("wait")] for _ in range(500)])
    # 10,000 count when they suspend, the rest when they end.
    broker.until(lambda: broker.done >= 10_000)
    assert broker.request("client.authorize", 0, [1, "t", 0, False, 0]) == (1, {"allow": True})
    assert broker.done == 10_001
    broker.notify_only("message.acked", "wait")
    broker.until(lambda: broker.done == broker.requested)


def test_what_an_async_notification_returns_does_not_count(start: Start) -> None:
    broker = start("from grapnel_exhook import on\n@on.message_delivered\nasync def d(event): return 5\n")
    broker.notify("message.delivered", 0, message())
    assert broker.lines() == ""


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_whatever_a_hook_raises_the_worker_stays(start: Start, kind: str) -> None:
    source = f"""
        from grapnel_exhook import on
        class Odd(BaseException): pass
        @on.client_authorize
        {kind} authorize(event):
            raise {{"odd": Odd, "deep": RecursionError, "exit": GeneratorExit, "key": KeyboardInterrupt, "mem": MemoryError}}[event.topic]
    """
    broker = start(source)
    for topic in ("odd", "deep", "exit", "key", "mem"):
        assert broker.request("client.authorize", 0, [1, topic, 0, False, 0])[0] == 2


def test_sync_hooks_may_run_event_loops_of_their_own(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        async def ask():
            await asyncio.sleep(0)
            return True
        @on.client_authorize
        def authorize(event):
            return asyncio.run(ask())
    """
    broker = start(source)
    broker.describe()
    assert broker.request("client.authorize", 1, [1, "t", 0, False, 0]) == (1, {"allow": True})


def test_answers_before_a_slow_sync_hook_are_not_held_back_by_it(start: Start) -> None:
    source = """
        import time
        from grapnel_exhook import on
        @on.client_authorize
        def authorize(event):
            if event.topic == "slow": time.sleep(0.1)
            if event.topic == "slower": time.sleep(3)
    """
    broker = start(source)
    broker.describe()
    broker.calls([[n, POINTS["client.authorize"], 1, [1, t, 0, False, 0]] for n, t in [(1, "x"), (2, "slow"), (3, "slower")]])
    broker.until(lambda: 2 in broker.answers, wait_s=2)
    assert 3 not in broker.answers


def test_commands_from_hooks_tasks_and_threads(start: Start) -> None:
    source = """
        import asyncio, threading
        from grapnel_exhook import on, broker, Options
        class Own:
            pass
        async def later():
            await asyncio.sleep(0.05)
            broker.kick("task")
        async def setup(config):
            broker.publish("from/setup", "ä")
            asyncio.get_running_loop().create_task(later())
            threading.Thread(target=lambda: broker.invalidate()).start()
        @on.client_connected
        def connected(event):
            broker.publish("t", b"\\xff", qos=1, retain=True, publisher="me", content_type="c", response_topic="r",
                           correlation_data=b"x", message_expiry_s=5, properties=[("k", "v")])
            broker.kick("c2", 0x8b)
            broker.subscribe("c3", "a/#", Options(qos=1, no_local=True))
            broker.subscribe("c3", "b/#", 2)
            broker.unsubscribe("c3", "a/#")
            broker.unsubscribe("c3", "b/#", authorize=True)
            broker.invalidate("c4")
    """
    broker = start(source)
    broker.describe()
    broker.notify("client.connected", 1, [])
    broker.until(lambda: len(broker.commands) == 10)
    commands = broker.commands
    assert commands[0] == ["publish", {"topic": "from/setup", "payload": "ä".encode(), "qos": 0, "retain": False}]
    assert ["invalidate", None] in commands and ["kick", "task", 0x98] in commands
    full = {
        "topic": "t", "payload": b"\xff", "qos": 1, "retain": True, "from": "me", "content_type": "c",
        "response_topic": "r", "correlation_data": b"x", "message_expiry_s": 5, "user": [["k", "v"]],
    }  # fmt: skip
    assert ["publish", full] in commands
    for command in (
        ["kick", "c2", 0x8B], ["subscribe", "c3", "a/#", 5], ["subscribe", "c3", "b/#", 2], ["unsubscribe", "c3", "a/#"],
        ["unsubscribe", "c3", "b/#", True], ["invalidate", "c4"],
    ):  # fmt: skip
        assert command in commands


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_commands_of_a_thread_go_out_while_nothing_happens(start: Start, kind: str) -> None:
    source = f"""
        import threading
        from grapnel_exhook import on, broker
        @on.client_connected
        {kind} connected(event):
            threading.Timer(0.1, broker.kick, ("c1",)).start()
    """
    broker = start(source)
    broker.describe()
    broker.notify("client.connected", 1, [])
    broker.until(lambda: broker.commands == [["kick", "c1", 0x98]], wait_s=5)


def test_commands_that_cannot_be_meant_raise_where_they_are_given(start: Start) -> None:
    source = """
        from grapnel_exhook import on, broker, Options
        @on.client_connected
        def connected(event):
            for give in (
                lambda: broker.publish("a/+"), lambda: broker.publish(""), lambda: broker.publish("a", qos=3),
                lambda: broker.publish("a", b"x" * (65 << 10)), lambda: broker.publish("a", 5), lambda: broker.publish("a", [5]),
                lambda: broker.publish("ä" * 40_000), lambda: broker.publish("a", properties=[("k", "v" * 70_000)]),
                lambda: broker.publish("a", response_topic="#"), lambda: broker.publish("a", message_expiry_s=-1),
                lambda: broker.publish("a", correlation_data=5), lambda: broker.publish("\\udcff"),
                lambda: broker.kick(None), lambda: broker.kick("c", -1), lambda: broker.kick("c", 256),
                lambda: broker.subscribe("c", "a#"), lambda: broker.subscribe("c", "a", 3), lambda: broker.subscribe(5, "a"),
                lambda: broker.subscribe("c", "a", Options(retain_handling=3)), lambda: broker.unsubscribe("c", ""),
                lambda: broker.invalidate(5),
            ):
                try:
                    give()
                except (ValueError, TypeError) as error:
                    print(repr((str(error),)))
                else:
                    print(repr(("none",)))
    """
    from conftest import recorded

    broker = start(source, frame_bytes_max=64 << 10)
    broker.describe()
    broker.notify("client.connected", 1, [])
    said = recorded(broker)
    assert len(said) == 21 and ("none",) not in said and broker.commands == [], said


def test_many_commands_go_in_frames_that_the_broker_takes(start: Start) -> None:
    source = """
        from grapnel_exhook import on, broker
        @on.client_connected
        def connected(event):
            for n in range(10_000):
                broker.publish(f"t/{n}", b"x" * 100)
    """
    broker = start(source, frame_bytes_max=64 << 10)
    broker.describe()
    broker.notify("client.connected", 1, [])
    assert [command[1]["topic"] for command in broker.commands] == [f"t/{n}" for n in range(10_000)]


def test_stop_runs_the_shutdown_and_exits_with_0(start: Start) -> None:
    source = """
        from grapnel_exhook import on, broker
        @on.client_connected
        def connected(event): pass
        def close():
            broker.publish("bye")
            print("closed")
    """
    broker = start(source)
    assert broker.stop() == 0
    assert "closed" in broker.printed() and broker.commands[0][1]["topic"] == "bye"


def test_stop_waits_for_what_has_begun(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        @on.client_authorize
        async def authorize(event):
            await asyncio.sleep(0.3)
            return True
        async def close():
            await asyncio.sleep(0)
            print("closed")
    """
    broker = start(source)
    broker.describe()
    slow = broker.begin("client.authorize", 1, [1, "t", 0, False, 0])
    assert broker.stop() == 0
    assert broker.answers[slow] == (1, {"allow": True}) and "closed" in broker.printed()


def test_stop_ends_in_its_time_whatever_user_code_does_and_says_what_was_cut(start: Start) -> None:
    source = """
        import asyncio, threading, time
        from grapnel_exhook import on
        @on.client_authorize
        async def authorize(event):
            await asyncio.sleep(3600)
        def setup(config):
            threading.Thread(target=time.sleep, args=(3600,), name="sleeper").start()
        async def close():
            await asyncio.sleep(3600)
    """
    broker = start(source, farewell_timeout_ms=1200)
    broker.describe()
    broker.begin("client.authorize", 1, [1, "t", 0, False, 0])
    begin = time.monotonic()
    assert broker.stop() == 1 and time.monotonic() - begin < 1.2 + 1.0
    assert "1 calls had not ended when the worker did" in broker.lines()
    assert "the hooks' shutdown was cut after 1.2 s" in broker.lines()
    assert "threads (sleeper) did not come to an end within 1.2 s and is cut" in broker.lines()


def test_a_blocking_shutdown_is_cut_in_time(start: Start) -> None:
    source = """
        import time
        from grapnel_exhook import on
        @on.client_connected
        def connected(event): pass
        def close():
            print("closing")
            time.sleep(3600)
    """
    broker = start(source, farewell_timeout_ms=800)
    assert broker.stop() == 1
    assert "the hooks' farewell did not come to an end within 0.8 s and is cut" in broker.lines()
    assert "closing" in broker.printed()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_shutdown_has_its_time_and_all_its_output_arrives(start: Start, kind: str) -> None:
    """Longer than the default of two seconds, with work in parallel and after it."""
    source = f"""
        import atexit, logging, threading, time
        from grapnel_exhook import on, broker, Hooks
        log = logging.getLogger("shop")
        @on.client_connected
        {kind} connected(event): pass
        class Fails(Hooks):
            {kind} close(self):
                raise ValueError("on purpose")
        def after():
            time.sleep(0.2)
            log.info("after it")
            broker.publish("after")
        def at_exit():
            log.info("at the exit")
            broker.publish("exit")
        atexit.register(at_exit)
        {kind} close():
            threading.Thread(target=after).start()
            time.sleep(2.3)
            for n in range(2000):
                print("line", n)
            log.warning("closed")
            broker.publish("closed")
    """
    broker = start(source, farewell_timeout_ms=10_000)
    assert broker.stop(wait_s=12) == 0
    assert [f"line {n}" for n in range(2000)] == [line for line in broker.printed().splitlines() if line.startswith("line")]
    said = broker.lines()
    assert "shop: closed" in said and "shop: after it" in said and "shop: at the exit" in said
    assert "Fails.close: ValueError: on purpose" in said
    assert sorted(command[1]["topic"] for command in broker.commands) == ["after", "closed", "exit"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_signals_that_end_programs_are_for_the_broker(start: Start, kind: str, number: int) -> None:
    """A signal to all processes of a service ends the processes of user code, but not the
    worker."""
    source = f"""
        import os, signal, subprocess
        from grapnel_exhook import on, broker
        @on.client_authorize
        {kind} authorize(event):
            child = subprocess.Popen(["sleep", "3600"])
            child.send_signal({int(number)})
            forked = os.fork()
            if not forked:
                signal.pause()
            os.kill(forked, {int(number)})
            return child.wait(5) == -{int(number)} and os.waitpid(forked, 0)[1] == {int(number)}
        def close(): print("closed")
    """
    broker = start(source)
    broker.describe()
    broker.process.send_signal(number)
    assert broker.request("client.authorize", 1, [1, "t", 0, False, 0]) == (1, {"allow": True})
    broker.process.send_signal(number)
    assert broker.stop() == 0 and "closed" in broker.printed()


def test_a_failing_shutdown_is_logged_and_exits_with_0(start: Start) -> None:
    broker = start("from grapnel_exhook import on\n@on.client_connected\ndef c(e): pass\ndef close(): 1 / 0\n")
    assert broker.stop() == 0 and "ZeroDivisionError" in broker.lines()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_closed_broker_connection_ends_the_worker_with_its_shutdown(start: Start, kind: str) -> None:
    source = f"from grapnel_exhook import on\n@on.client_connected\n{kind} c(e): pass\ndef close(): print('closed')\n"
    broker = start(source)
    broker.socket.close()
    assert broker.process.wait(5) == 0 and "closed" in broker.printed()


def test_a_frame_of_a_kind_that_is_not_known_is_logged_and_passed_over(start: Start) -> None:
    broker = start(ECHO)
    broker.send([77, "?"])
    broker.request("message.publish", 0, message())
    assert "77" in broker.lines()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_both_sides_writing_at_once_do_not_stop_each_other(start: Start, kind: str) -> None:
    """The broker does not read until all calls are written: more than both socket buffers can
    store."""
    broker = start(ECHO.replace("def ", f"{kind} "), frame_bytes_max=1 << 20)
    payload = b"x" * 20_000
    for at in range(0, 2000, 50):
        broker.calls([[n, POINTS["message.publish"], 0, message("t", payload)] for n in range(at + 1, at + 51)])
    broker.until(lambda: len(broker.answers) == 2000)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_is_read_while_a_write_waits_for_room_is_not_left_lying(start: Start, kind: str) -> None:
    broker = start(ECHO.replace("def ", f"{kind} "))
    payload = b"x" * 10_000
    calls = [[n, POINTS["message.publish"], 0, message("t", payload)] for n in range(1, 201)]
    # More answers than the socket buffers can store, and one more frame while the worker waits for
    # room.
    broker.calls(calls[:199])
    broker.until_waits_for_room()
    broker.calls(calls[199:])
    broker.until_read()
    broker.until(lambda: len(broker.answers) == 200, wait_s=5)
    broker.until(lambda: broker.done == 200)


def test_without_a_broker_it_says_how_it_is_started() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grapnel_exhook"], env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "started by the broker" in done.stderr


@pytest.mark.parametrize("keep", ["kept.append(asyncio.current_task())", "kept.append(weakref.ref(asyncio.current_task()))"])
def test_who_keeps_its_task_and_cancels_it_later_fails_alone(start: Start, keep: str) -> None:
    source = f"""
        import asyncio, weakref
        from grapnel_exhook import on
        kept = []
        gate = asyncio.Event()

        @on.client_authenticate
        async def login(event):
            name = event.client.client_id
            if name == "keeps":
                {keep}
                return True
            if name == "cancels":
                for task in kept:
                    task = task() if isinstance(task, weakref.ref) else task
                    if task is not None:
                        task.cancel()
                gate.set()
                return True
            if name == "cancels itself":
                asyncio.current_task().cancel()
                return True
            await gate.wait()
            return True
    """
    broker = start(source)
    names = ["keeps", "waits", "cancels itself", "waits too", "cancels"]
    for number, name in enumerate(names, 1):
        broker.calls([[0, -1, number, client(name)]])
    # All but the last in one frame, so that they are stepped one after the other.
    idents = range(101, 101 + len(names))
    calls = [[ident, POINTS["client.authenticate"], n, [0, None, None]] for n, ident in enumerate(idents, 1)]
    broker.calls(calls[:-1])
    broker.until(lambda: {101, 103} <= broker.answers.keys())
    broker.calls(calls[-1:])
    broker.until(lambda: set(idents) <= broker.answers.keys())
    assert [ident for ident in idents if broker.answers[ident][0] != 1] == [], broker.lines()


def test_who_waits_and_is_cancelled_by_its_task_fails_alone(start: Start) -> None:
    source = """
        import asyncio
        from grapnel_exhook import on
        tasks = {}
        @on.client_authenticate
        async def login(event):
            tasks[event.client.client_id] = asyncio.current_task()
            if event.client.client_id == "c2":
                tasks["c1"].cancel()
                return True
            await asyncio.sleep(3600 if event.client.client_id == "c1" else 0)
            return True
    """
    broker = start(source)
    calls = []
    for number in (1, 3, 2):
        broker.calls([[0, -1, number, client(f"c{number}")]])
        calls.append([number, POINTS["client.authenticate"], number, [0, None, None]])
    broker.calls(calls)
    broker.until(lambda: broker.answers.keys() >= {1, 2, 3})
    assert [broker.answers[number][0] for number in (1, 2, 3)] == [2, 1, 1], broker.lines()
