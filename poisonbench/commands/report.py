"""`report FILE...`: fill the tables of Markdown files from the published records. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import write_text
from poisonbench.report.tables import filled, published


def main(words: Sequence[str]) -> int:
    """Rewrite each file's record blocks from `results/records`.

    Raises:
        ConfigError: no file given, or none there.
    """
    if not words:
        raise ConfigError("report FILE...: give Markdown files with <!-- records: TASK --> ... <!-- end --> blocks, such as README.md")
    records = published(Path("results/records"))
    for word in words:
        if not Path(word).is_file():
            raise ConfigError(f"report {word}: no such file")
        text = Path(word).read_text(encoding="utf-8")
        write_text(Path(word), filled(text, records))
        Console().print(f"{word}: tables from {len(records)} records", markup=False, highlight=False)
    return 0
