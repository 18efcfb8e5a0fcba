"""`report FILE...`: fill Markdown tables, ledgers and curves from the published records. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.core.errors import ConfigError
from poisonbench.core.files import write_atomically, write_text
from poisonbench.record import Record
from poisonbench.report import benchmarks, ledger
from poisonbench.report.curves import draw
from poisonbench.report.tables import filled, published


def main(words: Sequence[str]) -> int:
    """Rewrite each file from `results/records`: a Markdown file's blocks, a ledger's own figures (.json), the curves of federated rounds (.svg).

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
        if word.endswith(".json"):
            entries = [ledger.measured(entry, {record.key: record for record in records}) for entry in ledger.read(Path(word))]
            write_text(Path(word), json.dumps(entries, indent=1) + "\n")
            continue
        text = Path(word).read_text(encoding="utf-8")
        write_text(Path(word), page(text, records, Path("results")))
        Console().print(f"{word}: tables from {len(records)} records", markup=False, highlight=False)
    return 0


def page(text: str, records: Sequence[Record], results: Path) -> str:
    """Return a Markdown page with its blocks filled from records, and from the ledger and the benchmarks in `results`."""
    entries = [entry for path in sorted((results / "ledger").glob("*.json")) for entry in ledger.read(path)]
    costs = [benchmarks.read(path) for path in sorted((results / "benchmarks").glob("*.json"))]
    return filled(text, records, ledger.table(entries), benchmarks.table(costs))
