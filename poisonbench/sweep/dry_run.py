"""What a command would do, before it does it: which cells are there, what the store holds, how long the rest may take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console

from poisonbench.config.compose import tree_of
from poisonbench.core.errors import Incompatible, PoisonbenchError
from poisonbench.core.keys import key
from poisonbench.report.tables import published
from poisonbench.runner.experiment import Loaded, Places, assemble, open_store
from poisonbench.storage.record import Record
from poisonbench.storage.store import Store

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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Known:
    """Finished records, by key and by recipe.

    Args:
        same: those of each key.
        kin: the last one of each recipe, by the parts of the spec that make the recipe.
    """

    same: Mapping[str, Sequence[Record]]
    kin: Mapping[tuple[str, ...], Mapping[tuple[str, ...], Record]]

    @classmethod
    def among(cls, records: Iterable[Record]) -> _Known:
        """Sort records; of one recipe the last stands for all."""
        done, same = [record for record in records if record.status == "done"], dict[str, list[Record]]()
        for record in done:
            same.setdefault(record.key, []).append(record)
        return cls(same=same, kin={parts: {_recipe(record, parts): record for record in done} for parts in KIN})


def foreseen(cells: Iterable[Sequence[str]]) -> Iterator[Foreseen]:
    """Look at each cell as far as one can without computing anything but its data set."""
    told, loaded = dict[Path, _Known](), Loaded()
    for words in cells:
        try:
            tree = tree_of(words)
            places = Places.of(tree)
            if places.results not in told:
                told[places.results] = _Known.among([*published(places.results / "records"), *published(places.published)])
            store = open_store(tree, places)
            yield _looked_at(tuple(words), _asked(tree, store, loaded), told[places.results], store)
        except Incompatible as error:
            yield Foreseen(words=tuple(words), state="skipped", reason=str(error))
        except PoisonbenchError as error:
            yield Foreseen(words=tuple(words), state="refused", reason=str(error))


def _asked(tree: Mapping[str, object], store: Store, loaded: Loaded) -> Record:
    from poisonbench.runner.pipeline import Line, check, record

    line = Line(experiment=assemble(tree, store, loaded=loaded), store=store, since=len(store.visits))
    check(line)
    return record(line)


def _looked_at(words: tuple[str, ...], asked: Record, known: _Known, store: Store) -> Foreseen:
    if any(store.holds(record.keys.values()) for record in known.same.get(asked.key, [])):
        return Foreseen(words=words, state="in the store")
    kin = next((found for parts in KIN if (found := known.kin[parts].get(_recipe(asked, parts)))), None)
    if kin is None:
        return Foreseen(words=words, state="to run", reason="no record of its recipe tells how long it takes")
    return Foreseen(words=words, state="to run", stages=dict(_stages(asked, kin)))


def _recipe(record: Record, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(_plain(record.spec.get(part)) for part in parts)


def _stages(asked: Record, kin: Record) -> Iterator[tuple[str, float]]:
    for stage, seconds in cast("Mapping[str, float]", kin.cost["seconds"]).items():
        parts = SHARED.get(stage, tuple(asked.spec))
        yield key(stage, *[_plain(asked.spec.get(part)) for part in parts])[:16], seconds


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
