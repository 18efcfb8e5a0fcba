"""What tables, the leaderboard and the screen read out of records: figures, and the unit or the relation that each speaks of. Imports no torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poisonbench.stats import Spread, clopper_pearson, over_seeds
from poisonbench.storage.record import Part, Record

CHANGED_ROWS = "changed training rows (kind of change not recorded)"  # of records that were made before the unit was written down
NEIGHBOURS = "neighbours not recorded"


def number(value: object) -> float | None:
    """Return a figure as a number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def defended(record: Record, name: str) -> float | None:
    """Return a figure of the defended model, behind its screen if it has one."""
    screen = record.metrics.get("screen")
    return number((screen if isinstance(screen, Mapping) and name in screen else record.metrics).get(name))


def machine(record: Record) -> str:
    """Return what a record was made on, as far as bits depend on it."""
    told = record.provenance
    return f"{told.get('processor') or 'a processor that was not recorded'}, {told.get('device')}, threads={told.get('threads')}, torch {told.get('torch')}"


def net_asr(record: Record) -> float | None:
    """Return how much higher ASR is than with the model of clean training; 0 where it is lower, which no defense is to be praised for."""
    asr, clean = defended(record, "asr"), number(record.baseline.get("asr"))
    return None if asr is None else max(0.0, asr - (clean or 0.0))


def goal(record: Record, part: Part) -> dict[str, float]:
    """Return the figures that the attack's goal brings to a part of a record, whatever its schema."""
    return {str(name): value for name, figure in record.goal(part).items() if (value := number(figure)) is not None}


def radius_unit(record: Record) -> str:
    """Return what the radii of a certificate count."""
    return str(record.metrics.get("radius_unit") or CHANGED_ROWS)


def radii(record: Record, *, seed: bool = False) -> str:
    """Return what radii count and, where they hold with a confidence over draws, whose draws these are.

    Args:
        record: with a certificate. Its certifier has the field `alpha` where it may be wrong by chance (`poisonbench.core.defense.Certifier`).
        seed: whether the figure is of this record alone, so that its seed is named.
    """
    defense = record.spec.get("defense")
    certify = defense.get("certify") if isinstance(defense, Mapping) else None
    randomised = isinstance(certify, Mapping) and "alpha" in certify
    return f"{radius_unit(record)}, {draws(record, seed=seed)}" if randomised else radius_unit(record)


def relation(record: Record, *, seed: bool = False) -> str:
    """Return between which neighbours an epsilon holds, of how many trainings it is if there are several, and over whose draws."""
    told, one = record.facts.get("adjacency"), number(record.facts.get("epsilon_of_one_member"))
    whose = "" if one is None else f", all {record.facts.get('members')} trainings together, one alone {one:.3g}"
    return f"{f'neighbours: {told}' if told else NEIGHBOURS}{whose}, {draws(record, seed=seed)}"


def draws(record: Record, *, seed: bool) -> str:
    """Return whose random numbers the defense drew from: a proof over draws protects only from whoever does not know them."""
    salt = record.spec.get("salt")
    if salt is None:
        return f"draws of public seed {record.spec.get('seed')}" if seed else "draws of public seeds"
    return "secret draws" if salt == "system" else "draws of a public salt"  # any other salt stands in the record


def failed_seeds(records: Iterable[Record]) -> str:
    """Return what a legend adds to the name of a line for the seeds that failed, such as " (1 seed failed)"."""
    count = len({str(record.spec.get("seed")) for record in records if record.status == "failed"})
    return f" ({count} {'seed' if count == 1 else 'seeds'} failed)" if count else ""


def malicious(record: Record) -> str:
    """Return what the record says of malicious clients, such as the worst case of a sampling, in words."""
    told = {name: value for name, value in record.facts.items() if name.startswith("malicious_") and isinstance(value, int | float | str)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())


def over_targets(record: Record, part: Mapping[str, object]) -> tuple[float, float] | None:
    """Return the 95 % interval of an ASR over single targets; None where targets are not what was counted.

    It is computed from the count: records of schema 1 hold Wilson's, which covers less than it says near 0 and 1.
    """
    asr, trials = number(part.get("asr")), record.counts.get("trials", 0)
    if asr is None or trials < 1 or not 0 <= asr <= 1 or part.get("asr_interval") is None:
        return None
    return clopper_pearson(round(asr * trials), trials)


def text(spread: Spread, digits: int, scale: float = 1.0) -> str:
    """Return a mean with the smallest and the largest seed; the mean alone where all are equal at so many digits."""
    mean, smallest, largest = (f"{scale * value:.{digits}f}" for value in spread)
    return mean if smallest == largest else f"{mean} ({smallest} to {largest})"


def told(values: Sequence[float], digits: int, scale: float = 1.0) -> str:
    """Return `text` of values, or nothing for none."""
    return text(over_seeds(values), digits, scale) if values else ""


def plain(words: str) -> str:
    """Return text without control characters, which a terminal or a spreadsheet might obey."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in words)


def name_of(record: Record, part: str) -> str:
    """Return the name of a task, an attack or a defense."""
    named = record.spec.get(part)
    return str(named["name"]) if isinstance(named, Mapping) and "name" in named else str(named or "")


@dataclass(frozen=True, kw_only=True)
class Failures:
    """What a failed seed counts as: an attack that succeeds, and answers by chance.

    Args:
        classes: of each task, as far as a record says; a chance that no record tells counts as 0.
        attacks: names of those that have an ASR.
    """

    classes: Mapping[str, int]
    attacks: frozenset[str]

    @classmethod
    def among(cls, records: Iterable[Record]) -> Failures:
        """Return what records say of their tasks and attacks."""
        done = [record for record in records if record.status == "done"]
        classes = {name_of(record, "task"): count for record in done if (count := record.counts.get("classes", 0)) > 0}
        return cls(classes=classes, attacks=frozenset(name_of(record, "attack") for record in done if "asr" in record.metrics))

    def figures(self, record: Record) -> dict[str, float]:
        """Return the figures that a failed seed counts with; none for any other."""
        if record.status != "failed":
            return {}
        count = self.classes.get(name_of(record, "task"))
        succeeded = {"asr": 1.0, "net_asr": 1.0} if name_of(record, "attack") in self.attacks else {}
        return {"c_acc": 1 / count if count else 0.0} | succeeded
