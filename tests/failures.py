#!/usr/bin/env python3
"""Prints the failed tests of JUnit reports: the name of each and the first lines of the reason.

usage: tests/failures.py REPORT...

scripts/test runs this at its end, so that the last lines of a long run show the failures.
"""

import os
import sys
import xml.etree.ElementTree as tree

TESTS_MAX = 20
LINES_MAX = 8
LINE_CHARS_MAX = 300


def why(case, failure):
    """The message of a panic if there is one, otherwise the text of the report."""
    text = failure.text or ""
    for name in ("system-err", "system-out"):
        text += "\n" + (case.findtext(name) or "")
    lines = [line for line in text.splitlines() if line.strip()]
    for at, line in enumerate(lines):
        if "panicked at" in line:
            return lines[at:]
    return [failure.get("message") or failure.get("type") or "no reason given", *lines[-LINES_MAX:]]


def failures(report):
    for case in tree.parse(report).iter("testcase"):
        for failure in [*case.findall("failure"), *case.findall("error")]:
            yield f"{case.get('classname')} {case.get('name')}", why(case, failure)


def main():
    found = [each for report in sys.argv[1:] if os.path.exists(report) for each in failures(report)]
    for name, lines in found[:TESTS_MAX]:
        print(f"failed: {name}")
        for line in lines[:LINES_MAX]:
            print(f"    {line[:LINE_CHARS_MAX]}")
    if len(found) > TESTS_MAX:
        print(f"and {len(found) - TESTS_MAX} more")


main()
