"""`report FILE...`: fill the tables of Markdown files from the published records. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import write_atomically, write_text
from poisonbench.report.curves import draw
from poisonbench.report.tables import filled, published


def main(words: Sequence[str]) -> int:
    """Rewrite each Markdown file's record blocks from `results/records`; a name that ends in .svg gets the curves of federated rounds.

    Raises:
        ConfigError: no file given, or none there.
    """
    if not words:
        raise ConfigError("report FILE...: give Markdown files with <!-- records: TASK --> ... <!-- end --> blocks, such as README.md")
    records = published(Path("results/records"))
    for word in words:
        if word.endswith(".svg"):
            write_atomically(Path(word), lambda temporary: draw(records, temporary))
            Console().print(f"{word}: curves from {len(records)} records", markup=False, highlight=False)
            continue
        if not Path(word).is_file():
            raise ConfigError(f"report {word}: no such file")
        text = Path(word).read_text(encoding="utf-8")
        write_text(Path(word), filled(text, records))
        Console().print(f"{word}: tables from {len(records)} records", markup=False, highlight=False)
    return 0
