"""The fake broker of the Python package's tests, with a worker in Java on its socket.

`jar()` is the jar under test: the one that GRAPNEL_EXHOOK_JAR names, else one that is built here once in a run.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent
sys.path.append(str(PACKAGE.parent / "python" / "tests"))

from fake_broker import POINTS, FakeBroker, Refused, client, cpu, message  # noqa: E402

__all__ = ["HERE", "PACKAGE", "POINTS", "JavaBroker", "Refused", "client", "compiled", "cpu", "jar", "message"]
_BUILD_S = 120
# The jar and classes that are compiled against it; deleted after the run.
_WORK = tempfile.TemporaryDirectory(prefix="grapnel-exhook-")


@functools.cache
def jar() -> Path:
    """The jar under test."""
    given = os.environ.get("GRAPNEL_EXHOOK_JAR")
    if given:
        return Path(given).resolve()
    folder = tempfile.mkdtemp(dir=_WORK.name)
    done = subprocess.run([PACKAGE / "build", folder], capture_output=True, text=True, timeout=_BUILD_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return Path(folder, "grapnel-exhook.jar")


@functools.cache
def compiled(source: str, name: str = "Main") -> Path:
    """A folder with the classes of a source, compiled against the jar as users do; once per source
    and run."""
    folder = Path(tempfile.mkdtemp(dir=_WORK.name))
    file = folder / "source" / f"{name}.java"
    file.parent.mkdir()
    file.write_text(source, encoding="utf-8")
    classes = folder / "classes"
    classes.mkdir()
    done = subprocess.run(
        ["javac", "-encoding", "UTF-8", "-cp", jar(), "-d", classes, file], capture_output=True, text=True, timeout=_BUILD_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return classes


class JavaBroker(FakeBroker):
    """One worker in Java and the broker's end of its socket. `options` go to Java."""

    # Tests end before optimizing compilation pays off.
    short_run: tuple[str, ...] = ("-XX:TieredStopAtLevel=1",)

    def __init__(self, tmp_path: Path, options: tuple[str, ...] = (), **setup: Any) -> None:
        self.options = options
        super().__init__(tmp_path, **{"driver": "java", "init_module": "", **setup})

    def start_process(self, theirs: socket.socket, output: IO[bytes], cwd: Path) -> subprocess.Popen[bytes]:
        # Without a locale: hooks must not depend on the machine's character set.
        environment = dict(os.environ, GRAPNEL_WORKER_FD="0", LC_ALL="C")
        return subprocess.Popen(
            ["java", *self.short_run, *self.options, "-cp", jar(), "io.grapnel.exhook.Worker"],
            env=environment, stdin=theirs, stdout=output, stderr=subprocess.STDOUT, cwd=cwd,
        )  # fmt: skip
