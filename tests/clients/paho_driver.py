"""One connection of paho-mqtt for tests/tests/clients/scripted.rs: a command per line of input, an
event per line of output, both JSON, payloads in hexadecimal. It executes commands and checks
nothing; it ends when its input ends.
"""

import json
import os
import queue
import sys

import paho.mqtt
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from events import PATIENCE_S, refusal, say, say_message

PROTOCOLS = {"3.1": mqtt.MQTTv31, "3.1.1": mqtt.MQTTv311, "5": mqtt.MQTTv5}


class Connection:
    """The client and the results of its callbacks."""

    def connect(self, command):
        self.five = command["version"] == "5"
        settings = {} if self.five else {"clean_session": command["clean"]}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=command["client_id"],
            protocol=PROTOCOLS[command["version"]],
            reconnect_on_failure=command["comes_back"],
            transport="websockets" if command["path"] else "tcp",
            **settings,
        )
        if command["tls"]:
            tls = command["tls"]
            self.client.tls_set(tls["authority"], tls["certificate"], tls["key"])
        if command["path"]:
            self.client.ws_set_options(command["path"])
        # Seconds; whole seconds are its default.
        self.client.reconnect_delay_set(min_delay=0.05, max_delay=1)
        self.connected, self.subscribed, self.ended = queue.Queue(), queue.Queue(), queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, _p: self.connected.put((flags, reason))
        self.client.on_subscribe = lambda _c, _u, _mid, codes, _p: self.subscribed.put(codes)
        self.client.on_disconnect = lambda _c, _u, _f, reason, _p: self.ended.put(reason)
        self.client.on_message = lambda _c, _u, message: say_message(message)
        if command["will"]:
            will = command["will"]
            self.client.will_set(will["topic"], bytes.fromhex(will["payload"]), will["qos"], will["retain"])
        settings = {}
        if self.five:
            settings["clean_start"] = command["clean"]
            if command["expiry_s"] is not None:
                settings["properties"] = Properties(PacketTypes.CONNECT)
                settings["properties"].SessionExpiryInterval = command["expiry_s"]
        self.client.connect("127.0.0.1", command["port"], **settings)
        self.client.loop_start()
        flags, reason = self.connected.get(timeout=PATIENCE_S)
        if reason.is_failure:
            raise RuntimeError(str(reason))
        say("connected", session_present=bool(flags.session_present))

    def subscribe(self, command):
        result, _ = self.client.subscribe(command["filter"], command["qos"])
        if result != mqtt.MQTT_ERR_SUCCESS:
            raise RuntimeError(mqtt.error_string(result))
        code = self.subscribed.get(timeout=PATIENCE_S)[0]
        if code.is_failure:
            raise RuntimeError(str(code))
        say("subscribed", granted=code.value)

    def publish(self, command):
        payload = bytes.fromhex(command["payload"])
        info = self.client.publish(command["topic"], payload, command["qos"], command["retain"])
        info.wait_for_publish(PATIENCE_S)
        if not info.is_published():
            raise RuntimeError("not acknowledged in time")
        say("published")

    def disconnect(self, _command):
        self.client.disconnect()
        self.ended.get(timeout=PATIENCE_S)
        say("disconnected")


def main():
    connection = Connection()
    say("ready", version=paho.mqtt.__version__)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            getattr(connection, command["do"])(command)
        except Exception as error:
            say("refused", error=refusal(error))


if __name__ == "__main__":
    main()
    # The library's network thread is a daemon; leave without waiting for it.
    os._exit(0)
