"""The figures of a victim: on test rows and probed rows, after each round, behind a screen, and with a certificate."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from poisonbench.core.defense import Naming
from poisonbench.core.delivery import Delivered
from poisonbench.core.electorate import Electorate
from poisonbench.core.finite import finite
from poisonbench.core.goals import Probe
from poisonbench.core.learner import Learner, Trained, Victim
from poisonbench.runner import metrics
from poisonbench.runner.stages import Line, numbered


def measure(line: Line, victim: Victim, probe: Probe, label: str) -> dict[str, float]:
    """Return C-Acc, ASR and R-Acc; the targets of the attack are left out of C-Acc."""
    test, counted = line.experiment.task.test, torch.ones(len(line.experiment.task.test), dtype=torch.bool)
    counted[probe.targets] = False
    scores = line.scores(victim, test, label)
    figures = {"c_acc": metrics.accuracy(scores[counted], test.labels[counted])}
    if len(probe):
        figures |= metrics.success(line.probed(victim, probe, f"{label} probe"), probe)
    return figures


def history(line: Line, learner: Learner, victim: Victim, probe: Probe) -> dict[str, list[float]]:
    """Return C-Acc after each round or epoch, and ASR if there is a probe; empty for a learner that keeps the last model alone.

    If the learner keeps only some of them, "round" or "epoch" lists these, counted from 1. The store keeps the curve of a victim: the baseline
    and the undefended victim are those of many runs.

    Raises:
        Diverged: the scores of a kept model are not finite.
    """
    if not victim.history:
        return {}
    every, unit = int(str(victim.facts.get("history_every", 1))), "round" if "rounds" in victim.facts else "epoch"
    marks = {}
    if every > 1:
        last = int(str(victim.facts[f"{unit}s"]))
        marks[unit] = [float(last - every * back) for back in reversed(range(len(victim.history)))]
    asked = (probe.inputs, probe.truth, probe.hit, probe.asked(line.experiment.task.test))
    parts = (learner, list(victim.history), line.experiment.task.test, *asked, line.stream("ask"), learner.runtime)
    kept = line.store.memo("curve", parts, lambda: _curves(line, learner, victim, probe), filed=line.filed("curve"))
    return marks | {name: list(values) for name, values in kept.items()}  # the store keeps tuples


def _curves(line: Line, learner: Learner, victim: Victim, probe: Probe) -> dict[str, list[float]]:
    test, rng, rows = line.experiment.task.test, line.stream("ask"), line.experiment.task.train
    curves = dict[str, list[float]]()
    for number, state in enumerate(victim.history):
        then, where = learner.restore(Trained(state=state, facts={}), rows, line.honest), f"scores of the kept model {number + 1} of {len(victim.history)}"
        curves.setdefault("c_acc", []).append(metrics.accuracy(finite(test.ask(then, test.inputs, rng), where), test.labels))
        if len(probe):
            curves.setdefault("asr", []).append(metrics.success(finite(probe.asked(test)(then, probe.inputs, rng), where), probe)["asr"])
    return curves


def screened(line: Line, victim: Victim, poisoned: Delivered, probe: Probe, trial: int = 0) -> dict[str, object]:
    """Return the figures of the screen on trusted, test and probed inputs; empty without a screen."""
    screen, task = line.experiment.defense.screen, line.experiment.task
    inputs = {"trusted": task.trusted.inputs, "test": task.test.inputs, "probe": probe.inputs}
    means, suspicion = line.means(poisoned, screen, trial), dict[str, Tensor]()
    for name, rows in inputs.items():
        judge = partial(screen.suspicion, victim, rows, means, line.stream(f"{numbered('screen', trial)}/{name}"))
        judged = judge() if len(rows) else torch.zeros(0)
        if judged is None:
            return {}
        suspicion[name] = finite(judged, f"suspicion of the {name} inputs")
    scores = {
        "test": line.scores(victim, task.test, "screened"),
        "probe": line.probed(victim, probe, "screened probe") if len(probe) else torch.zeros(0),
    }
    return {"screen": metrics.screening(scores, suspicion, task.test, probe)}


def certified(line: Line, victim: Victim, poisoned: Delivered) -> dict[str, object]:
    """Return certified accuracy, and what the attack changed in the unit of the radii; empty without a certificate."""
    certify, test = line.experiment.defense.certify, line.experiment.task.test
    radii, together = certify.certify(victim, test), certify.together(victim, test)
    figures = {} if radii is None else {**metrics.certified(radii), "radius_unit": certify.unit}
    if figures and (changes := poisoned.changes(line.experiment.task.train)):
        figures["changed_rows"] = changes
    if figures and isinstance(victim, Electorate):
        figures["member_c_acc"] = metrics.member_accuracy(victim.tally(test.inputs).answers_MR, test.labels)
    if figures and isinstance(certify, Naming):
        figures["never"] = {str(kind): metrics.median_radius(radii) for kind, radii in certify.never(victim, test).items()}
    return figures | ({"collective": {str(changes): share for changes, share in together.items()}} if together else {})
