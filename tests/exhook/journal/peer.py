"""Runs the real aMQTT with a configuration file until its standard input ends. Prints the port that it listens at."""

import asyncio
import logging
import sys

import yaml
from amqtt.broker import Broker


async def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        broker = Broker(yaml.safe_load(file))
    await broker.start()
    print("PORT", broker._servers["default"].instance.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await broker.shutdown()


logging.basicConfig(level=logging.ERROR)
asyncio.run(main())
