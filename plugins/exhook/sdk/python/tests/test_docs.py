"""Runs the code in README.md and in the documents."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent
DOCS = PACKAGE.parent.parent / "docs"


def blocks(file: Path, language: str) -> list[str]:
    if not file.exists():
        pytest.skip(f"{file.name} is not part of the source distribution")
    return re.findall(rf"^```{language}\n(.*?)^```$", file.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def modules_of_this_test(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("hooks", "shop"):
        sys.modules.pop(name, None)
    yield
    for name in ("hooks", "shop"):
        sys.modules.pop(name, None)


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, _, test = blocks(PACKAGE / "README.md", "python")
    (tmp_path / "hooks.py").write_text(shop)
    monkeypatch.syspath_prepend(str(tmp_path))
    scope: dict = {}
    exec(test, scope)
    scope["test_ann_has_her_own_topics"]()


def test_the_state_of_the_readme_compiles() -> None:
    compile(blocks(PACKAGE / "README.md", "python")[1], "README.md", "exec")


def test_moving_from_emqx(tmp_path: Path) -> None:
    hooks, trying = blocks(DOCS / "moving-from-emqx.md", "python")
    (tmp_path / "hooks.py").write_text(hooks)
    exec(trying.replace("/opt/hooks", str(tmp_path)), {})


def test_moving_from_amqtt(tmp_path: Path) -> None:
    pytest.importorskip("amqtt")
    shop, trying = blocks(DOCS / "moving-from-amqtt.md", "python")
    (tmp_path / "shop.py").write_text(shop)
    (tmp_path / "amqtt.yaml").write_text(blocks(DOCS / "moving-from-amqtt.md", "yaml")[0])
    exec(trying.replace("/srv/shop", str(tmp_path)), {})
