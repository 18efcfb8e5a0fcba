"""`referee RECORD... [write=true] [trust=PREFIX.]`: repeat the attack of a record and check it by today's rules, without training victims.

A store key depends on the content of the rows that a victim was trained on. If today's rows give the key in the record, its victims
were trained on exactly these rows, and its figures remain valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from poisonbench.commands.usage import RESULTS_DIR, TRUST, Usage
from poisonbench.commands.verify import renewed
from poisonbench.config.rerun import runtime_of, setting_from, split
from poisonbench.core.errors import ConfigError
from poisonbench.report.figures import plain
from poisonbench.storage.record import SCHEMA, Record, provenance, read

if TYPE_CHECKING:
    from poisonbench.runner.experiment import Experiment
    from poisonbench.runner.stages import Line

USAGE = Usage(
    call="referee RECORD... [write=true]",
    does="Repeat the attack of a record and check it by today's rules, without training a victim; exit code 1 if a command has to be run again.",
    options={"RECORD": "path of a record", "write=true": "rewrite a record that passes, in the same folder and today's schema", **RESULTS_DIR, **TRUST},
)


class Changed(Exception):
    """A record whose figures may differ under today's rules, so that its command has to be run again."""


def main(words: Sequence[str]) -> int:
    """Check each record; with `write=true` a record that passes is rewritten with schema 2, in the same folder.

    Returns:
        1 if a command has to be run again, else 0.

    Raises:
        ConfigError: no record given, or one that cannot be repeated.
    """
    allowed, words = split(words)
    write = "write=true" in words
    local = [word for word in words if word.startswith("results_dir=")]
    paths = [Path(word) for word in words if word != "write=true" and word not in local]
    if not paths:
        raise ConfigError("referee RECORD... [write=true]: give the paths of records, such as results/records/*.json")
    return max([_checked(path, [*allowed, *local], write) for path in paths])


def _checked(path: Path, words: Sequence[str], write: bool) -> int:
    """Check one record and print the outcome; return 1 if its command has to be run again, else 0."""
    record = read(path)
    try:
        seen = refereed(record, words)
    except Changed as error:
        _say(f"{path}: its figures may be different today, because {error}; run its command again: {record.command}")
        return 1
    old = record.schema < SCHEMA
    if write and old:
        before, path = path, seen.write(path.parent)
        if path != before:  # the name depends on the specification, and so on what plugins declare today
            before.unlink()
    checked = "plan, attack, probe and poisoned rows pass today's checks; no victim was trained again" if record.status == "done" else "is skipped today too"
    _say(f"{path}: {checked}" + ("; write=true writes it in today's schema" if old and not write else ""))
    return 0


def refereed(record: Record, words: Sequence[str]) -> Record:
    """Return the record in today's schema.

    Args:
        record: as it was read.
        words: `trust=`, `hydra.searchpath=` and `results_dir=` as typed.

    Raises:
        Changed: its figures may be different today.
        BudgetError: its attack breaks a rule that was not checked then.
    """
    from poisonbench.core.errors import Incompatible
    from poisonbench.runner.check import check
    from poisonbench.runner.experiment import assemble
    from poisonbench.runner.spec import assumed, record_of, spec
    from poisonbench.runner.stages import Line

    setting = setting_from(record, words, *[word for word in words if word.startswith("results_dir=")], *runtime_of(record))
    experiment = assemble(setting.tree, setting.store)
    line = Line(experiment=experiment, store=setting.store)
    _same_plan(record, spec(experiment))
    kept = dataclasses.replace(renewed(record), schema=SCHEMA, spec=spec(experiment), provenance={**record.provenance, "refereed": _by(record)})
    try:
        check(line)
    except Incompatible as error:
        if record.status != "skipped":
            raise Changed(f"the run is skipped today: {error}") from error
        return dataclasses.replace(kept, reason=str(error), assumed=record_of(line).assumed)
    if record.status != "done":
        raise Changed(f"it is recorded as {record.status}, but can be run today")
    counts = {**record.counts, "classes": experiment.task.test.num_classes}
    return dataclasses.replace(kept, metrics={**kept.metrics, **_struck(record, line, experiment)}, counts=counts, assumed=assumed(experiment))


def _same_plan(record: Record, now: dict[str, object]) -> None:
    """Check that plugins have the same versions and settings as in the record."""
    for part, recorded in record.spec.items():
        today = now.get(part)
        if isinstance(recorded, dict) and isinstance(today, dict):
            wrong = [name for name, value in recorded.items() if today.get(name) != value]
            if wrong:
                raise Changed(f"its {part} has other settings or another version today: {', '.join(wrong)}")
        elif today != recorded:
            raise Changed(f"its {part} is not the same today")


def _struck(record: Record, line: Line, experiment: Experiment) -> dict[str, object]:
    """Check everything that needs no victim; return the metrics that the record lacks."""
    from poisonbench.core.defense import Mean
    from poisonbench.runner.pipeline import folded

    trials = [(line.strike(number), number) for number in range(experiment.threat.trials)]
    for received, number in trials:
        line.probe(received, number)
    kinds = [received.kinds for received, _ in trials]
    if "clients" in record.counts:
        raise Changed("the aggregation rule was given the malicious clients before all others; today the order is drawn anew in each round")
    old = record.schema < SCHEMA
    if old and any(one.injected.any() for one in kinds):
        raise Changed("injected rows had negative ids and came last, so that a defense could recognise them; today all rows are shuffled and numbered anew")
    if old and any((one.cover | one.untouched).any() for one in kinds):
        raise Changed("rows that only hide the poison, and unchanged rows, were counted as poison; today they are counted separately")
    asked = line.asked(line.attacked, [trials[0][0].data], line.combine(Mean()), ["fit"])
    if line.store.named("fit", asked[0]) != record.keys.get("fit undefended"):
        raise Changed("its victims were trained on other rows, or by another recipe, than today's")
    if "certified" not in record.metrics:
        return {}
    changes: list[dict[str, object]] = [{"changed_rows": count} for received, _ in trials if (count := received.changes(experiment.task.train))]
    return {"radius_unit": experiment.defense.certify.unit, **(folded(changes) if changes else {})}


def _by(record: Record) -> dict[str, object]:
    """Return the commit that checked the record, the digest of the old record, and what was checked."""
    return {"commit": provenance()["commit"], "from": record.result_digest, "checked": "attack, probe and rows; victims and scores are those of the first run"}


def _say(text: str) -> None:
    Console().print(plain(text), markup=False, highlight=False, soft_wrap=True)
