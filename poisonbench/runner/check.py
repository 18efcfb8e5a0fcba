"""Checks before anything is computed: combinations that cannot be run, and what could be run instead."""

from __future__ import annotations

from collections.abc import Sequence

from poisonbench.core.attack import Untouched
from poisonbench.core.defense import Demanding, KeepAll
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import PlainStep, Unchanged
from poisonbench.core.plugins import check_arguments
from poisonbench.core.proof import check_proofs, needs, parts, strangers
from poisonbench.runner.experiment import Experiment
from poisonbench.runner.spec import filled
from poisonbench.runner.stages import Line, under_attack

UPDATES, ROWS = {"attack.update", "defense.aggregate"}, {"attack.train", "defense.sanitize", "defense.train"}  # in federated learning, in one place


def check(line: Line) -> None:
    """Refuse an experiment that cannot be run, before anything is computed.

    Raises:
        Incompatible: the learner has no place for a slot of the attack or the defense; the run is skipped.
        PoisonbenchError: any other reason, in one sentence.
    """
    line.experiment.task.check_test()
    check_training(line)


def check_training(line: Line) -> None:
    """Refuse training rows, a defense or a learner that do not fit together; test rows are not looked at.

    Raises:
        Incompatible: the learner has no place for a slot of the attack or the defense; the run is skipped.
        PoisonbenchError: any other reason, in one sentence.
    """
    experiment = line.experiment
    attack, defense = experiment.attack, experiment.defense
    experiment.task.check()
    check_form(experiment)
    check_aim(experiment)
    check_classes(experiment)
    check_columns(experiment)
    if attack.train != PlainStep() and (defense.sanitize != KeepAll() or defense.train != Unchanged()):
        raise Incompatible(
            "the attacker runs the training, so defense.sanitize and defense.train never see it; choose a repair or a screen, such as defense=fine_tune"
        )
    learner = defense.train(under_attack(experiment, experiment.learner))
    asked = filled("attack", attack) | filled("defense", defense)
    if missing := sorted(asked - learner.stages):
        raise Incompatible("; ".join(filter(None, (f"{type(learner).__name__} has no place for {', '.join(missing)}", alternative(asked, missing)))))
    check_proofs(attack.train, defense, learner)
    if "trusted" in needs(experiment.defense) and len(experiment.task.trusted) == 0:
        needy = next(type(part).__name__ for part in parts(experiment.defense) if "trusted" in getattr(part, "NEEDS", ()))
        raise ConfigError(f"{needy} needs trusted clean rows; set task.trusted to a share above 0, such as 0.05")
    for part in parts(experiment.defense):
        if isinstance(part, Demanding):
            part.check_trusted(experiment.task.trusted)
    known = learner.with_public(experiment.task.public, None)
    check_arguments(known, "restore", "trained, like, combine")
    known.check(experiment.task.train, line.combine(experiment.defense.aggregate))


def check_form(experiment: Experiment) -> None:
    """Refuse plugins that cannot read the task's inputs, and a norm that their form does not have.

    Raises:
        Incompatible: the first plugin, and the forms that it can read.
        ConfigError: the norms that can be used.
    """
    form, threat = experiment.task.train.form, experiment.threat
    acting = {"attack": experiment.attack, "defense": experiment.defense, "learner": experiment.learner, "threat.surrogate": threat.surrogate}
    for place, plugin in acting.items():
        for part in strangers(plugin, form):
            read = " or ".join(sorted(part.READS))  # type: ignore[attr-defined]
            fault = f"{place}: {type(part).__name__} reads {read}, but the inputs of {experiment.task.name} are {form.NAME}"
            group = "learner" if place == "threat.surrogate" else place
            raise Incompatible(f"{fault}; choose another {place} that reads {form.NAME}, `list {group}` names all")
    seen = [column.form for column in experiment.task.train.schema.values() if column.role == "seen"]
    if experiment.attack.data != Untouched() and threat.budget.norm is not None and not any(threat.budget.norm in each.NORMS for each in seen):
        known, names = " or ".join(norm for each in seen for norm in each.NORMS) or "no norm", " and ".join(each.NAME for each in seen)
        raise ConfigError(f"threat.budget.norm={threat.budget.norm}: changes of {names} are measured by {known}; choose that, or null")


def check_aim(experiment: Experiment) -> None:
    """Refuse several targets per trial for an attack that aims at one, which declares ONE_TARGET.

    Raises:
        ConfigError: what to set instead.
    """
    threat, aiming = experiment.threat, next((part for part in parts(experiment.attack) if getattr(part, "ONE_TARGET", False)), None)
    if aiming is not None and threat.targets > 1:
        asked = f"threat.targets={threat.targets}: {type(aiming).__name__} aims at one test row in each trial"
        raise ConfigError(f"{asked}; set threat.targets=1, and more threat.trials for more targets")


def check_classes(experiment: Experiment) -> None:
    """Refuse rows of one class for attacks and defenses that need classes, which declare SEVERAL_CLASSES.

    Raises:
        Incompatible: what to use instead.
    """
    if experiment.task.train.num_classes > 1:
        return
    for place, plugin, other in (("attack", experiment.attack, "attack=rag"), ("defense", experiment.defense, "defense=near_duplicate")):
        if (part := next((part for part in parts(plugin) if getattr(part, "SEVERAL_CLASSES", False)), None)) is not None:
            fault = f"{place}: {type(part).__name__} works with classes, and all training rows of {experiment.task.name} have the same one"
            raise Incompatible(f"{fault}; for passages choose one for retrieval, such as {other}, or else a task with classes, such as task=sentiment")


def check_columns(experiment: Experiment) -> None:
    """Refuse rows without the further columns that an attack or a defense works on, which it declares with COLUMNS; a column of zeros alone is none.

    An entry of COLUMNS is a name, or several names, one of which is enough.

    Raises:
        Incompatible: what to use instead.
    """
    rows = experiment.task.train
    for place, plugin in (("attack", experiment.attack), ("defense", experiment.defense)):
        for part in parts(plugin):
            for entry in getattr(part, "COLUMNS", ()):
                names = (entry,) if isinstance(entry, str) else entry
                if not any(name in rows.extra and (rows.extra[name] != 0).any() for name in names):
                    asked = f"{type(part).__name__} works on the column {' or '.join(names)}"
                    fault = f"{place}: {asked}, and the training rows of {experiment.task.name} have none"
                    raise Incompatible(f"{fault}; choose a task that has it (`list task` names all), or a setting of the task that adds it")


def alternative(asked: set[str], missing: Sequence[str]) -> str:
    """Return what could be run instead, or an empty text.

    Args:
        asked: the slots that the attack and the defense fill.
        missing: those that the learner has no place for.
    """
    if asked & UPDATES and asked & ROWS:
        other = "attack=backdoor" if "attack.update" in asked else f"one of {' and '.join(sorted(asked & (UPDATES | ROWS)))}"
        return f"updates are combined in federated learning, where nobody holds all rows: use {other}"
    if UPDATES & set(missing):
        return "updates are combined in federated learning: use learner=federated" + (", or attack=federated" if "attack.update" not in asked else "")
    if "defense.repair" in missing:
        return "a repair mends one network: use learner=small, and no ensemble"
    return "use learner=small" if ROWS & set(missing) else ""
