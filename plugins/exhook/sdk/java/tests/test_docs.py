"""The examples of README.md work."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from conftest import Start
from java_broker import PACKAGE, jar, message

README = (PACKAGE / "README.md").read_text()


def test_the_main_of_the_readme_does_what_it_says(start: Start, tmp_path: Path) -> None:
    (main,) = re.findall(r"```java\n(.*?)```", README, re.DOTALL)
    (tmp_path / "Main.java").write_text(main)
    for compiled in (False, True):
        if compiled:
            subprocess.run(["javac", "-cp", jar(), "Main.java"], cwd=tmp_path, check=True, timeout=60)
        broker = start(path=[str(tmp_path)])
        assert broker.hooks["message.publish"]["topics"] == ["shop/+/orders"]
        broker.describe(1)
        assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": True})
        broker.describe(1, password=b"wrong")
        assert broker.request("client.authenticate", 1, [0, None, None]) == (1, {"allow": False})
        broker.describe(2, username=None)
        assert broker.request("client.authenticate", 2, [0, None, None]) == (0, None)
        assert broker.request("client.authorize", 1, [1, "shop/ann/orders", 0, False, 0]) == (1, {"allow": True})
        assert broker.request("client.authorize", 1, [2, "shop/bob/orders", 0, False, 0]) == (1, {"allow": False})
        sent = message("shop/ann/orders", " 3 äpples ".encode())
        assert broker.request("message.publish", 1, sent) == (0, {"payload": "3 äpples".encode()})
        broker.notify("client.disconnected", 1, [0x8D, None])
        assert "c1 has left: keepalive_timeout\n" in broker.printed() and broker.lines() == ""


def test_the_readme_names_every_hook() -> None:
    source = (PACKAGE / "src/io/grapnel/exhook/Hooks.java").read_text()
    names = re.findall(r'kind\("(\w+)"', source)
    assert len(names) == 19 and [name for name in names if name not in README] == []
