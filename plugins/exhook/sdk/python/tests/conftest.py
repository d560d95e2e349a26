"""Fixtures: a worker on a module written by the test."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from fake_broker import FakeBroker  # noqa: E402

Start = Callable[..., FakeBroker]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a file into the test's folder."""

    def write(source: str, name: str = "hooks.py") -> Path:
        file = tmp_path / name
        file.write_text(textwrap.dedent(source))
        return file

    return write


@pytest.fixture
def start(tmp_path: Path, write: Callable[..., Path]) -> Iterator[Start]:
    """Start a worker on a source, or on what the setup names."""
    brokers: list[FakeBroker] = []

    def start(source: str | None = None, **setup: Any) -> FakeBroker:
        if source is not None:
            write(source)
        setup.setdefault("path", [str(tmp_path)])
        broker = FakeBroker(tmp_path, **setup)
        brokers.append(broker)
        return broker.start()

    yield start
    for broker in brokers:
        broker.__exit__()


def recorded(broker: FakeBroker) -> list[Any]:
    """What hooks have printed with `print(repr(...))`."""
    return [ast.literal_eval(line) for line in broker.printed().splitlines() if line.startswith(("(", "["))]
