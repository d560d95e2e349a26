"""aMQTT's own configuration, from its YAML file or from the broker's. Only the driver reads it.

It creates aMQTT's `amqtt.contexts.BrokerConfig`, and logs which settings have no effect here.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from ..._driver import LoadError
from ..._loading import extend_path

NAMESPACE = "amqtt.broker.plugins"
# Our keys besides aMQTT's.
_OURS = ("config", "plugin_namespace", "log_level", "mirror", "retained_bytes_max")
# Default memory for retained messages in a worker, bytes, so that a large retained store does not
# fill it.
_RETAINED_BYTES_MAX = 64 * 1024 * 1024
logger = logging.getLogger("grapnel_exhook.amqtt")


@dataclasses.dataclass
class Settings:
    """The settings of the driver."""

    broker: Any
    """The `BrokerConfig` that plugins see."""
    namespace: str
    """The namespace of entry points."""
    topic_check: bool
    """Whether topic filtering is enabled for plugins from entry points."""
    mirror: bool
    """Whether the context has sessions, subscriptions and retained messages."""
    retained_bytes_max: int
    """Most bytes of memory for those messages."""


def read(setup: dict[str, Any]) -> Settings:
    """The settings of a setup. Raises `LoadError`, and what aMQTT raises about its own options."""
    from amqtt.contexts import BrokerConfig

    ours = dict(setup.get("config") or {})
    entries = [str(entry) for entry in setup.get("path") or ()]
    # As an entry of `path`, the YAML file alone is enough.
    files = [entry for entry in entries if entry.endswith((".yaml", ".yml"))]
    name = ours.get("config") or (files[0] if files else None)
    extend_path([entry for entry in entries if entry not in files])
    if name is None:
        raw = {key: value for key, value in ours.items() if key not in _OURS}
    else:
        file = _find(str(name), entries)
        extend_path([str(file.parent)])
        raw = _yaml(file)
    options = _options(raw, {field.name for field in dataclasses.fields(BrokerConfig)})
    if "plugins" not in options and "auth" in options:
        # Plugins come from entry points then. Not if there is only `topic-check`: aMQTT checks for
        # it after it has renamed it, and so uses its default plugins.
        options["plugins"] = None
    section = options.get("topic_check")
    retained = ours.get("retained_bytes_max", _RETAINED_BYTES_MAX)
    if not isinstance(retained, int) or isinstance(retained, bool) or retained < 0:
        raise LoadError(f"retained_bytes_max = {retained!r}: must be a number of bytes, or 0 for no messages")
    return Settings(
        broker=BrokerConfig.from_dict(options),
        namespace=str(ours.get("plugin_namespace") or NAMESPACE),
        topic_check=bool(isinstance(section, dict) and (section.get("enabled") or section.get("enable"))),
        mirror=bool(ours.get("mirror", True)),
        retained_bytes_max=retained,
    )


def _find(name: str, entries: list[str]) -> Path:
    folders = [Path.cwd(), *(Path(entry) if os.path.isdir(entry) else Path(entry).parent for entry in entries)]
    for folder in folders:
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise LoadError(f"aMQTT's configuration {name} is in none of {', '.join(str(folder) for folder in folders)}")


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        with file.open(encoding="utf-8") as stream:
            raw = yaml.full_load(stream)
    except yaml.YAMLError as error:
        raise LoadError(f"{file} is no YAML: {error}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise LoadError(f"{file} is not aMQTT's configuration: it has no sections such as plugins or auth")
    return raw


def _options(raw: dict[str, Any], known: set[str]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in raw.items():
        name = str(key).replace("-", "_")
        if name == "listeners":
            logger.info("listeners of aMQTT's configuration do not count here: the broker has its own")
        elif name not in known:
            logger.warning("aMQTT's configuration has %s, which this version of aMQTT does not know", key)
        elif name in ("timeout_disconnect_delay", "session_expiry_interval"):
            logger.info("%s of aMQTT's configuration does not count here: the broker has its own limits", key)
            options[name] = value
        elif value is not None or name == "plugins":
            options[name] = value
    if options.get("plugins", ()) is None:
        # `plugins:` with an empty value.
        options["plugins"] = {}
    return options
