"""A worker without the SDK. It allows every client and stores the data of each login. At its
shutdown it stores more data for the last client that has published, and ends. It prints the
login data that it receives with a session.
"""

import os
import socket
import sys

import msgpack

sock = socket.socket(fileno=int(os.environ["GRAPNEL_WORKER_FD"]))


def send(frame):
    body = msgpack.packb(frame, use_bin_type=True)
    sock.sendall(len(body).to_bytes(4, "little") + body)


def receive():
    def exactly(count):
        data = b""
        while len(data) < count:
            more = sock.recv(count - len(data))
            if not more:
                sys.exit()
            data += more
        return data

    return msgpack.unpackb(exactly(int.from_bytes(exactly(4), "little")), raw=False)


def keep(number, gave, *coming):
    about = clients[number]
    send([4, [["keep", number, about["client_id"], about["peer_host"], about["peer_port"], gave, *coming]]])


kind, setup = receive()
points = setup["points"]
hooks = [{"point": "client.authenticate", "answers": True}, {"point": "message.publish", "answers": False}]
hooks = [{"topics": [], "deliver": False, **hook} for hook in hooks]
send([0, {"protocol": 1, "sdk": "last moment 1.0", "pid": os.getpid(), "hooks": hooks, "keeps": True}])
clients, last = {}, None
while True:
    kind, *rest = receive()
    if kind == 2:
        if last:
            keep(last, b"at the last moment")
        break
    answers = []
    for id, point, client, data in rest[0]:
        if point == -1:
            clients[client] = data
        elif point == points["client.authenticate"]:
            print("stored:", clients[client].get("stored"), flush=True)
            keep(client, b"at the login", True)
            answers.append([id, 0, {"allow": True}])
        elif point == points["message.publish"]:
            last = client
    send([2, answers, len(rest[0])])
