"""The reproduction ledger: published figures and known defects beside our measurements.

`results/ledger/<paper>.json` is a list of entries. An entry names its records and the figure in them; our value is computed from
these records, never written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from poisonbench.core.errors import DataError
from poisonbench.core.files import bounded
from poisonbench.report.figures import markdown
from poisonbench.stats import over_seeds
from poisonbench.storage.record import Part, Record

FIELDS = {"claim", "source", "published", "unit", "certainty", "command", "figure", "records", "ours", "verdict", "why"}
VERDICTS = ("reproduced", "partial", "not reproduced", "not run")
COLUMNS = ("claim", "source", "published", "ours (range over seeds)", "n", "verdict", "why", "command")

Entry = dict[str, object]


def read(path: Path) -> list[Entry]:
    """Read the entries of a file.

    Raises:
        DataError: a file of another form, or an unknown verdict or certainty.
    """
    try:
        entries = json.loads(bounded(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a ledger ({error})") from error
    if not isinstance(entries, list):
        raise DataError(f"{path} is not a ledger; give a list of entries")
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != FIELDS or entry["verdict"] not in VERDICTS or entry["certainty"] not in ("read", "memory"):
            rule = f"the fields {', '.join(sorted(FIELDS))}; as verdict one of {', '.join(VERDICTS)}; as certainty read or memory"
            raise DataError(f"{path}: an entry is wrong; every entry needs {rule}")
    return cast("list[Entry]", entries)


def measured(entry: Entry, records: Mapping[str, Record]) -> Entry:
    """Return the entry with our value computed from its records.

    Raises:
        DataError: a missing record, or a record without the figure.
    """
    values = [_figure(str(entry["figure"]), str(key), records) for key in cast("list[str]", entry["records"])]
    if not values:
        return entry | {"ours": None}
    mean, smallest, largest = over_seeds(values)
    return entry | {"ours": {"mean": round(mean, 4), "range": [round(smallest, 4), round(largest, 4)], "n": len(values)}}


def _figure(path: str, key: str, records: Mapping[str, Record]) -> float:
    if key not in records:
        raise DataError(f"the ledger names the record {key}, which is not in results/records; run its command with publish=true, or correct the entry")
    part, _, name = path.partition(".")
    own = records[key].goal(cast("Part", part)) if part in get_args(Part) else {}
    found = getattr(records[key], part, {}).get(name, own.get(name))
    if not isinstance(found, int | float):
        raise DataError(f"record {key} has no figure {path}; name a figure of the record, such as metrics.asr")
    return float(found)


def table(entries: Sequence[Entry]) -> str:
    """Return the ledger as a Markdown table."""
    lines = [COLUMNS, tuple("---" for _ in COLUMNS), *map(_line, entries)]
    return markdown(lines)


def _line(entry: Entry) -> tuple[str, ...]:
    ours = entry["ours"]
    value, count = (_text(ours), str(ours["n"])) if isinstance(ours, Mapping) else ("", "")
    remembered = " (from memory)" if entry["certainty"] == "memory" else ""
    return (
        str(entry["claim"]),
        str(entry["source"]),
        f"{entry['published']}{remembered}",
        value,
        count,
        str(entry["verdict"]),
        str(entry["why"]),
        f"`{entry['command']}`",
    )


def _text(ours: Mapping[str, object]) -> str:
    smallest, largest = cast("list[float]", ours["range"])
    return f"{ours['mean']}" + ("" if smallest == largest else f" ({smallest} to {largest})")
