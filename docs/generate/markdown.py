"""Small pieces of Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SPECIAL = re.compile(r"([*<\[\]|])")


def prose(text: str) -> str:
    """Return plain text as Markdown: only what stands between backticks is marked up."""
    parts = " ".join(text.split()).split("`")
    return "`".join(part if index % 2 else SPECIAL.sub(r"\\\1", part) for index, part in enumerate(parts))


def code(text: str) -> str:
    """Return text as code on one line."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def page(title: str, *blocks: str) -> str:
    """Return a page of a title and blocks; empty ones are left out."""
    return "\n\n".join([f"# {title}", *(block for block in blocks if block)]) + "\n"
