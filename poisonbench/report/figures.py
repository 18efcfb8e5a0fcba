"""Read figures from records, with their units, for tables, the leaderboard and the terminal. Imports no torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from poisonbench.stats import Spread, clopper_pearson, over_seeds
from poisonbench.storage.record import Part, Record

CHANGED_ROWS = "changed training rows (kind of change not recorded)"  # for records from before the unit was recorded
NEIGHBOURS = "neighbours not recorded"
PHRASED = {"c_acc_lost", "epsilon_lower", "canaries_right"}  # figures of goals that a phrase of their own states


def number(value: object) -> float | None:
    """Return a figure as a number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def defended(record: Record, name: str) -> float | None:
    """Return a figure of the defended model, measured behind its screen if it has one."""
    screen = record.metrics.get("screen")
    return number((screen if isinstance(screen, Mapping) and name in screen else record.metrics).get(name))


def machine(record: Record) -> str:
    """Return the machine of a record as text: everything that the bits of its figures depend on."""
    made = record.provenance
    return f"{made.get('processor') or 'a processor that was not recorded'}, {made.get('device')}, threads={made.get('threads')}, torch {made.get('torch')}"


def net_asr(record: Record) -> float | None:
    """Return how much higher ASR is than for the model of clean training; 0 if it is lower, because that is no merit of a defense."""
    asr, clean = defended(record, "asr"), number(record.baseline.get("asr"))
    return None if asr is None else max(0.0, asr - (clean or 0.0))


def goal(record: Record, part: Part) -> dict[str, float]:
    """Return the figures of the attack's goal in a part of a record, for any schema."""
    return {str(name): value for name, figure in record.goal(part).items() if (value := number(figure)) is not None}


def counted(records: Iterable[Record], part: Part) -> list[str]:
    """Return the names of the figures of goals in a part of the records that no phrase states, in the order of the records."""
    return list(dict.fromkeys(name for record in records for name in goal(record, part) if name not in PHRASED))


def is_share(name: str) -> bool:
    """Return whether a figure of a goal is a share in [0, 1]; perplexities are not."""
    return not name.startswith("perplexity")


def radius_unit(record: Record) -> str:
    """Return what the radii of a certificate count, such as "flipped labels"."""
    return str(record.metrics.get("radius_unit") or CHANGED_ROWS)


def radii(record: Record, *, seed: bool = False) -> str:
    """Return what radii count and, if they hold only with a confidence over random draws, which draws these are.

    Args:
        record: with a certificate. Its certifier has a field `alpha` if it may be wrong by chance (`poisonbench.core.defense.Certifier`).
        seed: whether to name the seed, for a figure of a single record.
    """
    defense = record.spec.get("defense")
    certify = defense.get("certify") if isinstance(defense, Mapping) else None
    randomised = isinstance(certify, Mapping) and "alpha" in certify
    return f"{radius_unit(record)}, {draws(record, seed=seed)}" if randomised else radius_unit(record)


def relation(record: Record, *, seed: bool = False) -> str:
    """Return the neighbours for which an epsilon holds, the number of trainings if there are several, and the draws that it holds over."""
    adjacency, one = record.facts.get("adjacency"), number(record.facts.get("epsilon_of_one_member"))
    whose = "" if one is None else f", all {record.facts.get('members')} trainings together, one alone {one:.3g}"
    return f"{f'neighbours: {adjacency}' if adjacency else NEIGHBOURS}{whose}, {draws(record, seed=seed)}"


def draws(record: Record, *, seed: bool) -> str:
    """Return where the defense's random numbers come from: a proof over draws protects only against attackers who do not know them."""
    salt = record.spec.get("salt")
    if salt is None:
        return f"draws of public seed {record.spec.get('seed')}" if seed else "draws of public seeds"
    return "secret draws" if salt == "system" else "draws of a public salt"  # any other salt is published in the record


def failed_seeds(records: Iterable[Record]) -> str:
    """Return the suffix of a legend entry for failed seeds, such as " (1 seed failed)"; empty if none failed."""
    count = len({str(record.spec.get("seed")) for record in records if record.status == "failed"})
    return f" ({count} {'seed' if count == 1 else 'seeds'} failed)" if count else ""


def malicious(record: Record) -> str:
    """Return the record's facts about malicious clients as text, such as the worst case of a sampling."""
    facts = {name: value for name, value in record.facts.items() if name.startswith("malicious_") and isinstance(value, int | float | str)}
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())


def over_targets(record: Record, part: Mapping[str, object]) -> tuple[float, float] | None:
    """Return the 95 % interval of an ASR over single targets; None if the ASR does not count targets.

    It is computed from the count, because records of schema 1 contain Wilson's interval, whose coverage near 0 and 1 is below 95 %.
    """
    asr, trials = number(part.get("asr")), record.counts.get("trials", 0)
    if asr is None or trials < 1 or not 0 <= asr <= 1 or part.get("asr_interval") is None:
        return None
    return clopper_pearson(round(asr * trials), trials)


def text(spread: Spread, digits: int, scale: float = 1.0) -> str:
    """Return a mean with the smallest and the largest seed; only the mean if all are equal at this number of digits."""
    mean, smallest, largest = (f"{scale * value:.{digits}f}" for value in spread)
    return mean if smallest == largest else f"{mean} ({smallest} to {largest})"


def markdown(lines: Iterable[Iterable[str]]) -> str:
    """Return the lines of a Markdown table; each is a list of cells."""
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def spread_text(values: Sequence[float], digits: int, scale: float = 1.0) -> str:
    """Return `text` of the spread of values; empty for no values."""
    return text(over_seeds(values), digits, scale) if values else ""


def plain(words: str) -> str:
    """Return text without control characters, which a terminal or a spreadsheet might execute."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in ("Cc", "Cf") else letter for letter in words)


def name_of(record: Record, part: str) -> str:
    """Return the name of a task, an attack or a defense."""
    named = record.spec.get(part)
    return str(named["name"]) if isinstance(named, Mapping) and "name" in named else str(named or "")


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The figures of a failed seed: the attack counts as successful, and C-Acc as chance.

    Args:
        classes: number of classes of each task, if a record contains it; without it C-Acc counts as 0.
        attacks: names of the attacks that have an ASR.
    """

    classes: Mapping[str, int]
    attacks: frozenset[str]

    @classmethod
    def among(cls, records: Iterable[Record]) -> Failures:
        """Collect classes and attacks from records."""
        done = [record for record in records if record.status == "done"]
        classes = {name_of(record, "task"): count for record in done if (count := record.counts.get("classes", 0)) > 0}
        return cls(classes=classes, attacks=frozenset(name_of(record, "attack") for record in done if "asr" in record.metrics))

    def figures(self, record: Record) -> dict[str, float]:
        """Return the figures of a failed seed; empty for a seed that did not fail."""
        if record.status != "failed":
            return {}
        count = self.classes.get(name_of(record, "task"))
        succeeded = {"asr": 1.0, "net_asr": 1.0} if name_of(record, "attack") in self.attacks else {}
        return {"c_acc": 1 / count if count else 0.0} | succeeded
