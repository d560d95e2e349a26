"""The drivers, and the choice of one for a setup. Called by the worker."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from .._driver import Driver, LoadError
from .._loading import import_user_module

NAMES = ("python3", "emqx", "amqtt")


def choose(setup: dict[str, Any]) -> Driver:
    """The driver that `setup` names; for `python3` the module's content decides. Raises what
    importing the module raises."""
    name = setup.get("driver")
    if name == "amqtt":
        from .amqtt import AmqttDriver

        return AmqttDriver(setup)
    if name not in NAMES:
        raise LoadError(f"driver {name!r} is not known to this worker; it knows {', '.join(NAMES)}")
    module = import_user_module(list(setup.get("path") or ()), setup.get("init_module"))
    return for_module(setup, module)


def for_module(setup: dict[str, Any], module: ModuleType) -> Driver:
    """The driver for a module: EMQX's if the module has `init()` and no hooks of our decorators."""
    from .emqx import EmqxDriver
    from .own import OwnDriver, has_hooks

    if setup.get("driver") == "emqx":
        return EmqxDriver(setup, module)
    if has_hooks(module):
        return OwnDriver(setup, module)
    if callable(getattr(module, "init", None)):
        return EmqxDriver(setup, module)
    raise LoadError(
        f"module {module.__name__} has no hooks: neither functions or classes with decorators of grapnel_exhook, "
        "nor an init() that returns (0, (hookspec, state))"
    )
