"""The Java worker from the broker's side: frames, failures, standard streams, the end.
test_hooks.py checks hooks."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import msgpack
import pytest
from conftest import ASK, ECHO, SHOW, TELL, Start, hookspec, recorded, recorder
from java_broker import POINTS, jar, message

DEINIT = 'public static void deinit() { System.out.println("deinit"); }'
AUTHORIZE = POINTS["client.authorize"]
PUBLISH = POINTS["message.publish"]


def requested(topic: str) -> list:
    return [1, topic, 0, False, 0]


# Frames


def test_ready_names_sdk_process_and_hooks(start: Start) -> None:
    broker = start(ECHO)
    assert re.fullmatch(r"grapnel-exhook \d+\.\d+\.\d+ \(Java .+\)", broker.ready["sdk"])
    assert broker.ready["hooks"] == [{"point": "message.publish", "topics": [], "answers": True}]


@pytest.mark.parametrize("payload", [b"", bytes(range(256)), b"\xff" * 100_000])
def test_payloads_of_any_bytes_come_and_go(start: Start, payload: bytes) -> None:
    assert start(ECHO).request("message.publish", 0, message("t", payload)) == (0, {"payload": payload, "topic": "t"})


def test_a_topic_of_65535_bytes_comes_and_goes(start: Start) -> None:
    topic = "ä" * 32767 + "x"
    broker = start(ECHO)
    assert broker.request("message.publish", 0, message(topic, b""))[1] == {"topic": topic, "payload": b""}
    emoji = "😀" * 16383
    assert broker.request("message.publish", 0, message(emoji, b""))[1] == {"topic": emoji, "payload": b""}


def test_the_answers_to_a_frame_of_calls_come_together(start: Start) -> None:
    broker = start(ECHO)
    broker.calls([[n, PUBLISH, 0, message()] for n in range(1, 301)])
    broker.until(lambda: broker.done == 300)
    # One frame, or a few on a slow machine: answers wait at most 20 ms for later ones.
    assert len(broker.answers) == 300 and broker.frames_of_answers <= 10


def test_thousands_of_calls_of_all_kinds_are_answered_and_counted(start: Start) -> None:
    broker = start(SHOW + ECHO)
    ident = 0
    for batch in (1, 7, 500, 3000):
        calls = []
        for n in range(batch):
            ident += 1
            calls += [[0, -1, n, {"client_id": f"c{n}"}], [ident, PUBLISH, n, message(f"t/{ident}", b"%d" % ident)]]
            calls.append([0, -2, n, None])
        broker.calls(calls)
    broker.until(lambda: broker.done == broker.requested)
    assert len(broker.answers) == ident
    for n in range(1, ident + 1):
        assert broker.answers[n] == (0, {"topic": f"t/{n}", "payload": b"%d" % n})


def test_frames_in_pieces_are_put_together(start: Start) -> None:
    broker = start(ECHO)
    body = msgpack.packb([1, [[7, PUBLISH, 0, message("t", b"x")]]])
    broker.requested += 1
    for byte in len(body).to_bytes(4, "little") + body:
        broker.socket.send(bytes([byte]))
    broker.until(lambda: 7 in broker.answers)


def test_numbers_of_64_bits_name_calls_and_messages(start: Start) -> None:
    broker = start(SHOW + hookspec("message_publish") + recorder("message_publish", 1))
    ident = 2**64 - 1
    broker.calls([[ident, PUBLISH, 0, message(id=ident)]])
    broker.until(lambda: ident in broker.answers)
    assert ({"atom": "id"}, b"0" * 16 + b"F" * 16) in recorded(broker)[0][1][0]


def test_answers_that_do_not_fit_into_a_frame_are_split(start: Start) -> None:
    broker = start(ECHO, frame_bytes_max=64 * 1024)
    broker.calls([[n, PUBLISH, 0, message("t", b"x" * 30_000)] for n in range(1, 11)])
    broker.until(lambda: broker.done == 10)
    assert all(code == 0 for code, _ in broker.answers.values()) and broker.frames_of_answers >= 5


def test_the_longest_answer_that_fits_is_sent_and_one_more_byte_is_a_failure(start: Start) -> None:
    source = hookspec("message_publish") + """
        public static Object on_message_publish(Object m, Object s) {
            int size = Integer.parseInt(new String(((Binary) ((Tuple) ((List<?>) m).get(5)).get(1)).raw));
            return Tuple.two(0, List.of(Tuple.two(new Atom("payload"), new Binary(new byte[size]))));
        }
    """
    limit = 64 * 1024
    broker = start(source, frame_bytes_max=limit)
    outcomes = [broker.request("message.publish", 0, message("t", b"%d" % size)) for size in range(limit - 60, limit)]
    codes = [code for code, _ in outcomes]
    assert codes == sorted(codes) and codes[0] == 0 and codes[-1] == 2
    assert "frame_bytes_max" in outcomes[-1][1] and str(limit) in outcomes[-1][1]
    assert broker.request("message.publish", 0, message("t", b"3")) == (0, {"payload": b"\0\0\0"})


def test_lines_of_the_log_and_failures_fit_into_short_frames(start: Start) -> None:
    source = ASK % 'throw new RuntimeException("ä".repeat(100_000));'
    broker = start(source, frame_bytes_max=1024)
    code, text = broker.request("client.authorize", 0, requested("t"))
    assert code == 2 and text.startswith("Main.on_client_check_acl: java.lang.RuntimeException: ä")


def test_a_frame_of_a_kind_that_is_not_known_is_logged_and_passed_over(start: Start) -> None:
    broker = start(ECHO)
    broker.send([77, "?"])
    broker.request("message.publish", 0, message())
    assert broker.log[0][0] == 2 and "77" in broker.lines()


def test_both_sides_writing_at_once_do_not_stop_each_other(start: Start) -> None:
    """The broker does not read until all calls are written: more than both socket buffers can
    store."""
    broker = start(ECHO, frame_bytes_max=1 << 20)
    payload = b"x" * 20_000
    for at in range(0, 1500, 50):
        broker.calls([[n, PUBLISH, 0, message("t", payload)] for n in range(at + 1, at + 51)])
    broker.until(lambda: len(broker.answers) == 1500)


def test_answers_before_a_slow_hook_are_not_held_back_by_it(start: Start) -> None:
    source = ASK % """
        if (topic(t).equals("slow")) Thread.sleep(100);
        if (topic(t).equals("slower")) Thread.sleep(3000);
        return null;
    """
    broker = start(source)
    broker.calls([[n, AUTHORIZE, 0, requested(t)] for n, t in [(1, "x"), (2, "slow"), (3, "slower")]])
    broker.until(lambda: 2 in broker.answers, wait_s=2.5)
    assert 3 not in broker.answers


def test_hooks_run_one_at_a_time_on_one_thread(start: Start) -> None:
    source = ASK % """
        System.out.println("thread " + Thread.currentThread().getId() + " " + inside++);
        Thread.sleep(1);
        inside--;
        return null;
    """ + "static int inside = 0;"
    broker = start(source)
    for at in range(0, 60, 20):
        broker.calls([[n, AUTHORIZE, 0, requested("t")] for n in range(at + 1, at + 21)])
    broker.until(lambda: broker.done == 60)
    assert len({line for line in broker.printed().splitlines() if line.startswith("thread ")}) == 1


# Standard streams and the log


def test_prints_go_to_standard_output_line_by_line_in_utf_8(start: Start) -> None:
    broker = start(TELL % 'System.out.printf("to öut %s\\n", "x"); System.err.println("to errör"); System.out.print("cut");')
    broker.notify("message.delivered", 0, message())
    assert "to öut x\n" in broker.printed() and "to errör\n" in broker.printed() and "cut" not in broker.printed()
    broker.stop()
    assert "cut" in broker.printed()


def test_standard_input_is_empty_for_user_code(start: Start) -> None:
    broker = start(TELL % 'try { System.out.println("read " + System.in.read()); } catch (java.io.IOException e) {}')
    broker.notify("message.delivered", 0, message())
    assert "read -1\n" in broker.printed()


def test_javas_logging_goes_to_the_brokers_log_with_its_level(start: Start) -> None:
    source = TELL % """
        java.util.logging.Logger log = java.util.logging.Logger.getLogger("shop");
        log.fine("fine");
        log.info("infö");
        log.warning("warning");
        log.log(java.util.logging.Level.SEVERE, "look at {0}", 5);
        log.log(java.util.logging.Level.SEVERE, "failed", new IllegalStateException("why"));
    """
    broker = start(source)
    broker.notify("message.delivered", 0, message())
    assert broker.log[:3] == [(3, "shop: infö"), (2, "shop: warning"), (1, "shop: look at 5")]
    assert broker.log[3][1].startswith("shop: failed\njava.lang.IllegalStateException: why\n\tat Main.")
    assert "warning" not in broker.printed()


def test_log_level_lets_more_or_less_through(start: Start) -> None:
    source = TELL % """
        java.util.logging.Logger log = java.util.logging.Logger.getLogger("s");
        log.fine("FINE");
        log.info("INFO");
    """
    debug = start(source, config={"log_level": "debug"})
    debug.notify("message.delivered", 0, message())
    assert debug.log == [(4, "s: FINE"), (3, "s: INFO")]
    warn = start(source, config={"log_level": "warn"})
    warn.notify("message.delivered", 0, message())
    assert warn.log == []


# Failures


def test_whatever_a_hook_throws_the_worker_stays(start: Start) -> None:
    source = ASK % """
        switch (topic(t)) {
            case "checked": throw new java.io.IOException("checked");
            case "error": throw new Error("error");
            case "assert": throw new AssertionError("assert");
            case "deep": return deep(1);
            case "interrupted": Thread.currentThread().interrupt(); Thread.sleep(1000); return null;
            case "interrupts": Thread.currentThread().interrupt(); return Tuple.two(0, true);
            case "odd": throw new RuntimeException() { public String toString() { throw new IllegalStateException(); } };
            case "null": throw null;
            default: Thread.sleep(1); return Tuple.two(0, true);
        }
    """ + "static Object deep(int n) { return deep(n + 1).toString(); }"
    broker = start(source)
    for topic, says in [
        ("checked", "java.io.IOException: checked"), ("error", "java.lang.Error: error"),
        ("assert", "java.lang.AssertionError: assert"), ("deep", "java.lang.StackOverflowError"),
        ("interrupted", "java.lang.InterruptedException"), ("odd", "Main$1"), ("null", "NullPointerException"),
    ]:  # fmt: skip
        code, text = broker.request("client.authorize", 0, requested(topic))
        assert code == 2 and says in text, (topic, text)
        assert broker.request("client.authorize", 0, requested("ok")) == (1, {"allow": True}), topic
    # An interrupt flag that a hook leaves must not affect the next hook.
    assert broker.request("client.authorize", 0, requested("interrupts")) == (1, {"allow": True})
    assert broker.request("client.authorize", 0, requested("ok")) == (1, {"allow": True})


def test_threads_that_interrupt_the_hooks_thread_break_nothing(start: Start) -> None:
    source = ASK % "return null;" + """
        static { Thread hooks = Thread.currentThread();
                 Thread other = new Thread(() -> { while (true) hooks.interrupt(); });
                 other.setDaemon(true); other.start(); }
    """
    broker = start(source)
    for at in range(0, 2000, 100):
        broker.calls([[n, AUTHORIZE, 0, requested("t")] for n in range(at + 1, at + 101)])
    broker.until(lambda: broker.done == 2000)
    assert all(answer == (0, None) for answer in broker.answers.values())
    assert broker.stop() == 0


def test_memory_that_runs_out_ends_the_process(start: Start) -> None:
    source = ASK % "List<byte[]> all = new ArrayList<>(); while (true) all.add(new byte[1 << 20]);"
    broker = start(source, options=("-Xmx64m",))
    broker.begin("client.authorize", 0, requested("t"))
    assert broker.process.wait(10) == 3
    assert "OutOfMemoryError" in broker.printed()


def test_a_hook_may_end_the_process(start: Start) -> None:
    broker = start(ASK % 'System.out.print("last words"); System.exit(7); return null;')
    broker.begin("client.authorize", 0, requested("t"))
    assert broker.process.wait(5) == 7 and "last words" in broker.printed()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_end_programs_are_for_the_broker(start: Start, number: int) -> None:
    """A signal to all processes of a service ends the processes of user code, but not the
    worker."""
    source = ASK % """
        Process child = new ProcessBuilder("sleep", "3600").start();
        new ProcessBuilder("kill", "-%d", Long.toString(child.pid())).start().waitFor();
        return Tuple.two(0, child.waitFor() == 128 + %d);
    """ % (number, number) + DEINIT
    # The test runner may have been started with ignored signals, as with nohup; programs inherit
    # that.
    before = signal.signal(number, signal.SIG_DFL)
    broker = start(source)
    signal.signal(number, before or signal.SIG_DFL)
    broker.process.send_signal(number)
    assert broker.request("client.authorize", 0, requested("t")) == (1, {"allow": True})
    broker.process.send_signal(number)
    assert broker.stop() == 0 and "deinit\n" in broker.printed()


# The end


def test_stop_finishes_what_has_begun_runs_deinit_and_exits_with_0(start: Start) -> None:
    source = ASK % "Thread.sleep(200); return Tuple.two(0, true);" + DEINIT
    broker = start(source)
    slow = broker.begin("client.authorize", 0, requested("t"))
    assert broker.stop() == 0
    assert broker.answers[slow] == (1, {"allow": True}) and "deinit\n" in broker.printed()


def test_deinit_may_be_missing_and_may_fail(start: Start) -> None:
    assert start(ECHO).stop() == 0
    broker = start(ECHO + 'public static void deinit() { throw new IllegalStateException("still open"); }')
    assert broker.stop() == 0 and "the shutdown failed: java.lang.IllegalStateException: still open" in broker.lines()


FOREVER = "while (true) try { Thread.sleep(100_000); } catch (InterruptedException e) {}"


@pytest.mark.parametrize("what", ["thread", "deinit", "hook", "shutdown"])
def test_stop_ends_in_its_time_whatever_user_code_does_and_says_what_was_cut(start: Start, what: str) -> None:
    source = ASK % (FOREVER if what == "hook" else "return null;") + """
        public static void deinit() { %s }
        static { %s }
    """ % (
        FOREVER if what == "deinit" else "",
        {
            "thread": "new Thread(() -> { %s }).start();" % FOREVER,
            "shutdown": "Runtime.getRuntime().addShutdownHook(new Thread(() -> { %s }));" % FOREVER,
        }.get(what, ""),
    )
    broker = start(source, farewell_timeout_ms=1000)
    broker.begin("client.authorize", 0, requested("t"))
    begin = time.monotonic()
    code = broker.stop()
    assert time.monotonic() - begin < 1.0 + 1.0
    cut = {"deinit": "deinit()", "hook": "what had begun", "shutdown": "a shutdown hook"}.get(what)
    assert code == (0 if cut is None else 1)
    assert cut is None or f"{cut} did not come to an end within 1000 ms and is cut" in broker.lines()


def test_a_shutdown_has_its_time_and_all_its_output_arrives(start: Start) -> None:
    """Longer than the default of two seconds."""
    source = ECHO + """
        public static void deinit() throws Exception {
            Thread.sleep(2300);
            for (int n = 0; n < 2000; n++) System.out.println("line " + n);
            java.util.logging.Logger.getLogger("shop").warning("closed");
            throw new IllegalStateException("on purpose");
        }
    """
    broker = start(source, farewell_timeout_ms=10_000)
    assert broker.stop(wait_s=12) == 0
    assert [f"line {n}" for n in range(2000)] == [line for line in broker.printed().splitlines() if line.startswith("line")]
    assert "shop: closed" in broker.lines() and "on purpose" in broker.lines()


def test_a_closed_broker_connection_ends_the_worker_with_its_shutdown(start: Start) -> None:
    broker = start(ECHO + DEINIT)
    broker.socket.close()
    assert broker.process.wait(5) == 0 and "deinit\n" in broker.printed()


@pytest.mark.parametrize(
    ("body", "says"),
    [(b"\xc1\xc1\xc1", "cannot read what the broker sends"), (msgpack.packb([1, [[1]]]), "the worker has to end")],
)
def test_what_is_no_frame_ends_the_worker(start: Start, body: bytes, says: str) -> None:
    broker = start(ECHO + "static { new Thread(() -> { %s }).start(); }" % FOREVER)
    broker.socket.sendall(len(body).to_bytes(4, "little") + body)
    assert broker.process.wait(5) == 1 and says in broker.printed()


def test_without_a_broker_it_says_how_it_is_started() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "GRAPNEL_WORKER_FD"}
    done = subprocess.run(
        ["java", "-jar", jar()], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2 and "started by the broker" in done.stderr
