"""Scenarios with paho-mqtt, run by tests/src/paho.rs: PORT LEVEL SCENARIO; the result is one line
of JSON. UNIX_SOCKET, CA_FILE and WEBSOCKET_PATH in the environment choose another transport than TCP.

Every wait is for an event, and bounded; no scenario sleeps.
"""

import json
import os
import queue
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PATIENCE_S = 20
PORT = int(sys.argv[1])
LEVEL = int(sys.argv[2])
UNIX_SOCKET = os.environ.get("UNIX_SOCKET")
CA_FILE = os.environ.get("CA_FILE")
WEBSOCKET_PATH = os.environ.get("WEBSOCKET_PATH")
TRANSPORT = "unix" if UNIX_SOCKET else "websockets" if WEBSOCKET_PATH else "tcp"


class Client:
    """A connected client whose callbacks fill queues."""

    def __init__(self, client_id, clean=True, expiry_s=None, will=None):
        settings = {} if LEVEL == 5 else {"clean_session": clean}
        self.mqtt = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=LEVEL, transport=TRANSPORT, **settings
        )
        if CA_FILE:
            self.mqtt.tls_set(ca_certs=CA_FILE)
        if WEBSOCKET_PATH:
            self.mqtt.ws_set_options(path=WEBSOCKET_PATH)
        self.connected = queue.Queue()
        self.subscribed = queue.Queue()
        self.messages = queue.Queue()
        self.disconnected = queue.Queue()
        self.mqtt.on_connect = lambda _c, _u, flags, reason, _p: self.connected.put((flags, reason))
        self.mqtt.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subscribed.put(codes)
        self.mqtt.on_message = lambda _c, _u, message: self.messages.put(message)
        self.mqtt.on_disconnect = lambda _c, _u, _f, reason, _p: self.disconnected.put(reason)
        if will:
            self.mqtt.will_set(*will, qos=1)
        settings = {}
        if LEVEL == 5:
            settings["clean_start"] = clean
            if expiry_s is not None:
                settings["properties"] = Properties(PacketTypes.CONNECT)
                settings["properties"].SessionExpiryInterval = expiry_s
        self.mqtt.connect(UNIX_SOCKET or "127.0.0.1", PORT, keepalive=60, **settings)
        self.mqtt.loop_start()
        flags, reason = self.connected.get(timeout=PATIENCE_S)
        assert not reason.is_failure, reason
        self.session_present = bool(flags.session_present)

    def subscribe(self, topic, qos=0, **settings):
        result, _ = self.mqtt.subscribe(topic, qos, **settings)
        assert result == mqtt.MQTT_ERR_SUCCESS, result
        codes = self.subscribed.get(timeout=PATIENCE_S)
        assert not any(code.is_failure for code in codes), codes

    def publish(self, topic, payload, qos=0, **settings):
        info = self.mqtt.publish(topic, payload, qos, **settings)
        info.wait_for_publish(PATIENCE_S)
        assert info.is_published(), f"{topic} was not acknowledged"

    def message(self):
        return self.messages.get(timeout=PATIENCE_S)

    def until(self, last):
        got = []
        while True:
            message = self.message()
            if message.payload.decode() == last:
                return got
            got.append(message)

    def close(self):
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def die(self):
        """Closes the socket under the client, as a power failure would."""
        self.mqtt.loop_stop()
        self.mqtt.socket().close()


def every_qos():
    client = Client("everything")
    client.subscribe("q/#", 2)
    for qos in range(3):
        client.publish(f"q/{qos}", str(qos), qos)
    return [[m.payload.decode(), m.qos] for m in (client.message() for _ in range(3))]


def retained():
    keeper = Client("keeper")
    keeper.publish("room", "21", 1, retain=True)
    keeper.publish("room", "22", 1, retain=True)
    late = Client("late")
    late.subscribe("room", 1)
    message = late.message()
    result = {"late": [[message.payload.decode(), bool(message.retain)]]}
    keeper.publish("room", None, 1, retain=True)
    later = Client("later")
    later.subscribe([("room", 1), ("end", 1)])
    keeper.publish("end", "last", 1)
    result["cleared"] = [m.payload.decode() for m in later.until("last")]
    return result


def will():
    watcher = Client("watcher")
    watcher.subscribe("will/#", 1)
    Client("dying", will=("will/x", "gone")).die()
    message = watcher.message()
    return [[message.topic, message.payload.decode()]]


def resume():
    settings = {"clean": False, "expiry_s": 60 if LEVEL == 5 else None}
    first = Client("sleeper", **settings)
    first.subscribe("t", 2)
    first.close()
    other = Client("other")
    other.publish("t", "a", 1)
    other.publish("t", "b", 2)
    second = Client("sleeper", **settings)
    messages = [second.message().payload.decode() for _ in range(2)]
    return {"first": first.session_present, "second": second.session_present, "messages": messages}


def takeover():
    first = Client("twin")
    # paho would reconnect by itself and take over in its turn.
    first.mqtt.on_disconnect = lambda c, _u, _f, reason, _p: (first.disconnected.put(reason), c.disconnect())
    second = Client("twin")
    reason = first.disconnected.get(timeout=PATIENCE_S)
    second.subscribe("t", 1)
    second.publish("t", "still here", 1)
    return {"reason": str(reason), "second": [second.message().payload.decode()]}


def shared():
    members = [Client(f"member {n}") for n in range(3)]
    for member in members:
        member.subscribe("$share/g/work", 1)
        member.subscribe("end", 1)
    publisher = Client("publisher")
    for n in range(90):
        publisher.publish("work", str(n), 1)
    publisher.publish("end", "last", 1)
    got = [[m.payload.decode() for m in member.until("last")] for member in members]
    everything = [payload for mine in got for payload in mine]
    return {
        "total": len(everything),
        "distinct": len(set(everything)),
        "idle_members": sum(1 for mine in got if not mine),
    }


def properties():
    client = Client("rich")
    identified = Properties(PacketTypes.SUBSCRIBE)
    identified.SubscriptionIdentifier = 11
    client.subscribe("p", options=SubscribeOptions(qos=1), properties=identified)
    sent = Properties(PacketTypes.PUBLISH)
    sent.ContentType = "text/plain"
    sent.ResponseTopic = "answer"
    sent.CorrelationData = b"abc"
    sent.UserProperty = [("k", "1"), ("k", "2")]
    client.publish("p", "x", 1, properties=sent)
    got = client.message().properties
    return {
        "content_type": got.ContentType,
        "response_topic": got.ResponseTopic,
        "correlation": got.CorrelationData.decode(),
        "user": [list(pair) for pair in got.UserProperty],
        "subscription_ids": got.SubscriptionIdentifier,
    }


def many():
    subscriber = Client("reader")
    subscriber.subscribe("t", 2)
    publisher = Client("writer")
    # 20 at a time is paho's own window: beyond it, paho sends later publishes before those it has
    # queued.
    for start in range(0, 2000, 20):
        infos = [publisher.mqtt.publish("t", str(n), 1 + n % 2) for n in range(start, start + 20)]
        for info in infos:
            info.wait_for_publish(PATIENCE_S)
    got = [int(subscriber.message().payload) for _ in range(2000)]
    return {"count": len(set(got)), "in_order": order_of_each_qos_holds(got)}


def order_of_each_qos_holds(numbers):
    """paho delivers QoS 2 to the application at PUBREL, so that only messages of one QoS keep their order there."""
    return all(mine == sorted(mine) for mine in ([n for n in numbers if n % 2 == p] for p in range(2)))


def main():
    # A scenario that hangs in spite of all bounds must end soon after its test.
    timer = threading.Timer(50, lambda: sys.exit("time is up"))
    timer.daemon = True
    timer.start()
    print(json.dumps(globals()[sys.argv[3]]()), flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # paho's network threads are daemons; leave without waiting for them.
    os._exit(0)
