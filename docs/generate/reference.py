"""The reference: a page for each kind of option, one of the keys of every run, one of the commands, one of the Python interface."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from docs.generate.entries import all_described, entry, own, summary
from docs.generate.markdown import code, page, prose, table
from poisonbench.commands.described import Option
from poisonbench.commands.help import PAGE as HELP
from poisonbench.commands.usage import HELP as ASK
from poisonbench.commands.usage import Usage
from poisonbench.config.vocabulary import CONFIGS, commands, options
from poisonbench.report.links import SLOTS as DEFENSE_SLOTS

FOLDER = "reference"
FAMILIES = {
    "backdoor": "Attacks: backdoor",
    "targeted": "Attacks: targeted",
    "availability": "Attacks: availability",
    "federated": "Attacks: federated",
    "text": "Attacks: texts",
    "spam": "Attacks: spam filters",
    "retrieval": "Attacks: retrieval and agent memory",
    "supply": "Attacks: on the way to the user",
    "language": "Attacks: language models",
    "pairs": "Attacks: pictures with captions",
    "generators": "Attacks: generators of pictures",
    "privacy": "Attacks: privacy",
}
SLOTS = {
    "sanitize": "Defenses: filters (sanitize)",
    "train": "Defenses: training (train)",
    "certify": "Defenses: certificates (certify)",
    "aggregate": "Defenses: aggregation rules (aggregate)",
    "repair": "Defenses: repair (repair)",
    "screen": "Defenses: screens at test time (screen)",
}
GROUPS = {
    "task": "Tasks",
    "net": "Networks",
    "learner": "Learners",
    "retriever": "Retrievers",
    "reader": "Readers of passages",
    "writer": "Writers of poisoned passages",
    "features": "Fixed features",
    "threat": "Threats",
    "owners": "Owners: how clients get their rows",
    "experiment": "Experiments",
    "engine": "Engines of sweeps",
    "tracker": "Trackers",
}
ALSO = {
    "attack": "An attack changes training rows, federated updates, or the training itself. Choose one with `attack=NAME`; `attack=none` is no attack.",
    "defense": "A defense acts in one slot or more. Choose one with `defense=NAME`, or several with `defense=[NAME,NAME]`; `defense=none` is no defense.",
    "task": "A task is a data set with its training, test, trusted and public rows. Choose one with `task=NAME`.",
    "net": "A network that is trained. Choose one with `net=NAME`.",
    "learner": "A learner says how the network is trained. Choose one with `learner=NAME`.",
    "retriever": "A retriever finds passages for `learner=retrieval`. Choose one with `retriever=NAME`.",
    "reader": "A reader chooses an answer from the passages found, for `learner=retrieval`. Choose one with `reader=NAME`.",
    "writer": "How each of two attackers writes passages, for `attack=competing`: `writer@attack.data.first=NAME` and `writer@attack.data.second=NAME`.",
    "features": "Features that depend on no training row. The learners `ridge` and `kernel_ridge` use them: `learner=ridge features@learner.features=NAME`.",
    "threat": "A threat says what the attacker may do and what the attacker knows. Choose one with `threat=NAME`.",
    "owners": "How the training rows are shared out to the clients of federated learning. Choose one with `owners=NAME`.",
    "experiment": "An experiment is a sweep that is kept in a file. Run one with `python -m poisonbench +experiment=NAME`.",
    "engine": "An engine runs the cells of a sweep. Choose one with `engine=NAME`.",
    "tracker": "A tracker sends the figures of a run to another program. Choose one with `tracker=NAME`.",
}
CONTRACT = {
    "Run an experiment": ("poisonbench.run", "poisonbench.own_task", "poisonbench.storage.record.Record"),
    "Write an attack": (
        "poisonbench.core.attack.Attack",
        "poisonbench.core.attack.DataAttack",
        "poisonbench.core.attack.UpdateAttack",
        "poisonbench.core.threat.Known",
        "poisonbench.core.threat.Budget",
        "poisonbench.core.threat.Threat",
        "poisonbench.core.attack.Poisoned",
        "poisonbench.core.attack.Round",
        "poisonbench.core.attack.Crafted",
        "poisonbench.core.goals.Goal",
        "poisonbench.core.goals.Backdoor",
        "poisonbench.core.goals.Flip",
        "poisonbench.core.goals.Degrade",
    ),
    "Write a defense": (
        "poisonbench.core.defense.Defense",
        "poisonbench.core.defense.Means",
        "poisonbench.core.defense.Verdict",
        "poisonbench.core.defense.Sanitizer",
        "poisonbench.core.defense.Aggregator",
        "poisonbench.core.defense.Server",
        "poisonbench.core.defense.Repairer",
        "poisonbench.core.defense.Mended",
        "poisonbench.core.defense.Screen",
        "poisonbench.core.defense.Certifier",
    ),
    "Change the training": (
        "poisonbench.core.learner.Learner",
        "poisonbench.core.learner.Step",
        "poisonbench.core.learner.Moment",
        "poisonbench.core.learner.Batch",
        "poisonbench.core.learner.Plan",
        "poisonbench.core.learner.Victim",
    ),
    "Values that all of them use": ("poisonbench.core.data.Dataset", "poisonbench.core.data.Task", "poisonbench.core.rng.Key", "poisonbench.core.errors"),
}
KEY = re.compile(r"^(?P<name>\w+): (?P<value>.*?)(?:  # (?P<comment>.*))?$")


class Kind(NamedTuple):
    """A page of the reference.

    Args:
        uri: below the folder of the reference.
        title: of the page.
        group: whose options it has.
        names: of the options, in order.
    """

    uri: str
    title: str
    group: str
    names: tuple[str, ...]


def pages() -> Iterator[tuple[str, str]]:
    """Yield the address of each generated page of the reference, and its Markdown."""
    listed = list(kinds())
    yield f"{FOLDER}/index.md", _overview(listed)
    for kind in listed:
        entries = [entry(all_described()[kind.group, name]) for name in kind.names]
        yield f"{FOLDER}/{kind.uri}", page(kind.title, ALSO[kind.group], *entries)
    yield f"{FOLDER}/run.md", _run()
    yield f"{FOLDER}/commands.md", _commands()
    yield f"{FOLDER}/python.md", _python()


def kinds() -> Iterator[Kind]:
    """Yield the pages of options: attacks by family, defenses by slot, the other groups whole."""
    for folder, group, titles in (("attacks", "attack", FAMILIES), ("defenses", "defense", SLOTS)):
        found = {name: _section(all_described()[group, name]) for name in options(group) if name != "none"}
        for section in sorted(set(found.values()), key=list(titles).index):
            yield Kind(f"{folder}/{section}.md", titles[section], group, tuple(name for name in found if found[name] == section))
    for group, title in GROUPS.items():
        yield Kind(f"{group}.md", title, group, tuple(options(group)))


def addresses() -> Mapping[tuple[str, str], str]:
    """Return where the entry of each (group, name) stands, below the folder of the reference."""
    return {(kind.group, name): f"{kind.uri}#{name}" for kind in kinds() for name in kind.names}


def _section(found: Option) -> str:
    """Return the family of an attack, or the slot of a defense; a defense with a certificate stands with the certificates."""
    if found.group == "attack":
        return own(found).target.split(".")[1]
    filled = {part.where.split(".")[1] for part in found.parts}
    return next(slot for slot in DEFENSE_SLOTS if slot in filled)


def _overview(listed: Sequence[Kind]) -> str:
    intro = (
        "These pages are made from the docstrings and the configuration files at build time. `python -m poisonbench describe NAME` prints the same "
        "in a terminal. A key is changed by its whole name: `attack.data.size=2`. Where a default says *from*, the key takes the value of another key."
    )
    more = [
        ("Keys of every run", "run.md", "seed, device, threads, and where results go."),
        ("Commands", "commands.md", "what `python -m poisonbench` can do besides running experiments."),
        ("Python", "python.md", "the functions to call, and the classes that an attack or a defense is made of."),
    ]
    blocks = [table(("page", "about"), [(f"[{title}]({uri})", about) for title, uri, about in more])]
    for kind in listed:
        rows = [(f"[{name}]({kind.uri}#{name})", prose(summary(all_described()[kind.group, name]))) for name in kind.names]
        blocks += [f"## {kind.title}", table(("name", "what it is"), rows)]
    return page("Reference", intro, *blocks)


def _run() -> str:
    """Return the page of the keys that every run has, with the comments of config.yaml."""
    rows, comment = [], list[str]()
    for line in (CONFIGS / "config.yaml").read_text(encoding="utf-8").split("\n\n", 1)[1].splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif found := KEY.match(line):
            rows.append((code(found["name"]), code(found["value"]), prose(" ".join([*comment, found["comment"] or ""]))))
            comment = []
        else:
            comment = []
    intro = "Every run has these keys. Change one with `KEY=VALUE` on the command line. The groups (`attack`, `defense`, `task` and so on) have separate pages."
    return page("Keys of every run", intro, table(("key", "default", "meaning"), rows))


def _commands() -> str:
    """Return the page of the commands, each from its USAGE."""
    blocks = [
        "A run needs no command: `python -m poisonbench attack=backdoor defense=spectral seed=0` runs one experiment, and `-m` runs a sweep. "
        "The commands below do everything else. `python -m poisonbench COMMAND --help` prints the same in a terminal. "
        f"{HELP.strip().splitlines()[-1]}.",
    ]
    for name in commands():
        usage: Usage = importlib.import_module(f"poisonbench.commands.{name}").USAGE
        rows = [(code(word), prose(meaning)) for word, meaning in {**usage.options, ", ".join(ASK): "print this and exit"}.items()]
        blocks += [f"## {name}", f"```text\npython -m poisonbench {usage.call}\n```", prose(usage.does), table(("word", "meaning"), rows)]
    return page("Commands", *blocks)


def _python() -> str:
    """Return the page of the Python interface; mkdocstrings fills it in."""
    intro = "`import poisonbench` gives `poisonbench.run` and `poisonbench.own_task`. The other classes are what an attack or a defense is made of."
    blocks = [block for title, paths in CONTRACT.items() for block in (f"## {title}", *(f"::: {path}" for path in paths))]
    return page("Python", intro, *blocks)
