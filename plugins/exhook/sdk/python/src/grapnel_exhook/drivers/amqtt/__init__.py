"""Runs unchanged plugins of aMQTT: the `amqtt` package loads their classes, and the broker's events
are passed to them."""

from .driver import AmqttDriver as AmqttDriver
