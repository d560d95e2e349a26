"""aMQTT's own configuration, from its YAML file or from the broker's. Only the driver reads it.

It gives what `amqtt.contexts.BrokerConfig` takes, and says what of the file has no meaning here.
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
# Keys of ours that stand beside aMQTT's.
_OURS = ("config", "plugin_namespace", "log_level", "mirror", "retained_bytes_max")
# Memory of retained messages that a worker keeps, so that the retained store of a large broker does not fill it.
_RETAINED_BYTES_MAX = 64 * 1024 * 1024
logger = logging.getLogger("grapnel_exhook.amqtt")


@dataclasses.dataclass
class Settings:
    """What the driver goes by."""

    broker: Any
    """The `BrokerConfig` that plugins see."""
    namespace: str
    """Where entry points are looked for."""
    topic_check: bool
    """Whether the configuration switches topic filtering on, for plugins that come from entry points."""
    mirror: bool
    """Whether the context has sessions, subscriptions and retained messages."""
    retained_bytes_max: int
    """Bytes of memory that those messages may take."""


def read(setup: dict[str, Any]) -> Settings:
    """The settings of a setup. Raises `LoadError`, and what aMQTT raises about its own options."""
    from amqtt.contexts import BrokerConfig

    ours = dict(setup.get("config") or {})
    entries = [str(entry) for entry in setup.get("path") or ()]
    # As a path, the YAML file itself is enough.
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
        # Plugins come from entry points then. Not where there is only `topic-check`: aMQTT looks for that after it has renamed it,
        # and so goes on with the plugins of its defaults.
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
        # `plugins:` with nothing under it.
        options["plugins"] = {}
    return options
