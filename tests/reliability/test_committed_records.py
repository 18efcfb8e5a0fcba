"""Committed records are what their commands give today, so no figure of a changed recipe or plugin stays."""

import json
import os
import re
import shlex
import zlib
from functools import cache

import pytest

from poisonbench.config.build import build
from poisonbench.config.compose import CONFIGS, tree_of
from poisonbench.core.keys import canonical
from poisonbench.core.plugins import HOME, OWN
from poisonbench.core.threat import POISON_RATE, informed
from poisonbench.report.certified import changed, promises
from poisonbench.report.figures import radius_unit
from poisonbench.storage.record import Record, read

INNER = ("net", "extractor", "head", "client")  # recipes within recipes, with what a run puts into them


SHARES = 16  # of the commands, so that several processes have something to do


@cache
def by_command() -> dict[str, list[Record]]:
    """Every committed record under its command without the seed."""
    found: dict[str, list[Record]] = {}
    for path in sorted((HOME / "results" / "records").glob("*.json")):
        record = read(path)
        found.setdefault(" ".join(word for word in record.command.split(" ") if not word.startswith("seed=")), []).append(record)
    return found


def words_of(command: str) -> list[str]:
    return [os.path.expandvars(word) for word in shlex.split(command)[3:]]


@cache
def shared(words: tuple[str, ...]) -> dict[str, object]:
    """Compose words that several commands have in common once."""
    return tree_of([*words])


def rest(words: list[str]) -> tuple[str, ...]:
    """The words that are not of the defense."""
    return tuple(word for word in words if not word.startswith(("defense=", "defense.")))


def composed(words: list[str]) -> dict[str, object]:
    """Compose a defense apart from the rest, since some thirty of each make hundreds of pairs; the next test says why that is the same."""
    if any("@" in word or word.startswith("+") for word in words):
        return tree_of(words)
    others = rest(words)
    return shared(others) | {"defense": shared(tuple(word for word in words if word not in others))["defense"]}


def test_a_defense_takes_nothing_from_the_rest_of_a_configuration_and_gives_it_no_learner():
    for path in (path for folder in ("defense", "features") for path in sorted((CONFIGS / folder).glob("*.yaml"))):
        text = path.read_text()
        assert not re.search(r"\$\{(?!defense\.)", text), path.name
        assert not re.search(r"^learner:|^attack:|override /|^\s*- /(?!defense@|features@|learner@defense)", text, re.MULTILINE), path.name
    others = [path for path in CONFIGS.rglob("*.yaml") if path.parent.name not in ("defense", "experiment") and path.parent != CONFIGS]
    assert not [path.name for path in others if re.search(r"^\s*defense:|/defense|@\S*defense", path.read_text(), re.MULTILINE)]


def built_by(command: str) -> dict[str, object]:
    tree = composed(words_of(command))
    return {part: build(tree[part], OWN, part) for part in ("learner", "attack", "defense")}


def written(plan: object) -> dict[str, object]:
    return json.loads(json.dumps(canonical(plan)))


@pytest.mark.parametrize("share", range(SHARES))
def test_no_committed_record_is_stale(share):
    stale = []
    for command in sorted(by_command(), key=lambda command: rest(words_of(command))):
        if zlib.crc32(" ".join(rest(words_of(command))).encode()) % SHARES != share:  # commands that differ in the defense alone are in one share
            continue
        built = built_by(command)
        now = {part: written(plan) for part, plan in built.items()}
        for record in by_command()[command]:
            rate = float(record.spec["threat"]["budget"]["rate"])
            count = record.spec["threat"]["budget"]["count"]
            poisoned = rate if count is None else count / record.spec["task"]["rows"]["train"]
            now["defense"] = written(informed(built["defense"], {POISON_RATE: poisoned}))
            recipe = {name: value for name, value in record.spec["learner"].items() if name not in INNER}
            if any(now["learner"].get(name) != value for name, value in recipe.items() if name != "name"):
                stale.append((record.key, "learner"))
            slots = [(kind, slot, value) for kind in ("attack", "defense") for slot, value in record.spec[kind].items() if slot not in ("name", "needs")]
            stale += [(record.key, kind) for kind, slot, value in slots if now[kind].get(slot) != value]
    assert not stale, f"make these again, or bump no version: {stale}"


def changes(record) -> int | None:
    """How many changes the attack of a record made at most, in the unit of its radius; None where that unit counts other changes."""
    told, unit = changed(record), radius_unit(record)
    if told is not None or any(word in unit for word in ("flipped", "edited", "pixels", "changed to")):
        return told
    return 2 * sum(record.counts.get(kind, 0) for kind in ("poisoned", "cover", "injected"))  # a changed row is one deleted and one inserted


def test_no_attack_beats_a_certificate():
    records = [record for found in by_command().values() for record in found if record.status == "done"]
    attacked = [
        record
        for record in records
        if "certified" in record.metrics
        and "asr_interval" not in record.undefended  # C-Acc leaves the targets out there
        and "sanitize" not in record.spec["defense"]
    ]
    partners, beaten = promises(attacked, records), []
    for record in (record for record in attacked if record.key in partners and partners[record.key].status == "done"):
        curve, count = partners[record.key].metrics["certified"], changes(record)
        proved = curve[count] if count is not None and count < len(curve) else 0.0
        if record.metrics["c_acc"] < proved - 1e-9:
            beaten.append((record.key, record.metrics["c_acc"], proved))
    assert partners
    assert not beaten
