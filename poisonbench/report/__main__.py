"""`python -m poisonbench.report`: make the leaderboard from the records of a folder. Imports no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from poisonbench.core.errors import PoisonbenchError
from poisonbench.report.cells import folded
from poisonbench.report.leaderboard import write
from poisonbench.report.tables import published


def main(words: list[str] | None = None) -> int:
    """Write the leaderboard; return 2 if a record cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m poisonbench.report", description="Turn records into a leaderboard: a page, CSV, Markdown, Parquet.")
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="folder of records (default: results/records)")
    parser.add_argument("--out", type=Path, default=Path("results/leaderboard"), help="folder to write into (default: results/leaderboard)")
    parser.add_argument("--site", help="the documentation site as seen from the page, such as ../ ; names then link to it (default: no links)")
    asked = parser.parse_args(words)
    try:
        records = published(asked.records)
        if not records:
            sys.stderr.write(f"poisonbench: no records in {asked.records}; make some with publish=true, or name another folder with --records\n")
            return 2
        cells = folded(records)
        write(cells, asked.out, asked.site)
    except PoisonbenchError as error:
        sys.stderr.write(f"poisonbench: {error}\n")
        return 2
    Console().print(f"{asked.out / 'index.html'}: {len(cells)} cells from {len(records)} records", markup=False, highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
