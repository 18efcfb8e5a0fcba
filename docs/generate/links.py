"""Relative links of Markdown files, and links from pages to files of the repository.

A page of the site cannot link to a file outside docs/: the site may be opened from disk or from a server, without the repository. So a text
file that a page links to becomes a page, other files are copied, and of a link to a folder only its text is left.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt

from docs.generate.markdown import code, page
from poisonbench.core.plugins import HOME

COPIES = "repository"  # the folder of the site that has files of the repository
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {".py": "python", ".sh": "bash", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".js": "javascript"}
TEXTS = {"", ".md", ".txt", ".cff", *LANGUAGES}


class Link(NamedTuple):
    """A relative link: as it is written, its path as it is meant, and the heading that it names."""

    written: str
    path: str
    anchor: str


def links(markdown: str) -> Iterator[Link]:
    """Yield the relative links and pictures of a Markdown text; code is none."""
    for block in MarkdownIt("commonmark").enable("table").parse(markdown):
        for token in block.children or ():
            written = str(token.attrGet("href") or token.attrGet("src") or "")
            parts = urlsplit(written)
            if written and not parts.scheme and not parts.netloc:
                yield Link(written, unquote(parts.path), parts.fragment)


def target(source: str, link: Link) -> str:
    """Return the path, within the repository, of what a file links to.

    Args:
        source: the path of the file within the repository, such as "docs/results.md".
        link: one of its links.
    """
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link.path)) if link.path else source


def for_the_site(markdown: str, source: str, uri: str) -> str:
    """Return a page whose links stay within the site.

    Args:
        markdown: the page.
        source: its file within the repository.
        uri: its address within the site, such as "guide/run.md".
    """
    for link in set(links(markdown)):
        place = _place(target(source, link))
        if place is None:
            markdown = re.sub(rf"\[([^\]]*)\]\({re.escape(link.written)}\)", r"\1", markdown)
        else:
            new = posixpath.relpath(place, posixpath.dirname(uri) or ".") if link.path else ""
            anchor = f"#{link.anchor}" if link.anchor else ""
            markdown = markdown.replace(f"]({link.written})", f"]({new}{anchor})")
    return markdown


def copied(markdown: str, source: str) -> Iterator[str]:
    """Yield the paths of files outside docs/ that a page links to and the site has to have."""
    for link in links(markdown):
        path = target(source, link)
        if (_place(path) or "").startswith(f"{COPIES}/"):
            folder = HOME / path
            inside = (file for file in sorted(folder.iterdir()) if file.suffix != ".md") if folder.is_dir() else [folder]
            yield from (os.fspath(file.relative_to(HOME)) for file in inside)


def _place(path: str) -> str | None:
    """Return the page of the site for a path of the repository; None for a folder that has no page."""
    if path.startswith("docs/") or path in PAGES:
        return PAGES.get(path, path.removeprefix("docs/"))
    if (HOME / path).is_dir():
        return f"{COPIES}/{path}/index.html" if (HOME / path / "index.html").is_file() else None
    return address(path)


def address(path: str) -> str:
    """Return the address of a file of the repository within the site."""
    return f"{COPIES}/{path}.md" if Path(path).suffix in TEXTS else f"{COPIES}/{path}"


def as_page(path: str) -> str:
    """Return a text file of the repository as a page, which the search leaves out."""
    text = (HOME / path).read_text(encoding="utf-8").rstrip()
    fence = "`" * max(4, *(len(run) + 1 for run in re.findall(r"`+", text)), 0)
    shown = page(
        code(path), f"A file of the repository, as it was when these pages were built.\n\n{fence}{LANGUAGES.get(Path(path).suffix, 'text')}\n{text}\n{fence}"
    )
    return f"---\nsearch:\n  exclude: true\n---\n\n{shown}"
