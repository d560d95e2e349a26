"""A worker of exhook that continues every publish, until one to rogue/WHAT selects an error. With
the argument `lies` it answers at every point with a valid change followed by an invalid one.
"""

import os
import signal
import socket
import struct
import sys

import msgpack

sock = socket.socket(fileno=int(os.environ["GRAPNEL_WORKER_FD"]))


def send(frame):
    data = msgpack.packb(frame)
    sock.sendall(struct.pack("<I", len(data)) + data)


def read(count):
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            os._exit(0)
        data += more
    return data


def receive():
    (length,) = struct.unpack("<I", read(4))
    return msgpack.unpackb(read(length), strict_map_key=False)


def misbehave(what):
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what == "endless":
        while True:
            pass
    elif what == "huge":
        try:
            sock.sendall(struct.pack("<I", 100 << 20) + bytes(100 << 20))
        except OSError:
            os._exit(0)
    elif what == "half":
        sock.sendall(struct.pack("<I", 1000) + b"\x93\x02")
        sock.shutdown(socket.SHUT_RDWR)
        while True:
            signal.pause()
    elif what == "nonsense":
        send([2, [[1]], "many", {}])
    elif what == "floods":
        while True:
            send([3, 4, "x" * 1000])
    elif what == "prints":
        while True:
            print("x" * 1000)


# The valid parts would be visible if they took effect.
LIES = {
    "client.authenticate": {"superuser": True, "allow": "yes"},
    "client.authorize": {"reason": 0x97, "allow": 0},
    "client.subscribe": {"filters": [[0, "moved", None, None], [1, None, None, 0x97], [7, None, None, None]]},
    "client.unsubscribe": {"filters": [[0, None, None, 0x97], [0]]},
    "message.publish": {"payload": b"changed", "topic": "moved", "qos": 9},
}

lies = LIES if "lies" in sys.argv else {}
setup = receive()[1]
names = {number: name for name, number in setup["points"].items()}
hooks = [{"point": point, "topics": [], "answers": True} for point in ["message.publish", *lies]]
send([0, {"protocol": 1, "sdk": "rogue", "pid": os.getpid(), "hooks": hooks}])
while True:
    frame = receive()
    if frame[0] == 2:
        break
    answers = []
    for ident, point, client, data in frame[1]:
        if names.get(point) in lies:
            answers.append([ident, 0, lies[names[point]]])
        elif names.get(point) == "message.publish":
            if data[1].startswith("rogue/"):
                misbehave(data[1][len("rogue/") :])
            answers.append([ident, 0, None])
    send([2, answers, len(frame[1])])
