"""`report FILE...`: fill Markdown tables, ledgers and curves from the published records. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from poisonbench.commands.usage import Usage
from poisonbench.config.compose import options
from poisonbench.core.errors import ConfigError, meant
from poisonbench.core.files import write_atomically, write_text
from poisonbench.report import ablation, benchmarks, certified, ledger, shares
from poisonbench.report.curves import draw
from poisonbench.report.tables import filled, published
from poisonbench.storage.record import Record

ROUNDS = "federated_rounds"

USAGE = Usage(
    call="report FILE...",
    does="Update documents and figures from the records in results/records.",
    options={
        "FILE.md": "a page with <!-- records: TASK --> ... <!-- end --> blocks, such as docs/results.md",
        "FILE.json": "a ledger; our figures in it are computed again",
        "FILE.svg, FILE.pdf": f"a figure; its file name is that of an experiment, or {ROUNDS}",
    },
)


def main(words: Sequence[str]) -> int:
    """Rewrite each file from `results/records`.

    In a Markdown file it fills the blocks, in a ledger (.json) it computes our figures again. An .svg or .pdf shows the experiment
    with the same name, or the curves of federated rounds if it is named federated_rounds.

    Raises:
        ConfigError: no file given, or a file that does not exist.
    """
    if not words:
        raise ConfigError("report FILE...: give Markdown files with <!-- records: TASK --> ... <!-- end --> blocks, such as docs/results.md")
    records = published(Path("results/records"))
    for word in words:
        if word.endswith((".svg", ".pdf")):
            _figure(Path(word), records)
            continue
        if not Path(word).is_file():
            raise ConfigError(f"report {word}: no such file; give the path of an existing .md or .json file, or of a figure to write")
        if word.endswith(".json"):
            entries = [ledger.measured(entry, {record.key: record for record in records}) for entry in ledger.read(Path(word))]
            write_text(Path(word), json.dumps(entries, indent=1) + "\n")
            continue
        text = Path(word).read_text(encoding="utf-8")
        write_text(Path(word), page(text, records, Path("results")))
        Console().print(f"{word}: tables from {len(records)} records", markup=False, highlight=False)
    return 0


def _figure(path: Path, records: Sequence[Record]) -> None:
    """Draw the figure with the name of the file.

    Raises:
        ConfigError: an unknown name, so that no other picture is overwritten.
    """
    names = [*options("experiment"), ROUNDS]
    if path.stem not in names:
        raise ConfigError(f"report {path}: name the figure like its experiment, or {ROUNDS}; {meant(path.stem, names)}")
    proved, kept = certified.of(records, path.stem), shares.of(records, path.stem)

    def drawn(temporary: Path) -> None:
        whole = temporary.with_suffix(path.suffix)  # the suffix decides the format
        if proved:
            certified.draw(proved, records, whole)
        elif kept:
            shares.draw(kept, records, whole)
        elif path.stem == ROUNDS:
            draw(records, whole)
        else:
            ablation.draw(records, path.stem, whole)
        whole.replace(temporary)

    write_atomically(path, drawn)
    Console().print(f"{path}: a figure from {len(records)} records", markup=False, highlight=False, soft_wrap=True)


def page(text: str, records: Sequence[Record], results: Path) -> str:
    """Return a Markdown page with its blocks filled from records, and from the ledger and the benchmarks in `results`."""
    entries = [entry for path in sorted((results / "ledger").glob("*.json")) for entry in ledger.read(path)]
    costs = [benchmarks.read(path) for path in sorted((results / "benchmarks").glob("*.json"))]
    return filled(text, records, ledger.table(entries), benchmarks.table(costs))
