#!/usr/bin/env python3
"""Checks a book that mdBook has made: each link to a page, a file or a heading leads somewhere, and no
Markdown is left in the text. `just book` runs this.

usage: links.py FOLDER
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse

# Markdown that was not understood: an include, a row of a table, a link, a fence.
LEFT = re.compile(r"\{\{#|^\|.*\|$|\]\(|\]\[|```", re.MULTILINE)
# Made from all pages, with links of its own kind.
NOT_PAGES = {"print.html", "toc.html", "404.html", "index.html"}


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.left, self.code = [], set(), [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if "id" in attributes:
            self.anchors.add(attributes["id"])
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        self.code += tag in ("code", "script", "style")

    def handle_endtag(self, tag):
        self.code -= tag in ("code", "script", "style")

    def handle_data(self, data):
        if not self.code:
            self.left += LEFT.findall(data)


def faults(book):
    paths = [path for path in book.rglob("*.html") if path.name not in NOT_PAGES]
    pages = {path.resolve(): Page(path.read_text()) for path in paths}
    for path, page in pages.items():
        at = path.relative_to(book.resolve())
        yield from (f"{at}: left as text: {each}" for each in page.left)
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            anchor = urllib.parse.unquote(parts.fragment)
            if not target.exists():
                yield f"{at}: {link} leads nowhere"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{at}: {link}: that page has no such heading"


def main():
    found = sorted(set(faults(pathlib.Path(sys.argv[1]))))
    print("\n".join(found) if found else "the links of the book: all lead somewhere")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
