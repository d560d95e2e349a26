"""Topic filters of MQTT (5.0, 4.7), used when several hooks of a worker share a point with
different filters."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


def matcher(filters: Iterable[str]) -> Callable[[str], bool] | None:
    """A test whether a topic matches one of `filters`; None if every topic does. Raises
    `ValueError` for an invalid filter."""
    literal: set[str] = set()
    patterns: list[str] = []
    for each in filters:
        check(each)
        if each == "#":
            # Like every filter that begins with a wildcard, it does not match topics that begin
            # with $.
            patterns.append(r"(?!\$).*")
        elif "+" in each or "#" in each:
            patterns.append(_pattern(each))
        else:
            literal.add(each)
    if not literal and not patterns:
        return None
    if not patterns:
        return literal.__contains__
    search = re.compile("|".join(f"(?:{p})" for p in patterns), re.DOTALL).fullmatch
    return lambda topic: topic in literal or search(topic) is not None


def check(topic_filter: object) -> str:
    """The filter itself, if it is valid. Raises `ValueError`."""
    if not isinstance(topic_filter, str) or not topic_filter or "\0" in topic_filter:
        raise ValueError(f"{topic_filter!r:.200} is no topic filter")
    levels = topic_filter.split("/")
    for index, level in enumerate(levels):
        if ("+" in level and level != "+") or ("#" in level and (level != "#" or index != len(levels) - 1)):
            raise ValueError(
                f"{topic_filter!r:.200} is no topic filter: + stands for a whole level, # for all that follow, at the end"
            )
    return topic_filter


def _pattern(topic_filter: str) -> str:
    levels = topic_filter.split("/")
    parts: list[str] = []
    for index, level in enumerate(levels):
        slash = "/" if index else ""
        if level == "#":
            # a/# also matches a.
            parts.append("(?:/.*)?" if index else ".*")
        else:
            parts.append(slash + ("[^/]*" if level == "+" else re.escape(level)))
    head = r"(?!\$)" if levels[0] in ("+", "#") else ""
    return head + "".join(parts)
