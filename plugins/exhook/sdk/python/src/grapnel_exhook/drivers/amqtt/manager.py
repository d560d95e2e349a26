"""Loads plugins with aMQTT's own `PluginManager`, and finds their methods and arguments.

It differs from aMQTT's if the list of `plugins` names entry points by alias, which aMQTT takes for
modules. The driver calls it once; it calls no hook.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from amqtt.errors import PluginCoroError, PluginImportError, PluginLoadError
from amqtt.events import BrokerEvents, MQTTEvents
from amqtt.plugins.logging_amqtt import EventLoggerPlugin, PacketLoggerPlugin
from amqtt.plugins.manager import PluginManager
from dacite import DaciteError

from ..._driver import LoadError

Callback = Callable[..., Awaitable[Any]]


class Method:
    """A plugin's coroutine function, and the keyword arguments it takes."""

    __slots__ = ("_names", "call", "name")

    def __init__(self, function: Callback, plugin: Any) -> None:
        self.call = function
        self.name = f"{type(plugin).__name__}.{getattr(function, '__name__', None) or 'hook'}"
        try:
            parameters = inspect.signature(function).parameters.values()
            takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        except (TypeError, ValueError):
            parameters, takes_all = (), True  # type: ignore[assignment]
        self._names = (
            None if takes_all else frozenset(p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))
        )

    def wants(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments that the method takes."""
        if self._names is None or self._names.issuperset(arguments):
            return arguments
        return {name: value for name, value in arguments.items() if name in self._names}


class Manager(PluginManager[Any]):
    """The plugins of one configuration."""

    def __init__(self, namespace: str, context: Any, loop: Any, topic_check: bool) -> None:
        self._topic_check = topic_check
        super().__init__(namespace, context, loop)

    def _load_plugins(self, namespace: str | None = None) -> None:
        listed = self.app_context.config.plugins if self.app_context.config else None
        points = {point.name: point for point in entry_points(group=namespace or "")}
        if listed is None:
            self._load_from_entry_points(list(points.values()))
        else:
            aliases: list[EntryPoint] = []
            classes: dict[str, Any] = {}
            for name, options in dict(listed).items():
                if "." in name:
                    classes[name] = options
                elif name not in points:
                    raise LoadError(
                        f"plugins names {name}, which is neither a class path nor an entry point of {namespace}; "
                        f"it has {', '.join(sorted(points)) or 'none'}"
                    )
                elif options:
                    classes[points[name].value.replace(":", ".")] = options
                else:
                    aliases.append(points[name])
            if classes:
                self._load_str_plugins(classes)
            self._load_from_entry_points(aliases)
        self._find_callbacks()

    def _load_str_plugin(self, plugin_path: str, plugin_cfg: dict[str, Any] | None = None) -> Any:
        """As aMQTT's, but the error names the plugin whose options are invalid."""
        try:
            return super()._load_str_plugin(plugin_path, plugin_cfg)
        except PluginLoadError as error:
            if not isinstance(error.__cause__, DaciteError):
                raise
            raise LoadError(f"the options of {plugin_path} do not fit its Config: {error.__cause__}") from error

    def _load_from_entry_points(self, points: list[EntryPoint]) -> None:
        """Plugins that see the whole configuration; `auth` and `topic-check` select those that
        decide."""
        asked_for_login = self._chosen("auth")
        asked_for_topics = self._chosen("topic_check")
        for point in points:
            loaded = self._load_ep_plugin(point)
            if loaded is None:
                continue
            plugin = loaded.object
            self._plugins.append(plugin)
            if hasattr(plugin, "authenticate") and (asked_for_login is None or point.name in asked_for_login):
                self._must_be_coroutine(plugin, "authenticate")
                self._auth_plugins.append(plugin)
            if hasattr(plugin, "topic_filtering") and (asked_for_topics is None or point.name in asked_for_topics):
                self._must_be_coroutine(plugin, "topic_filtering")
                self._topic_plugins.append(plugin)

    def _chosen(self, section: str) -> list[str] | None:
        config = getattr(self.app_context.config, section, None) or {}
        chosen = config.get("plugins")
        return None if chosen is None else [str(name) for name in chosen]

    def _must_be_coroutine(self, plugin: Any, name: str) -> None:
        if not inspect.iscoroutinefunction(getattr(plugin, name)):
            raise PluginCoroError(f"plugin {type(plugin).__name__} has non-async {name} method.")

    def _find_callbacks(self) -> None:
        for plugin in self._plugins:
            for event in (*BrokerEvents, *MQTTEvents):
                callback = getattr(plugin, f"on_{event}", None)
                if callback is None:
                    continue
                if not inspect.iscoroutinefunction(callback):
                    raise PluginImportError(f"'on_{event}' for '{type(plugin).__name__}' is not a coroutine")
                if not _silent(plugin, event):
                    self._event_plugin_callbacks[event].append(callback)

    # Called by the driver

    def methods_of(self, event: str) -> list[Method]:
        """The methods for an event."""
        found = []
        for callback in self._event_plugin_callbacks.get(event, ()):
            plugin = getattr(callback, "__self__", None) or getattr(getattr(callback, "func", None), "__self__", None)
            method = Method(callback, plugin)
            method.name = f"{type(plugin).__name__}.on_{event}"
            found.append(method)
        return found

    @property
    def authenticators(self) -> list[Method]:
        """The methods that decide logins."""
        return [Method(plugin.authenticate, plugin) for plugin in self._auth_plugins]

    @property
    def filters(self) -> list[Method]:
        """The methods that decide topics; empty if topic filtering is disabled."""
        enabled = self._is_topic_filtering_enabled or self._topic_check
        return [Method(plugin.topic_filtering, plugin) for plugin in self._topic_plugins] if enabled else []


def _silent(plugin: Any, event: str) -> bool:
    """Whether an event logger of aMQTT would log nothing. Most of its lines are at debug level, and
    sending packets here is expensive."""
    if type(plugin) not in (EventLoggerPlugin, PacketLoggerPlugin) or plugin.context.logger.isEnabledFor(logging.DEBUG):
        return False
    if type(plugin) is PacketLoggerPlugin:
        return True
    loud = (BrokerEvents.CLIENT_CONNECTED, BrokerEvents.CLIENT_DISCONNECTED)
    return event not in loud
