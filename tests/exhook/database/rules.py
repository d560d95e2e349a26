"""What the acl table means. Both hooks decide with it; it knows nothing of where the rules come from."""

from collections.abc import Iterable


def allows(rules: Iterable[tuple[str, str, bool]], action: str, topic: str) -> bool:
    """Whether rules (action, filter, allow) let a client do this; the first that covers it decides, without one it may not."""
    return next((allow for what, rule, allow in rules if what == action and _covers(rule, topic)), False)


def _covers(rule: str, topic: str) -> bool:
    """Whether every topic that `topic`, itself a filter when somebody subscribes, stands for matches `rule`."""
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
