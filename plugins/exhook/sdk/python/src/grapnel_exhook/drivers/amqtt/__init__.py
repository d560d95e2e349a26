"""Plugins of aMQTT, as they are: classes that the real `amqtt` package loads, fed with the broker's events."""

from .driver import AmqttDriver as AmqttDriver
