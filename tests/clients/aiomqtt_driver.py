"""One connection of aiomqtt for tests/tests/clients/scripted.rs: a command per line of input, an
event per line of output, both JSON, payloads in hexadecimal. It executes commands and checks
nothing; it ends when its input ends.
"""

import asyncio
import importlib.metadata
import json
import os
import sys

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from events import PATIENCE_S, refusal, say, say_message

PROTOCOLS = {
    "3.1": aiomqtt.ProtocolVersion.V31,
    "3.1.1": aiomqtt.ProtocolVersion.V311,
    "5": aiomqtt.ProtocolVersion.V5,
}


class Connection:
    """The client, and the task that reads its messages."""

    async def connect(self, command):
        five = command["version"] == "5"
        settings = {"clean_start": command["clean"]} if five else {"clean_session": command["clean"]}
        if five and command["expiry_s"] is not None:
            settings["properties"] = Properties(PacketTypes.CONNECT)
            settings["properties"].SessionExpiryInterval = command["expiry_s"]
        if command["will"]:
            will = command["will"]
            settings["will"] = aiomqtt.Will(
                will["topic"], bytes.fromhex(will["payload"]), will["qos"], will["retain"]
            )
        if command["tls"]:
            tls = command["tls"]
            settings["tls_params"] = aiomqtt.TLSParameters(
                ca_certs=tls["authority"], certfile=tls["certificate"], keyfile=tls["key"]
            )
        if command["path"]:
            settings["transport"], settings["websocket_path"] = "websockets", command["path"]
        self.client = aiomqtt.Client(
            "127.0.0.1",
            command["port"],
            protocol=PROTOCOLS[command["version"]],
            identifier=command["client_id"],
            timeout=PATIENCE_S,
            **settings,
        )
        await self.client.__aenter__()
        # aiomqtt drops the flags of CONNACK; its public names are shown instead.
        public = ", ".join(name for name in dir(self.client) if not name.startswith("_"))
        say("connected", session_present=None, instead=f"Client has {public}")
        self.reader = asyncio.create_task(self.read())

    async def read(self):
        try:
            async for message in self.client.messages:
                say_message(message)
        except aiomqtt.MqttError as error:
            say("refused", error=refusal(error))

    async def subscribe(self, command):
        codes = await self.client.subscribe(command["filter"], command["qos"])
        # Numbers before MQTT 5, reason codes from it on.
        code = getattr(codes[0], "value", codes[0])
        if code >= 0x80:
            raise RuntimeError(str(codes[0]))
        say("subscribed", granted=code)

    async def publish(self, command):
        payload = bytes.fromhex(command["payload"])
        await self.client.publish(command["topic"], payload, command["qos"], command["retain"])
        say("published")

    async def disconnect(self, _command):
        self.reader.cancel()
        await self.client.__aexit__(None, None, None)
        say("disconnected")


async def main():
    connection = Connection()
    say("ready", version=importlib.metadata.version("aiomqtt"))
    lines = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    while line := await lines.readline():
        command = json.loads(line)
        try:
            await getattr(connection, command["do"])(command)
        except Exception as error:
            say("refused", error=refusal(error))
    # Like a crash: a client that has not disconnected by now leaves its will.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
