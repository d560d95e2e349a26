#!/usr/bin/env python3
"""Runs the commands of one page as its reader would: one shell, its blocks `console` and `console clone`
in their order, and a second terminal for what does not end. pages.py says what the page's sentences have
the reader do. tests/reader/view calls this on a machine that is the reader's alone.

usage: page.py [--list] PAGE
       page.py --build

In the expected output, `…` stands for any text, alone in a line for any number of lines, and a space for
one or more of them. tests/tests/documents/console.rs runs blocks `console` by the same rules.
"""

import os
import pathlib
import pty
import queue
import re
import select
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time

import pages

REPOSITORY = pathlib.Path("/home/reader/grapnel")
KINDS = ("console", "console clone")
COMMAND_S = 60
# What a program in the background prints after a command.
LATER_S = 15
# What builds, installs, or measures for a while.
LONG_S = 2400
LONG = re.compile(r"\b(pip3?|apt-get|cargo|just|scripts/\S+|sdk/java/build|pytest|mypy|grapnel-bench)\b|throughput")
# What needs the machine's network and no broker.
OUTSIDE = re.compile(r"\b(pip3?|apt-get|cargo|just|scripts/(?!run$)\S+)\b")
# What runs until it is ended.
SERVER = re.compile(r"^(scripts/run|grapnel --config \S+)$")
ENDED = "\x01ended with "


def blocks_of(path):
    """Kind, line and lines of each block, without its indent."""
    found, block = [], None
    for at, line in enumerate(path.read_text().splitlines(), 1):
        fence = line.lstrip()
        if block is None and fence.startswith("```"):
            block = (fence[3:].strip(), at, [], len(line) - len(fence))
        elif block is not None and fence.rstrip() == "```":
            found.append(block[:3])
            block = None
        elif block is not None:
            block[2].append(line[block[3]:])
    return found


def steps_of(lines):
    """Each command with the output that the page shows."""
    steps, goes_on = [], False
    for line in lines:
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif goes_on:
            steps[-1] = (steps[-1][0] + "\n" + line, steps[-1][1])
        else:
            steps[-1][1].append(line)
        goes_on = line.endswith("\\")
    return steps


def commands(lines):
    """How many commands a block has, in words."""
    count = len(steps_of(lines))
    return f"{count} command{'' if count == 1 else 's'}"


def matches(expected, printed):
    def clean(lines):
        return [words for words in (" ".join(line.split()) for line in lines) if words]

    def same(wanted, got):
        if not wanted:
            return not got
        if wanted[0] == "…":
            return any(same(wanted[1:], got[at:]) for at in range(len(got) + 1))
        pattern = ".*".join(re.escape(part) for part in wanted[0].split("…"))
        return bool(got) and re.fullmatch(pattern, got[0]) is not None and same(wanted[1:], got[1:])

    return same(clean(expected), clean(printed))


class Wrong(Exception):
    pass


class Output:
    """Lines of a process as they come."""

    def __init__(self, stream):
        self.lines = queue.Queue()
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream):
        for line in stream:
            self.lines.put(line.decode(errors="replace").rstrip("\r\n"))
        self.lines.put(None)

    def next(self, deadline):
        """The next line; None if there is none in time or at all."""
        try:
            return self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None


class Reader:
    def __init__(self, page):
        self.page = pages.PAGES.get(page, pages.Page())
        self.servers = []
        environment = dict(os.environ)
        if self.page.on_path:
            environment["PATH"] = f"{REPOSITORY}/target/checked:{environment['PATH']}"
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"], cwd=REPOSITORY, env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.output = Output(self.shell.stdout)

    def run(self, command, expected):
        if SERVER.match(command):
            self.serve(command, expected)
            return
        text = command
        answers = pages.TYPED.get(command)
        if answers:
            text = shlex.join(["python3", __file__, "--typed", *answers, "--", "bash", "-c", command])
        elif OUTSIDE.search(command.split(" #")[0]):
            text = "nsenter --net=/run/network bash -c " + shlex.quote(command)
        before = self.subscriptions() if command.rstrip().endswith("&") else None
        quoted = text.replace("'", "'\\''")
        line = f"eval '{quoted}' </dev/null 2>&1; printf '\\n{ENDED}%d\\n' $?\n"
        self.shell.stdin.write(line.encode())
        self.shell.stdin.flush()
        deadline = time.monotonic() + (LONG_S if LONG.search(command) else COMMAND_S)
        printed, status = [], None
        while status is None or not matches(expected, printed):
            line = self.output.next(deadline)
            if line is None:
                end = "does not end" if status is None else f"ended with {status}"
                raise Wrong(f"{end}; printed:\n" + "\n".join(printed))
            if line.startswith(ENDED):
                status = line[len(ENDED):]
                # What is wrong already need not be waited for so long.
                deadline = min(deadline, time.monotonic() + LATER_S)
            else:
                printed.append(line)
        # A command may fail where the page shows its error.
        if status != "0" and not any(line.startswith("Error: ") for line in expected):
            raise Wrong(f"ended with {status}; printed:\n" + "\n".join(printed))
        if before is not None and "mosquitto_sub" in command:
            self.wait_for_subscription(before)

    def serve(self, command, expected):
        """Starts a broker in another terminal, and waits until it has printed what the page shows."""
        expected = expected or ["…", "ready"]
        process = subprocess.Popen(
            ["bash", "-c", "exec " + command], cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=os.environ | {"PATH": f"{REPOSITORY}/target/checked:{os.environ['PATH']}"},
        )
        self.servers.append(process)
        output, printed, deadline = Output(process.stdout), [], time.monotonic() + LONG_S
        while "ready" not in printed or not matches([*expected, "…"], printed):
            line = output.next(deadline)
            if line is None:
                raise Wrong("is not ready, or does not print what the page shows; printed:\n" + "\n".join(printed))
            printed.append(line)
            if line == "ready":
                deadline = time.monotonic() + LATER_S
        self.printed = output

    def subscriptions(self):
        ctl = [REPOSITORY / "target/checked/grapnel-ctl", "subscriptions", "list"]
        return len(subprocess.run(ctl, capture_output=True, timeout=COMMAND_S).stdout.splitlines())

    def wait_for_subscription(self, before):
        """A reader is slower than a program in the background."""
        deadline = time.monotonic() + COMMAND_S
        while self.subscriptions() == before:
            if time.monotonic() > deadline:
                raise Wrong("does not subscribe")
            time.sleep(0.05)

    def write(self, name, lines):
        path = REPOSITORY / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
        if lines[0].startswith("#!"):
            path.chmod(0o755)

    def end(self):
        self.shell.stdin.close()
        self.shell.kill()
        for process in self.servers:
            process.send_signal(signal.SIGTERM)
        for process in self.servers:
            try:
                status = process.wait(COMMAND_S)
            except subprocess.TimeoutExpired:
                raise Wrong("a broker does not end")
            if status != 0:
                raise Wrong(f"a broker ended with {status}")


def progress(text):
    terminal = os.environ.get("READER_TERMINAL")
    if terminal:
        with open(terminal, "w") as stream:
            stream.write(f"\r\x1b[K{text[:76]}")


def run_block(reader, page, line, lines):
    for command, expected in steps_of(lines):
        progress(f"{page}:{line}: {command}")
        if command.startswith("cat ") and expected:
            path = REPOSITORY / command[4:]
            # The file is the reader's, and the page shows it.
            if not path.exists():
                reader.write(path, expected)
        try:
            reader.run(command, expected)
        except Wrong as wrong:
            raise Wrong(f"`{command}` {wrong}\nexpected:\n" + "\n".join(expected))


def read(page):
    """Runs the page. Returns whether all went well."""
    reader = Reader(page)
    at = f"{page}: before its first block"
    try:
        for name, source, kind, number in reader.page.files_of_others:
            found = [lines for each, _, lines in blocks_of(REPOSITORY / source) if each == kind]
            reader.write(name, found[number])
        for name, text in reader.page.files.items():
            reader.write(name, text.splitlines())
        for command in reader.page.before:
            reader.run(command, ["…"])
        if reader.page.broker:
            reader.serve("scripts/run", [])
        for command in reader.page.with_broker:
            reader.run(command, ["…"])
        written = dict(reader.page.written)
        for kind, line, lines in blocks_of(REPOSITORY / page):
            at = f"{page}:{line}"
            places = written.get(kind.split(",")[0])
            if places:
                name = places[0]
                written[kind.split(",")[0]] = places[1:]
                if name:
                    reader.write(name, lines)
            elif kind in KINDS:
                begun = time.monotonic()
                run_block(reader, page, line, lines)
                progress("")
                print(f"{at}: {commands(lines)}, {time.monotonic() - begun:.1f} s", flush=True)
        at = f"{page}: at its end"
        reader.end()
    except Wrong as wrong:
        progress("")
        text = str(wrong)
        print(f"{at}: failed: {text}")
        said = [line for line in text.split("\nexpected:\n")[0].splitlines() if line]
        print(f"FAILED {at}: {said[0]} {said[-1] if len(said) > 1 else ''}", flush=True)
        return False
    return True


def build():
    """Builds what `scripts/run` builds, with the network that loads its packages."""
    reader = Reader("")
    try:
        reader.run("scripts/run --build-only", ["…"])
    except Wrong as wrong:
        print(wrong)
        return False
    return True


def typed(arguments):
    """Runs a command at a terminal, and types the answers, one at each question."""
    border = arguments.index("--")
    answers, command = arguments[:border], arguments[border + 1:]
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(command[0], command)
    said = b""
    while True:
        ready, _, _ = select.select([terminal], [], [], COMMAND_S)
        try:
            more = os.read(terminal, 4096) if ready else b""
        except OSError:
            more = b""
        if not more:
            break
        said += more
        if answers and said.endswith(b": "):
            is_shown = True
            while is_shown:
                # A reader is slower than the program, which first asks and then hides what is typed.
                time.sleep(0.01)
                is_shown = termios.tcgetattr(terminal)[3] & termios.ECHO
            os.write(terminal, answers.pop(0).encode() + b"\n")
    sys.stdout.write(said.decode(errors="replace").replace("\r\n", "\n"))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main():
    if sys.argv[1] == "--typed":
        sys.exit(typed(sys.argv[2:]))
    if sys.argv[1] == "--list":
        for kind, line, lines in blocks_of(pathlib.Path(sys.argv[2])):
            if kind in KINDS:
                print(f"{sys.argv[2]}:{line}: {commands(lines)} ({kind})")
        return
    sys.exit(0 if (build() if sys.argv[1] == "--build" else read(sys.argv[1])) else 1)


if __name__ == "__main__":
    main()
