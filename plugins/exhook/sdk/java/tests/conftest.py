"""Fixtures: a worker on hooks written by the test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from java_broker import JavaBroker, compiled  # noqa: E402

Start = Callable[..., JavaBroker]

# What every Main.java of the tests may use without saying so.
_HEAD = """
import com.erlport.erlang.term.*;
import java.util.*;
import java.nio.charset.StandardCharsets;
"""


def main_class(members: str) -> str:
    """The source of a class Main with these members."""
    return f"{_HEAD}public class Main {{\n{members}\n}}\n"


def hookspec(*hooks: str, state: str = '"the state"') -> str:
    """An init() that mounts `on_NAME` for each NAME."""
    actions = ", ".join(f'Tuple.three("{name}", "Main", "on_{name}")' for name in hooks)
    return f"public static Object init() {{ return Tuple.two(0, Tuple.two(Arrays.asList({actions}), {state})); }}\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a worker on the members of a class Main, or on what the setup names."""
    brokers: list[JavaBroker] = []

    def start(members: str | None = None, **setup: Any) -> JavaBroker:
        if members is not None:
            setup.setdefault("path", [str(compiled(main_class(members)))])
        broker = JavaBroker(tmp_path, **setup)
        brokers.append(broker)
        broker.start()
        return broker

    yield start
    for broker in brokers:
        broker.__exit__()
