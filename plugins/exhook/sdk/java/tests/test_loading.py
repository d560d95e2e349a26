"""Finding, compiling and refusing users' classes, and the jar itself."""

from __future__ import annotations

import os
import re
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ECHO, TELL, Start, hookspec, main_class
from java_broker import PACKAGE, JavaBroker, Refused, compiled, jar, message


@pytest.mark.parametrize(
    ("setup", "says"),
    [
        ({"init_module": "Nowhere"}, "init_module names class Nowhere, which is not in path; searched: /"),
        ({"path": []}, "init_module names class Main, which is not in path; searched: nothing, path is empty"),
        ({"path": ["/does/not/exist"]}, "path /does/not/exist does not exist"),
        ({"protocol": 2}, "the broker speaks protocol 2, grapnel-exhook.jar "),
        ({"driver": "python3"}, "this worker runs driver java, not python3"),
        ({"points": {"client.connect": 0}}, "this broker has no hook point message.publish; it has client.connect"),
        ({"frame_bytes_max": 1024, "init_module": "N" * 3000}, "searched: /"),
    ],
)
def test_what_cannot_be_loaded_says_why(start: Start, setup: dict, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        start(ECHO, **setup)


def test_a_class_that_fails_while_it_is_loaded_shows_its_cause_without_our_own_frames(start: Start) -> None:
    source = 'static int x = make();\nstatic int make() { throw new IllegalStateException("no licence"); }\n'
    with pytest.raises(Refused, match="Caused by: java.lang.IllegalStateException: no licence\n\tat Main.make") as refused:
        start(source + ECHO)
    assert str(refused.value).startswith("java.lang.ExceptionInInitializerError") and "io.grapnel" not in str(refused.value)


def test_a_long_stack_trace_shows_head_and_end(start: Start) -> None:
    source = """
        static Object deep(int n) { if (n > 0) return deep(n - 1); throw new IllegalStateException("the head"); }
        public static Object init() {
            try { return deep(500); }
            catch (IllegalStateException e) { throw new RuntimeException("outer", new Error("the end")); }
        }
    """
    with pytest.raises(Refused, match="(?s)^java.lang.RuntimeException: outer.*Caused by: java.lang.Error: the end") as refused:
        start(source)
    assert len(str(refused.value)) < 7000
    with pytest.raises(Refused, match="(?s)^java.lang.IllegalStateException: the head.*….*at Main.init") as refused:
        start("static Object deep(int n) { if (n > 0) return deep(n - 1); throw new IllegalStateException(\"the head\"); }\n"
              "public static Object init() { return deep(500); }\n")  # fmt: skip
    assert len(str(refused.value)) < 7000


def test_the_worker_ends_after_it_has_refused_though_user_code_has_threads(tmp_path: Path) -> None:
    source = """
        public static Object init() {
            new Thread(() -> { while (true) try { Thread.sleep(100_000); } catch (InterruptedException e) {} }).start();
            return Tuple.two(1, "no");
        }
    """
    with JavaBroker(tmp_path, path=[str(compiled(main_class(source)))]) as broker:
        with pytest.raises(Refused):
            broker.start()
        assert broker.process.wait(5) == 1


def test_jars_zips_files_and_folders_with_them_are_found(start: Start, tmp_path: Path) -> None:
    used = compiled("package lib;\npublic class Used { public static String word() { return \"used\"; } }\n", "Used")
    source = f"public class Main {{ public static Object init() {{ throw new RuntimeException(lib.Used.word()); }} }}"
    work = tmp_path / "work"
    work.mkdir()
    (work / "Main.java").write_text(source)
    subprocess.run(["javac", "-cp", f"{jar()}:{used}", "-d", work, work / "Main.java"], check=True, timeout=60)
    main_jar, lib_jar = tmp_path / "main.jar", tmp_path / "lib.jar"
    for archive, folder in ((main_jar, work), (lib_jar, used)):
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in folder.rglob("*.class"):
                zipped.write(file, file.relative_to(folder))
    jars = tmp_path / "jars"
    jars.mkdir()
    for archive in (main_jar, lib_jar):
        (jars / archive.name).write_bytes(archive.read_bytes())
    (work / "lib.jar").write_bytes(lib_jar.read_bytes())
    # EMQX's driver uses both kinds in a folder; sources are compiled against them, too.
    zips, sources = tmp_path / "zips", tmp_path / "sources"
    for folder, archives in ((zips, (main_jar, lib_jar)), (sources, (lib_jar,))):
        folder.mkdir()
        for archive in archives:
            (folder / archive.name).with_suffix(".zip").write_bytes(archive.read_bytes())
    (sources / "Main.java").write_text(source)
    for path in (
        [str(zips)], [str(zips / "main.zip"), str(zips / "lib.zip")], [str(sources)],
        [str(main_jar), str(lib_jar)], [f"{main_jar}:{lib_jar}"], [str(jars)], [str(work)], [str(work / "Main.class")],
        [str(work / "Main.java"), ""],
    ):  # fmt: skip
        with pytest.raises(Refused, match="RuntimeException: used"):
            start(path=path)
    # A file in `path` means that file, not its folder.
    for archive in (zips / "main.zip", jars / "main.jar"):
        with pytest.raises(Refused, match="NoClassDefFoundError: lib/Used"):
            start(path=[str(archive)])


def test_what_users_bring_of_messagepack_is_theirs(start: Start) -> None:
    source = 'package org.msgpack.core;\npublic class MessagePack { public static String mine() { return "mine"; } }\n'
    theirs = compiled(source, "MessagePack")
    folder = compiled(main_class(TELL % "").replace("public class Main {", """public class Main {
        static { try { System.out.println(Class.forName("org.msgpack.core.MessagePack").getMethod("mine").invoke(null)); }
                 catch (ReflectiveOperationException e) { System.out.println(e); } }"""))  # fmt: skip
    assert "mine\n" in start(path=[str(folder), str(theirs)]).printed()


def test_the_context_class_loader_finds_users_resources(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.properties").write_text("name = the shop\n")
    source = TELL % """
        try (var in = Thread.currentThread().getContextClassLoader().getResourceAsStream("shop.properties")) {
            System.out.print(new String(in.readAllBytes()));
        } catch (java.io.IOException e) {}
    """
    broker = start(path=[str(compiled(main_class(source))), str(tmp_path)])
    broker.notify("message.delivered", 0, message())
    assert "name = the shop\n" in broker.printed()


def test_sources_are_compiled_with_those_that_they_need(start: Start, tmp_path: Path) -> None:
    uses = ECHO.replace("return Tuple.two(0, List.of(", "shop.Side.seen(m); return Tuple.two(0, List.of(")
    (tmp_path / "Main.java").write_text(main_class(uses))
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/Side.java").write_text(
        'package shop;\npublic class Side { public static void seen(Object m) { System.out.println("ä"); } }\n'
    )
    (tmp_path / "Unused.java").write_text("this is no Java\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for path in (tmp_path, tmp_path / "Main.java"):
        broker = start(path=[str(path)], options=(f"-Djava.io.tmpdir={temporary}",))
        assert broker.request("message.publish", 0, message("t", b"x"))[0] == 0
        assert "ä\n" in broker.printed()
    left = {file.name for file in tmp_path.rglob("*")} - {"output.txt"}
    assert left == {"Main.java", "shop", "Side.java", "Unused.java", "temporary"}


def test_a_class_that_only_the_hookspec_names_is_compiled_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "Main.java").write_text(main_class(hookspec("client_connected").replace('"Main", "on_', '"Other", "on_')))
    (tmp_path / "Other.java").write_text(
        "public class Other { public static void on_client_connected(Object c, Object s) { System.out.println(s); } }\n"
    )
    broker = start(path=[str(tmp_path)])
    broker.describe()
    broker.notify("client.connected", 1, [])
    assert "the state\n" in broker.printed()


def test_a_source_that_is_newer_than_its_class_wins_and_an_older_one_does_not(start: Start, tmp_path: Path) -> None:
    def source(word: str) -> str:
        method = f'public static void on_client_connected(Object c, Object s) {{ System.out.println("{word}"); }}'
        return main_class(hookspec("client_connected") + method)

    def printed() -> str:
        broker = start(path=[str(tmp_path)])
        broker.describe()
        broker.notify("client.connected", 1, [])
        return broker.printed()

    file = tmp_path / "Main.java"
    (tmp_path / "Main.class").write_bytes((compiled(source("compiled")) / "Main.class").read_bytes())
    file.write_text(source("edited"))
    now = time.time()
    os.utime(tmp_path / "Main.class", (now, now - 100))
    assert "edited\n" in printed()
    os.utime(tmp_path / "Main.class", (now, now + 100))
    assert "compiled\n" in printed()


def test_the_folder_that_comes_first_wins(start: Start, tmp_path: Path) -> None:
    folders = []
    for n, word in enumerate(("first", "second")):
        source = main_class(f'public static Object init() {{ return Tuple.two(1, "{word}"); }}')
        folders.append(tmp_path / word)
        folders[n].mkdir()
        if word == "first":
            (folders[n] / "Main.class").write_bytes((compiled(source) / "Main.class").read_bytes())
        else:
            (folders[n] / "Main.java").write_text(source)
    for order, word in ((folders, "first"), (folders[::-1], "second")):
        with pytest.raises(Refused, match=f"refused: {word}"):
            start(path=[str(folder) for folder in order])


@pytest.mark.parametrize("where", ["Main", "Other"])
def test_a_source_that_does_not_compile_refuses_the_load_with_the_compilers_words(
    start: Start, tmp_path: Path, where: str
) -> None:
    """The first class of the load, or one that is first needed while init() runs."""
    wrong = "public class %s { public static Object init() { return nothing; } }"
    if where == "Main":
        (tmp_path / "Main.java").write_text(wrong % "Main")
    else:
        calls = "class Main { public static Object init() { return Other.init(); } }\n"
        right = compiled(calls + "public class Other { public static Object init() { return null; } }\n", "Other")
        (tmp_path / "Main.class").write_bytes((right / "Main.class").read_bytes())
    (tmp_path / "Other.java").write_text(wrong % "Other")
    with pytest.raises(Refused, match=re.escape(f"{tmp_path}/{where}.java does not compile:")) as refused:
        start(path=[str(tmp_path)])
    assert "cannot find symbol" in str(refused.value) and f"{tmp_path}/{where}.java:1:" in str(refused.value)


def test_without_a_compiler_it_says_how_it_is_done_by_hand(start: Start, tmp_path: Path) -> None:
    (tmp_path / "Main.java").write_text(main_class(ECHO))
    with pytest.raises(Refused, match=re.escape(f"compile it yourself: javac -cp {jar()} {tmp_path}/Main.java")):
        start(path=[str(tmp_path)], options=("--limit-modules", "java.base,java.logging,java.compiler"))


# The jar


def test_the_jar_stands_alone_and_says_whose_its_parts_are() -> None:
    with zipfile.ZipFile(jar()) as archive:
        names = set(archive.namelist())
        for name in ("LICENSE", "NOTICE"):
            assert f"META-INF/licences/msgpack-core/{name}" in names
        classes = {name for name in names if name.endswith(".class")}
    prefixes = {name.rsplit("/", 1)[0] for name in classes}
    assert {prefix.split("/")[0] for prefix in prefixes} == {"com", "erlport", "io", "org"}
    assert {"com/erlport/erlang/term", "io/grapnel/exhook", "org/msgpack/core"} <= prefixes


def test_the_same_sources_give_the_same_jar(tmp_path: Path) -> None:
    jars = []
    for name in ("one", "two"):
        subprocess.run([PACKAGE / "build", tmp_path / name], check=True, capture_output=True, timeout=120)
        jars.append((tmp_path / name / "grapnel-exhook.jar").read_bytes())
    assert jars[0] == jars[1]


def test_build_says_what_is_missing(tmp_path: Path) -> None:
    environment = dict(os.environ, MSGPACK_CORE="/no/msgpack.jar")
    done = subprocess.run([PACKAGE / "build", tmp_path], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "there is no /no/msgpack.jar: apt-get install" in done.stderr
    assert subprocess.run([PACKAGE / "build", "--bogus"], capture_output=True, timeout=60).returncode == 1
