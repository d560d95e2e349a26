"""Measures the calls per second of one worker, without a broker: this process writes frames of calls
and reads the answers.

    target/venv/bin/python plugins/exhook/sdk/java/bench/throughput.py [--seconds 3] [--batch 64 256 512] [-- JAVA OPTIONS]

Verdicts are message.publish with 64 bytes of payload, answered with nothing or with another payload, and client.authorize;
notifications are message.delivered; of 100 clients. Figures depend on the machine; compare only what was run together.
"""

from __future__ import annotations

import argparse
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import msgpack  # noqa: E402
from conftest import hookspec, main_class  # noqa: E402
from java_broker import POINTS, JavaBroker, client, compiled, cpu, message  # noqa: E402

HOOKS = """
    public static Object on_message_publish(Object message, Object state) {
        Binary topic = (Binary) ((Tuple) ((List<?>) message).get(4)).get(1);
        return topic.raw.length == 1 ? Tuple.two(0, List.of(Tuple.two(new Atom("payload"), new Binary("new")))) : null;
    }
    public static Object on_client_check_acl(Object client, Object action, Object topic, Object result, Object state) {
        return Tuple.two(0, ((Binary) topic).raw[0] == 'a');
    }
    public static void on_message_delivered(Object client, Object message, Object state) {}
"""


def run(what: str, point: str, data: list, verdict: bool, batch: int, seconds: float, options: tuple[str, ...]) -> None:
    source = main_class(hookspec("message_publish", "client_check_acl", "message_delivered") + HOOKS)
    with tempfile.TemporaryDirectory() as folder, Quick(Path(folder), options, path=[str(compiled(source))]) as broker:
        broker.start()
        broker.calls([[0, -1, number, client(f"c{number}", password=None)] for number in range(1, 101)])
        broker.until(lambda: broker.done == broker.requested)
        # The same frame is sent repeatedly, to measure the worker and not Python's encoding.
        body = msgpack.packb([1, [[n + 1 if verdict else 0, POINTS[point], n % 100 + 1, data] for n in range(batch)]])
        frame = struct.pack("<I", len(body)) + body

        def window(end: float) -> int:
            before = broker.done
            while time.perf_counter() < end:
                while broker.requested - broker.done < 8 * batch:
                    broker.socket.sendall(frame)
                    broker.requested += batch
                goal = broker.requested - 4 * batch
                broker.until(lambda: broker.done >= goal)
            broker.until(lambda: broker.done == broker.requested)
            return broker.done - before

        window(time.perf_counter() + 3)
        cpu_at, at = cpu(broker.process.pid), time.perf_counter()
        calls = window(at + seconds)
        took, cpu_s = time.perf_counter() - at, cpu(broker.process.pid) - cpu_at
        print(f"{what:36} batch {batch:4}: {calls / took:10,.0f}/s; {calls / cpu_s:10,.0f} per second of its CPU")
        if verdict and batch == 64:
            lags = []
            for ident in range(1, 2001):
                start = time.perf_counter()
                broker.calls([[ident, POINTS[point], 1, data]])
                broker.until(lambda: broker.done == broker.requested)
                lags.append(time.perf_counter() - start)
            lags.sort()
            print(f"{'':36} one at a time: median {lags[1000] * 1e6:.0f} µs, p99 {lags[1980] * 1e6:.0f} µs")
        broker.stop()


class Quick(JavaBroker):
    """Counts answers without decoding each."""

    short_run = ()

    def _judge(self, frame: list) -> None:
        if frame[0] == 2:
            assert all(code != 2 for _, code, _ in frame[1][:1]), frame[1][0]
            self.done += frame[2]
        else:
            super()._judge(frame)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("options", nargs="*", help="options of Java")
    given = parser.parse_args()
    rows = [
        ("message.publish, unchanged", "message.publish", message(payload=b"x" * 64), True),
        ("message.publish, another payload", "message.publish", message("t", b"x" * 64), True),
        ("client.authorize", "client.authorize", [1, "a/b", 1, False, 0], True),
        ("message.delivered (told only)", "message.delivered", message(payload=b"x" * 64), False),
    ]
    for what, point, data, verdict in rows:
        for batch in given.batch:
            run(what, point, data, verdict, batch, given.seconds, tuple(given.options))


if __name__ == "__main__":
    main()
