"""What a command would do: which cells are in the store already, and how long the others may take."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from rich.console import Console

from poisonbench.config.setting import Setting
from poisonbench.core.errors import Incompatible, PoisonbenchError
from poisonbench.core.keys import key
from poisonbench.report.tables import published
from poisonbench.runner.check import check
from poisonbench.runner.experiment import Loaded, assemble
from poisonbench.runner.spec import record_of
from poisonbench.runner.stages import Line
from poisonbench.storage.record import Record
from poisonbench.storage.store import Store

# the parts of a specification that a stage depends on; a stage that is not named here depends on all of them
RECIPE = ("task", "net", "learner", "seed")
SHARED = {"fit baseline": RECIPE, "fit on public rows": RECIPE, "poison": (*RECIPE, "attack", "threat"), "fit undefended": (*RECIPE, "attack", "threat")}
# a record is similar to a cell if these parts are equal, from the most similar to the least; its times are those of the cell
KIN = (("task", "net", "learner", "attack", "threat", "defense"), ("task", "net", "learner", "attack", "defense"), ("task", "net", "learner"))


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """The plan of one cell.

    Args:
        words: the words of its command line.
        state: "in the store" (a repeat computes nothing), "to run", "skipped" or "refused".
        reason: why it is skipped or refused, or why its time is not known.
        stages: seconds of each stage to compute, by a key that cells share if they share the stage.
    """

    words: tuple[str, ...]
    state: str
    reason: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Known:
    """Finished records, by key and by recipe.

    Args:
        same: the records of each key.
        kin: the last record of each recipe, by the parts of the specification that make the recipe.
    """

    same: Mapping[str, Sequence[Record]]
    kin: Mapping[tuple[str, ...], Mapping[tuple[str, ...], Record]]

    @classmethod
    def among(cls, records: Iterable[Record]) -> _Known:
        """Sort records; the last one of a recipe represents it."""
        done, same = [record for record in records if record.status == "done"], dict[str, list[Record]]()
        for record in done:
            same.setdefault(record.key, []).append(record)
        return cls(same=same, kin={parts: {_recipe(record, parts): record for record in done} for parts in KIN})


def foreseen(cells: Iterable[Sequence[str]]) -> Iterator[Foreseen]:
    """Check each cell without training; only its data set is loaded."""
    known, loaded = dict[Path, _Known](), Loaded()
    for words in cells:
        try:
            setting = Setting.of(words)
            places = setting.places
            if places.results not in known:
                known[places.results] = _Known.among([*published(places.results / "records"), *published(places.published)])
            yield _looked_at(tuple(words), _asked(setting, loaded), known[places.results], setting.store)
        except Incompatible as error:
            yield Foreseen(words=tuple(words), state="skipped", reason=str(error))
        except PoisonbenchError as error:
            yield Foreseen(words=tuple(words), state="refused", reason=str(error))


def _asked(setting: Setting, loaded: Loaded) -> Record:
    line = Line(experiment=assemble(setting.tree, setting.store, loaded=loaded), store=setting.store)
    check(line)
    return record_of(line)


def _looked_at(words: tuple[str, ...], asked: Record, known: _Known, store: Store) -> Foreseen:
    if any(store.holds(record.keys.values()) for record in known.same.get(asked.key, [])):
        return Foreseen(words=words, state="in the store")
    kin = next((found for parts in KIN if (found := known.kin[parts].get(_recipe(asked, parts)))), None)
    if kin is None:
        return Foreseen(words=words, state="to run", reason="there is no record of its recipe to estimate the time from")
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
    """Return how many seconds the cells may take one after the other; a stage that several cells share counts once."""
    stages: dict[str, float] = {}
    for cell in cells:
        stages |= cell.stages
    return sum(stages.values())


def show(console: Console, cells: Sequence[Foreseen]) -> None:
    """Print one line for each cell, and the time of all of them together."""
    for cell in cells:
        reason = f" ({cell.reason})" if cell.reason else ""
        console.print(f"{cell.state}: {' '.join(cell.words)}{reason}", markup=False, highlight=False, soft_wrap=True)
    count = Counter(cell.state for cell in cells)
    console.print(f"{len(cells)} cells: {', '.join(f'{number} {state}' for state, number in sorted(count.items()))}", markup=False, highlight=False)
    blind, known = (sum(cell.state == "to run" and bool(cell.stages) is timed for cell in cells) for timed in (False, True))
    parts = [f"about {seconds(cells) / 60:.1f} minutes one after the other, estimated from records of the same recipe"] if known or not blind else []
    parts += [f"{blind} cells without such a record" if known else "no estimate: there is no record of the same recipe"] if blind else []
    console.print("; ".join(parts), markup=False, highlight=False, soft_wrap=True)
