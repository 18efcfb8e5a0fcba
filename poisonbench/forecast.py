"""What a command would do, before it does it: which cells are there, what the store holds, how long the rest may take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console

from poisonbench.assemble import Places, assemble, open_store
from poisonbench.commands.compose import tree_of
from poisonbench.core.errors import Incompatible, PoisonbenchError
from poisonbench.core.keys import key
from poisonbench.record import Record
from poisonbench.report.tables import published
from poisonbench.store import Store

# what a stage depends on, from the fewest parts of a spec to the most; a stage that is not named here depends on all of them
RECIPE = ("task", "net", "learner", "seed")
SHARED = {"fit baseline": RECIPE, "fit on public rows": RECIPE, "poison": (*RECIPE, "attack", "threat"), "fit undefended": (*RECIPE, "attack", "threat")}
# records that tell how long a cell takes, from the nearest kin to the farthest
KIN = (("task", "net", "learner", "attack", "threat", "defense"), ("task", "net", "learner", "attack", "defense"), ("task", "net", "learner"))


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One cell, before it runs.

    Args:
        words: of its command line.
        state: "in the store" (a repeat computes nothing), "to run", "skipped" or "refused".
        reason: why it is skipped or refused, or why its time is not known.
        stages: seconds of each thing to be computed, by what would be shared with other cells.
    """

    words: tuple[str, ...]
    state: str
    reason: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)


def foreseen(cells: Iterable[Sequence[str]]) -> Iterator[Foreseen]:
    """Look at each cell as far as one can without computing anything but its data set."""
    records: dict[Path, list[Record]] = {}
    for words in cells:
        try:
            tree = tree_of(words)
            places = Places.of(tree)
            for folder in (places.results / "records", places.published):
                records.setdefault(folder, published(folder))
            store = open_store(tree, places)
            known = [record for some in records.values() for record in some]
            yield _looked_at(tuple(words), _asked(tree, store), known, store)
        except Incompatible as error:
            yield Foreseen(words=tuple(words), state="skipped", reason=str(error))
        except PoisonbenchError as error:
            yield Foreseen(words=tuple(words), state="refused", reason=str(error))


def _asked(tree: Mapping[str, object], store: Store) -> Record:
    from poisonbench.pipeline import Line, check, record

    line = Line(experiment=assemble(tree, store), store=store, since=len(store.visits))
    check(line)
    return record(line)


def _looked_at(words: tuple[str, ...], asked: Record, known: Sequence[Record], store: Store) -> Foreseen:
    same = [record for record in known if record.key == asked.key and record.status == "done"]
    if any(store.holds(record.keys.values()) for record in same):
        return Foreseen(words=words, state="in the store")
    told = next((kin for parts in KIN if (kin := [record for record in known if record.status == "done" and _alike(record, asked, parts)])), [])
    if not told:
        return Foreseen(words=words, state="to run", reason="no record of its recipe tells how long it takes")
    return Foreseen(words=words, state="to run", stages=dict(_stages(asked, told[-1])))


def _alike(one: Record, other: Record, parts: Sequence[str]) -> bool:
    return all(_plain(one.spec[part]) == _plain(other.spec[part]) for part in parts)


def _stages(asked: Record, kin: Record) -> Iterator[tuple[str, float]]:
    for stage, seconds in cast("Mapping[str, float]", kin.cost["seconds"]).items():
        parts = SHARED.get(stage, tuple(asked.spec))
        yield key(stage, *[_plain(asked.spec[part]) for part in parts])[:16], seconds


def _plain(part: object) -> str:
    return json.dumps(part, sort_keys=True, default=str)


def seconds(cells: Iterable[Foreseen]) -> float:
    """Return how long the cells that are to run may take one after the other, what they share counted once."""
    stages: dict[str, float] = {}
    for cell in cells:
        stages |= cell.stages
    return sum(stages.values())


def show(console: Console, cells: Sequence[Foreseen]) -> None:
    """Print one line a cell, and what all of them together would take."""
    for cell in cells:
        reason = f" ({cell.reason})" if cell.reason else ""
        console.print(f"{cell.state}: {' '.join(cell.words)}{reason}", markup=False, highlight=False, soft_wrap=True)
    count = Counter(cell.state for cell in cells)
    console.print(f"{len(cells)} cells: {', '.join(f'{number} {state}' for state, number in sorted(count.items()))}", markup=False, highlight=False)
    blind = sum(cell.state == "to run" and not cell.stages for cell in cells)
    told = f"about {seconds(cells) / 60:.1f} minutes one after the other, as long as records of the same recipe took"
    console.print(told + (f"; {blind} cells of which no record tells" if blind else ""), markup=False, highlight=False, soft_wrap=True)
