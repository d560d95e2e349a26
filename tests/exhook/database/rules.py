"""The meaning of the acl table. Both hook files use it; it does not depend on the source of the
rules.
"""

from collections.abc import Iterable


def allows(rules: Iterable[tuple[str, str, bool]], action: str, topic: str) -> bool:
    """Whether rules (action, filter, allow) allow this to a client. The first matching rule
    decides; without one it is denied.
    """
    return next((allow for what, rule, allow in rules if what == action and _covers(rule, topic)), False)


def _covers(rule: str, topic: str) -> bool:
    """Whether every topic that `topic` matches (a filter in a subscription) also matches `rule`."""
    asked = topic.split("/")
    wanted = rule.split("/")
    if asked[0].startswith("$") and wanted[0] in ("+", "#"):
        return False
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index == len(asked) or asked[index] == "#" or level not in ("+", asked[index]):
            return False
    return len(wanted) == len(asked)
