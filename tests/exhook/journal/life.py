"""A long scenario of two MQTT 3.1.1 clients against the broker at a given port: connects, all QoS,
a resend, retained messages, a queue, a takeover and a will. Each step ends when its last packet
has arrived, and is marked by a publish of its own.
"""

import socket
import struct
import sys

PORT = int(sys.argv[1])
CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = 8, 9, 10, 11, 12, 13, 14


def text(value):
    data = value.encode()
    return struct.pack("!H", len(data)) + data


class Client:
    def __init__(self, name, clean=True, login=None, will=None):
        self.socket = socket.create_connection(("127.0.0.1", PORT), 20)
        flags, payload = 2 if clean else 0, text(name)
        if will:
            flags |= 0x04 | 1 << 3 | 0x20
            payload += text(will[0]) + text(will[1])
        if login:
            flags |= 0xC0
            payload += text(login[0]) + text(login[1])
        self.send(CONNECT, text("MQTT") + bytes([4, flags, 0, 60]) + payload)
        self.present = self.expect(CONNACK)[0]

    def send(self, kind, body=b"", flags=0):
        assert len(body) < 128
        self.socket.sendall(bytes([kind << 4 | flags, len(body)]) + body)

    def read(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def packet(self):
        head, length = self.read(2)
        assert length < 128
        return head >> 4, head & 0x0F, self.read(length)

    def expect(self, *kinds):
        """Expects these packets next, in any order; acknowledges messages. Returns the body of the
        last.
        """
        open_kinds, last = list(kinds), b""
        while open_kinds:
            kind, flags, last = self.packet()
            assert kind in open_kinds, (kind, last, open_kinds)
            open_kinds.remove(kind)
            if kind == PUBLISH and flags & 6:
                at = 2 + int.from_bytes(last[:2], "big")
                self.send(PUBACK if flags & 2 else PUBREC, last[at : at + 2])
                if flags & 4:
                    assert self.packet()[0] == PUBREL
                    self.send(PUBCOMP, last[at : at + 2])
        return last

    def publish(self, topic, data, qos=0, retain=False, ident=1, dup=False):
        body = text(topic) + (struct.pack("!H", ident) if qos else b"") + data.encode("latin-1")
        self.send(PUBLISH, body, qos << 1 | retain | dup << 3)

    def subscribe(self, topic, qos, ident):
        self.send(SUBSCRIBE, struct.pack("!H", ident) + text(topic) + bytes([qos]), 2)
        self.expect(SUBACK)

    def ping(self):
        self.send(PINGREQ)
        self.expect(PINGRESP)

    def until_closed(self):
        try:
            self.read(1)
        except (EOFError, ConnectionError):
            return
        raise AssertionError("a packet has come")

    def leave(self):
        self.send(DISCONNECT)
        self.until_closed()


def mark(step, *others):
    """The end of a step: the broker has read what these clients sent."""
    for client in (*others, marker):
        client.ping()
    marker.publish(f"mark/{step}", "", 1, ident=99)
    marker.expect(PUBACK)


marker = Client("marker")
ann = Client("ann", login=("ann", "secret"), will=("gone/ann", "farewell"))
mark("ann is in", ann)
bob = Client("bob", clean=False)
mark("bob is in", bob)
ann.subscribe("t/#", 2, 1)
ann.subscribe("one", 0, 2)
bob.subscribe("news", 1, 1)
marker.subscribe("gone/#", 1, 1)
mark("all have subscribed", ann, bob)
bob.publish("t/a", "zero")
ann.expect(PUBLISH)
mark("QoS 0", ann, bob)
bob.publish("t/b", "one\xff", 1, ident=2)
bob.expect(PUBACK)
ann.expect(PUBLISH)
mark("QoS 1", ann, bob)
bob.publish("quiet", "two", 2, ident=3)
bob.expect(PUBREC)
bob.publish("quiet", "two", 2, ident=3, dup=True)
bob.expect(PUBREC)
mark("QoS 2, sent twice", ann, bob)
bob.send(PUBREL, struct.pack("!H", 3), 2)
bob.expect(PUBCOMP)
mark("QoS 2, released", ann, bob)
bob.publish("kept", "old", 1, True, ident=4)
bob.expect(PUBACK)
mark("a message is retained", ann, bob)
ann.send(SUBSCRIBE, struct.pack("!H", 3) + text("kept") + b"\1", 2)
ann.expect(SUBACK, PUBLISH)
mark("it comes", ann, bob)
bob.publish("kept", "", 1, True, ident=5)
bob.expect(PUBACK)
ann.expect(PUBLISH)
mark("it is cleared", ann, bob)
ann.send(UNSUBSCRIBE, struct.pack("!H", 4) + text("kept"), 2)
ann.expect(UNSUBACK)
mark("ann unsubscribes", ann)
bob.leave()
mark("bob has gone", ann)
ann.publish("news", "while you were away", 1, ident=1)
ann.expect(PUBACK)
mark("a message waits", ann)
bob = Client("bob", clean=False)
assert bob.present & 1
bob.expect(PUBLISH)
mark("bob is back", ann, bob)
again = Client("bob", clean=False)
assert again.present & 1
bob.until_closed()
mark("bob is taken over", ann, again)
ann.socket.close()
marker.expect(PUBLISH)
mark("ann is lost", again)
again.leave()
mark("bob leaves")
marker.leave()
