"""Measures the calls per second of one worker, without a broker: this process writes frames of calls
and reads the answers.

    python bench/throughput.py [--seconds 3] [--batch 64 256 512]

Notifications are message.delivered with 64 bytes of payload, verdicts client.authorize and message.publish, of 100 clients; the
hooks look at client and topic, as real ones do. Figures depend on the machine; compare only what was run together.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fake_broker import POINTS, FakeBroker, client, cpu, message  # noqa: E402

OWN = """
from grapnel_exhook import on, Modify
seen = 0
@on.message_delivered
def delivered(event):
    global seen
    if event.message.topic and event.client.client_id: seen += 1
@on.client_authorize
def authorize(event):
    return event.topic.startswith("a/") and event.client.username is not None
@on.message_publish
def publish(event):
    return Modify(payload=event.message.payload) if event.message.topic == "x" else None
"""
OWN_ASYNC = OWN.replace("def ", "async def ")
OWN_BATCH = """
from grapnel_exhook import on
seen = 0
@on.message_delivered(batch=True)
def delivered(events):
    global seen
    for event in events:
        if event.message.topic and event.client.client_id: seen += 1
"""
EMQX = """
from emqx_extension.hooks import EmqxHookSdk, hooks_handler
class CustomHook(EmqxHookSdk):
    @hooks_handler()
    def on_message_delivered(self, clientinfo, message, state):
        return None
    @hooks_handler()
    def on_client_check_acl(self, clientinfo, pubsub, topic, result, state):
        return clientinfo.username != ''
    @hooks_handler()
    def on_message_publish(self, message, state):
        return None
emqx_hook = CustomHook(hook_module=f'{__name__}.emqx_hook')
def init():
    return emqx_hook.start()
"""
AMQTT = """
from amqtt.plugins.base import BasePlugin, BaseTopicPlugin
class Topics(BaseTopicPlugin):
    async def topic_filtering(self, *, session, topic, action):
        return session.username is not None and topic.startswith("a/")
class Events(BasePlugin):
    async def on_broker_message_broadcast(self, *, client_id, message):
        assert message.topic and client_id
"""
PUBLISH = b"\x30\x45\x00\x03a/b" + b"x" * 64


def run(name: str, source: str, what: str, call: list, verdict: bool, batch: int, seconds: float, **setup: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "hooks.py").write_text(source)
        with FakeBroker(Path(folder), path=[folder], **setup) as broker:
            broker.start()
            broker.calls([[0, -1, number, client(f"c{number}", password=None)] for number in range(1, 101)])
            idents = iter(range(1, 1 << 40))

            def frame() -> None:
                broker.calls([[next(idents) if verdict else 0, call[0], n % 100 + 1, call[1]] for n in range(batch)])

            def window(end: float) -> int:
                before = broker.done
                while time.perf_counter() < end:
                    while broker.requested - broker.done < 4 * batch:
                        frame()
                    goal = broker.requested - 2 * batch
                    broker.until(lambda: broker.done >= goal)
                broker.until(lambda: broker.done == broker.requested)
                broker.answers.clear()
                return broker.done - before

            window(time.perf_counter() + 0.5)
            cpu_at, at = cpu(broker.process.pid), time.perf_counter()
            calls = window(at + seconds)
            took, cpu_s = time.perf_counter() - at, cpu(broker.process.pid) - cpu_at
            print(f"{name:12} {what:28} batch {batch:4}: {calls / took:10,.0f}/s; {calls / cpu_s:10,.0f} per second of its CPU")
            lags = []
            if verdict and batch == 64:
                for _ in range(300):
                    start = time.perf_counter()
                    broker.ask_as(next(idents), call)
                    lags.append(time.perf_counter() - start)
                lags.sort()
                print(f"{'':12} one at a time: median {lags[150] * 1e6:.0f} µs, p99 {lags[296] * 1e6:.0f} µs")
            broker.stop()


class _Broker(FakeBroker):
    def ask_as(self, ident: int, call: list) -> None:
        self.calls([[ident, call[0], 1, call[1]]])
        self.until(lambda: ident in self.answers)


FakeBroker = _Broker  # type: ignore[misc,assignment]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 512])
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    delivered = [POINTS["message.delivered"], message(payload=b"x" * 64)]
    authorize = [POINTS["client.authorize"], [1, "a/b", 1, False, 0]]
    publish = [POINTS["message.publish"], message(payload=b"x" * 64)]
    config = {"config": {"plugins": {"hooks.Topics": {}, "hooks.Events": {}}, "mirror": False}}
    rows = [
        ("own", OWN, "notifications", delivered, False, {}),
        ("own", OWN, "verdicts (authorize)", authorize, True, {}),
        ("own", OWN, "verdicts (publish)", publish, True, {}),
        ("own, batch", OWN_BATCH, "notifications", delivered, False, {}),
        ("own, async", OWN_ASYNC, "notifications", delivered, False, {}),
        ("own, async", OWN_ASYNC, "verdicts (authorize)", authorize, True, {}),
        ("EMQX", EMQX, "notifications", delivered, False, {}),
        ("EMQX", EMQX, "verdicts (check_acl)", authorize, True, {}),
        ("EMQX", EMQX, "verdicts (publish)", publish, True, {}),
        ("aMQTT", AMQTT, "notifications (broadcast)", publish, False, {"driver": "amqtt", **config}),
        ("aMQTT", AMQTT, "verdicts (topic_filtering)", authorize, True, {"driver": "amqtt", **config}),
    ]
    for name, source, what, call, verdict, setup in rows:
        if given.only in name or not given.only:
            for batch in given.batch:
                run(name, source, what, call, verdict, batch, given.seconds, **setup)


if __name__ == "__main__":
    main()
