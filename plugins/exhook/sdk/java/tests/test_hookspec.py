"""How hookspecs are read: names in every form, topics, and the error messages."""

from __future__ import annotations

import re

import pytest
from conftest import Start
from java_broker import Refused


def test_topics_in_every_form(start: Start) -> None:
    source = """
        public static void tell(Object a, Object s) {}
        public static void tell(Object a, Object b, Object s) {}
        public static Object init() {
            return Tuple.two(0, Tuple.two(Arrays.asList(
                Tuple.four("message_publish", "Main", "tell",
                    Arrays.asList(Tuple.two(new Atom("topics"), Arrays.asList("a/#", new Binary("ä"))))),
                Tuple.four("message_delivered", "Main", "tell", Arrays.asList("c/+")),
                Tuple.four("message_acked", "Main", "tell", Arrays.asList()),
                Tuple.four(new Atom("message_dropped"), new Binary("Main"), new Atom("tell"),
                    new Object[] {Tuple.two("topics", new Object[0])}),
                Tuple.four(new Binary("client_connected"), "Main", "tell",
                    Arrays.asList(Tuple.two("topics", Arrays.asList("a"))))), null));
        }
    """
    broker = start(source)
    assert {point: hook["topics"] for point, hook in broker.hooks.items()} == {
        "message.publish": ["a/#", "ä"], "message.delivered": ["c/+"], "message.acked": [], "message.dropped": [],
        "client.connected": [],
    }  # fmt: skip


INIT = """
    public static Object init() { return %s; }
    public static void f(Object a, Object s) {}
    void bound(Object a, Object s) {}
"""
TOPICS = 'Tuple.four("message_publish", "Main", "f", List.of(Tuple.two("topics", %s)))'
ACTIONS = "Tuple.two(0, Tuple.two(Arrays.asList(%s), null))"


@pytest.mark.parametrize(
    ("returns", "says"),
    [
        ('Tuple.two(1, "no database")', "init() of Main refused: no database"),
        ('Tuple.two(1, new Binary("no database"))', "init() of Main refused: no database"),
        ("null", "init() of Main returned null, not Tuple.two(0, Tuple.two(list of actions, state))"),
        ("Tuple.two(0, 5)", "not Tuple.two(0, Tuple.two(list of actions, state))"),
        ("Tuple.two(0, Tuple.two(5, null))", "not Tuple.two(0, Tuple.two(list of actions, state))"),
        (ACTIONS % "", "the hookspec of Main is empty"),
        (ACTIONS % "5", "5 in the hookspec is not Tuple.three(hook, class, method)"),
        (ACTIONS % 'Tuple.three("client_login", "Main", "f")', "'client_login', which EMQX has not; it has client_connect, "),
        (ACTIONS % 'Tuple.three("client_connected", "No", "f")', "names class No, which is not in path; searched: /"),
        (ACTIONS % 'Tuple.three("client_connected", "Main", "g")', "names Main.g, but Main has no method g with 2 parameters"),
        (ACTIONS % 'Tuple.three("client_check_acl", "Main", "f")', "Main has no method f with 5 parameters; there it takes 2"),
        (ACTIONS % TOPICS % 'List.of("a#")', "the topics of message_publish in the hookspec: 'a#' is no topic filter"),
        (ACTIONS % TOPICS % 'List.of("#/a")', "'#/a' is no topic filter"),
        (ACTIONS % TOPICS % 'List.of("")', "'' is no topic filter"),
        (ACTIONS % TOPICS % "List.of(5)", "5 is neither a String nor a Binary of UTF-8"),
        (ACTIONS % TOPICS % '"a"', "the topics of message_publish in the hookspec are a, not a list"),
        (ACTIONS % 'Tuple.four("message_publish", "Main", "f", "a")', "the opts of message_publish in the hookspec are a, "),
        ("5 / Integer.valueOf(0)", "java.lang.ArithmeticException: / by zero\n\tat Main.init(Main.java:"),
    ],
)  # fmt: skip
def test_a_bad_hookspec_refuses_the_load_and_says_why(start: Start, returns: str, says: str) -> None:
    with pytest.raises(Refused, match=re.escape(says)):
        start(INIT % returns)


def test_a_method_that_is_not_static_wants_a_class_that_can_be_made(start: Start) -> None:
    source = "private Main(int port) {}\n" + INIT % (ACTIONS % 'Tuple.three("client_connected", "Main", "bound")')
    with pytest.raises(Refused, match="Main.bound is not static, and Main has no constructor.*make the method static"):
        start(source)


def test_without_init_it_says_so(start: Start) -> None:
    with pytest.raises(Refused, match=re.escape("class Main has no init() without parameters")):
        start("public static Object init(Object o) { return o; }")
