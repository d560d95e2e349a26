"""Finds and imports user code, and describes failures. Called by the drivers while they load."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ._driver import LoadError

_TRACEBACK_CHARS_MAX = 6000


def extend_path(entries: list[str]) -> None:
    """Put folders, and the folders of files, in front of `sys.path`. Raises `LoadError` if one does
    not exist."""
    folders: list[str] = []
    for entry in entries:
        for part in str(entry).split(":"):
            if not part:
                continue
            path = Path(part)
            if not path.exists():
                raise LoadError(f"path {part} does not exist; name a Python file or the folder that it stands in")
            folder = str((path.parent if path.is_file() else path).resolve())
            if folder not in folders:
                folders.append(folder)
    sys.path[:0] = folders


def import_user_module(entries: list[str], name: str | None) -> ModuleType:
    """Import `init_module`; without a name, the only file among `entries`."""
    # Two edits within one second have the same time stamp, so byte code of the first would be used.
    sys.dont_write_bytecode = True
    extend_path(entries)
    if not name:
        files = [Path(entry) for entry in entries if Path(entry).is_file()]
        if len(files) != 1:
            raise LoadError("init_module is missing; name the module that has the hooks")
        name = files[0].stem
    known = sys.modules.get(name)
    if known is not None and not _is_in(known, entries):
        raise LoadError(f"init_module {name} has the name of a module that Python has loaded itself; give the file another")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        looked = ", ".join(str(entry) for entry in entries) or "no path"
        stems = [Path(entry).stem for entry in entries if str(entry).endswith(".py")]
        remedy = f'set init_module = "{stems[0]}"' if stems else "set path to its folder"
        raise LoadError(f"no module {name} (init_module) in {looked}; {remedy}") from error


def _is_in(module: ModuleType, entries: list[str]) -> bool:
    file = getattr(module, "__file__", None)
    folders = [path if path.is_dir() else path.parent for path in (Path(part) for e in entries for part in str(e).split(":"))]
    return file is not None and any(folder.resolve() in Path(file).resolve().parents for folder in folders)


def tail(error: BaseException) -> str:
    """The end of a traceback, for the operator; for a `LoadError`, its text."""
    if isinstance(error, LoadError):
        return str(error)
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip()
    if len(text) > _TRACEBACK_CHARS_MAX:
        text = "…" + text[-_TRACEBACK_CHARS_MAX:]
    return text


def last_line(error: BaseException) -> str:
    """One line: the type of an error and its text."""
    return "".join(traceback.format_exception_only(type(error), error)).strip().replace("\n", " ")


def positional_parameters(function: Any) -> int | None:
    """Number of positional arguments of a callable; None for any number, or if it is not known."""
    import inspect

    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(1 for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
