"""Cells to a leaderboard: one page that needs no other file, and the same cells as Markdown, CSV and Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from poisonbench.core.files import write_atomically, write_text
from poisonbench.report.cells import Cell
from poisonbench.report.exports import as_csv, as_markdown, rows
from poisonbench.report.packing import packed
from poisonbench.stats import smallest_gap

HERE = Path(__file__).parent
SEEDS = (3, 5, 10)  # for which the page says what ranks can separate


def page(cells: Sequence[Cell], site: str | None = None) -> str:
    """Return the whole page. All text comes in as data, and is put into the page as text.

    Args:
        cells: of the leaderboard.
        site: the documentation site as seen from the page, such as "../"; None for names without links.
    """
    from base64 import b64encode
    from hashlib import sha256

    from jinja2 import Environment, FileSystemLoader, select_autoescape

    script = (HERE / "leaderboard.js").read_text(encoding="utf-8")
    allowed = f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'"
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=select_autoescape(default=True), keep_trailing_newline=True)
    data = json.dumps(packed(cells, site), separators=(",", ":"), ensure_ascii=True)
    for mark in "<>&":
        data = data.replace(mark, f"\\u{ord(mark):04x}")  # no text of a record can end the block it lies in
    return environment.get_template("leaderboard.html.j2").render(
        data=data,
        script=script,
        allowed=allowed,
        records=sum(len(cell.seeds) for cell in cells),
        seeds=SEEDS,
        gaps=gaps(cells),
        unseen=any(cell.unseen for cell in cells),
    )


def gaps(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Return, for each number of cells that are ranked together, the smallest gap in net ASR that ranks can separate at 3, 5 and 10 seeds."""
    numbers = sorted({cell.compared for cell in cells if cell.compared > 1})
    found = [(number, [smallest_gap(number, seeds) for seeds in SEEDS]) for number in numbers]
    return [(str(number), *("none" if gap is None else f"{100 * gap:.0f} points" for gap in several)) for number, several in found]


def write(cells: Sequence[Cell], folder: Path, site: str | None = None) -> None:
    """Write index.html, leaderboard.csv, leaderboard.md and leaderboard.parquet into `folder`.

    Args:
        cells: of the leaderboard.
        folder: where to write.
        site: the documentation site as seen from the page, such as "../"; None for names without links.
    """
    import pyarrow
    import pyarrow.parquet

    write_text(folder / "index.html", page(cells, site))
    write_text(folder / "leaderboard.csv", as_csv(cells))
    write_text(folder / "leaderboard.md", as_markdown(cells))
    table = pyarrow.Table.from_pylist(rows(cells))
    write_atomically(folder / "leaderboard.parquet", lambda path: pyarrow.parquet.write_table(table, path))
