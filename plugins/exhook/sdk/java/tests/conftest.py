"""Fixtures: a worker on hooks written by the test."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from java_broker import JavaBroker, compiled  # noqa: E402

Start = Callable[..., JavaBroker]

# Imports for every Main.java of the tests.
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


# Prints values as Python's literals: an atom is {"atom": text}, a binary is bytes, a BigInteger is {"big": number}.
SHOW = r"""
    static String show(Object value) {
        if (value == null) return "None";
        if (value instanceof Atom) return "{'atom': '" + ((Atom) value).value + "'}";
        if (value instanceof Integer) return value.toString();
        if (value instanceof Boolean) return (Boolean) value ? "True" : "False";
        if (value instanceof java.math.BigInteger) return "{'big': " + value + "}";
        if (value instanceof String) return "'" + value + "'";
        if (value instanceof Binary) {
            StringBuilder text = new StringBuilder("b'");
            for (byte each : ((Binary) value).raw) text.append(String.format("\\x%02x", each));
            return text.append("'").toString();
        }
        boolean tuple = value instanceof Tuple;
        StringBuilder text = new StringBuilder(tuple ? "(" : "[");
        List<?> elements = tuple ? Arrays.asList(((Tuple) value).elements) : (List<?>) value;
        for (Object each : elements) text.append(show(each)).append(", ");
        return text.append(tuple ? ")" : "]").toString();
    }
    static void said(String name, Object... arguments) {
        System.out.println("('" + name + "', " + show(Arrays.asList(arguments)) + ")");
    }
"""


def recorder(name: str, arguments: int, returns: str = "null") -> str:
    """A method `on_NAME` that prints its arguments and the state."""
    names = ", ".join(f"a{n}" for n in range(arguments)) + ", state"
    parameters = ", ".join(f"Object {n}" for n in names.split(", "))
    return f'public static Object on_{name}({parameters}) {{ said("{name}", {names}); return {returns}; }}\n'


def recorded(broker: JavaBroker) -> list[Any]:
    """The output of `said`."""
    return [ast.literal_eval(line) for line in broker.printed().splitlines() if line.startswith("('")]


# Small hooks of one method; those with %s need its body.

# Returns its argument.
ECHO = hookspec("message_publish") + """
    static Object of(Object m, int field) { return ((Tuple) ((List<?>) m).get(field)).get(1); }
    public static Object on_message_publish(Object m, Object s) {
        return Tuple.two(0, List.of(Tuple.two(new Atom("topic"), of(m, 4)), Tuple.two(new Atom("payload"), of(m, 5))));
    }
"""
TELL = hookspec("message_delivered") + "public static void on_message_delivered(Object c, Object m, Object s) {%s}\n"
ASK = hookspec("client_check_acl") + """
    static String topic(Object t) { return new String(((Binary) t).raw, StandardCharsets.UTF_8); }
    public static Object on_client_check_acl(Object c, Object a, Object t, Object r, Object s) throws Throwable {%s}
"""
