"""Topic filters against the examples of MQTT 5.0, 4.7."""

import pytest

from grapnel_exhook._match import check, matcher


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/#", "sport", True),
        ("sport/#", "sports", False),
        ("#", "a/b", True),
        ("#", "$SYS/a", False),
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/a", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        ("a.b", "axb", False),
        ("+/b\n", "a/b\n", True),
        ("+/#", "a", True),
    ],
)
def test_filters_match_as_in_the_standard(topic_filter: str, topic: str, matches: bool) -> None:
    test = matcher([topic_filter])
    assert test is not None and test(topic) is matches


def test_several_filters_add_up_and_none_is_every_topic() -> None:
    test = matcher(["a", "b/+"])
    assert test is not None and [test(t) for t in ("a", "b/c", "b", "c")] == [True, True, False, False]
    assert matcher([]) is None


@pytest.mark.parametrize("wrong", ["", "a#", "a/#/b", "a+/b", "a\0", 7])
def test_what_is_no_filter_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError):
        check(wrong)
