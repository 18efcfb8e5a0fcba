"""Which plugins a proof stays valid with: one rule for every certificate and for every epsilon.

A certificate proves a statement about one mechanism, from training rows to answers; so does an epsilon. A filter before it, a learner
around it, a repair after it or a screen in front of its answers makes another mechanism. Class attributes decide whether the proof
still holds. LOOKS_AT of a plugin around the proof states what its output depends on. TOLERATES of the plugin that holds the proof states
what the plugins around it may look at. MECHANISM of a learner states that certificates are about it and everything inside it. LOOKS_AT
and MECHANISM are not inherited: a derived class may use the rows in another way, so it has to declare them again. A mechanism
whose parts a proof depends on names their slots with INSIDE, such as {"retriever": "retriever"}; a part without LOOKS_AT counts as "all rows".

A learner around another one states with LOOKS_AT what the rows that it passes on depend on: "nothing" if it passes on all of them
unchanged, "each row alone" if it changes each by itself. Its answers come from the model that was trained inside. A wrap (`defense.train`)
receives a recipe and no rows, so the learner that it returns counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from poisonbench.core.errors import Incompatible
from poisonbench.core.form import Form
from poisonbench.core.learner import Learner, PlainStep, Step

if TYPE_CHECKING:
    from poisonbench.core.defense import Defense

Looks: TypeAlias = Literal["nothing", "each row alone", "the model", "all rows"]
Tolerance: TypeAlias = Mapping[str, tuple[Looks, ...]]  # by slot, what a plugin there may look at besides nothing

ANYTHING: tuple[Looks, ...] = ("each row alone", "the model", "all rows")
# A certificate is about a training, whatever its steps are.
ALONE: Tolerance = MappingProxyType({"step": ANYTHING})
# A filter that looks at each row alone turns an insertion, a deletion or an edit into at most one of these.
ROWS: Tolerance = MappingProxyType({"step": ANYTHING, "sanitize": ("each row alone",)})
# Whatever happens to the training rows, the proof is about the test input.
INPUTS: Tolerance = MappingProxyType({"step": ANYTHING, "sanitize": ANYTHING, "repair": ANYTHING})
# A plugin that looks at a private model and at no private row is post-processing.
PRIVATE: Tolerance = MappingProxyType(
    {slot: ("each row alone",) for slot in ("sanitize", "step", "learner")} | {slot: ("the model",) for slot in ("repair", "screen")}
)

NOUNS = {
    "sanitize": "filter",
    "learner": "learner",
    "step": "step",
    "repair": "repair",
    "screen": "screen",
    "retriever": "retriever",
    "reader": "reader",
    "sift": "filter of passages",
}
USES: Mapping[Looks, str] = {
    "all rows": "uses all training rows",
    "each row alone": "may change or remove training rows",
    "the model": "acts on the trained model",
}
SEARCHES: Mapping[Looks, str] = {"all rows": USES["all rows"], "each row alone": "decides which training rows are read", "the model": USES["the model"]}
CHANGES: Mapping[Looks, str] = {  # of a retriever, without which no victim can search
    "all rows": "Choose a retriever that scores each passage by itself, such as retriever=tfidf",
    "each row alone": "Choose another defense",
}


class Proof(NamedTuple):
    """A plugin that holds a proof: its place, the plugin, what it tolerates, and the path to it in the learner, outermost first; empty outside it."""

    place: str
    holder: object
    tolerates: Tolerance
    path: tuple[object, ...] = ()
    number: int = -1  # of the path


class Found(NamedTuple):
    """A plugin around a proof: its slot, the plugin, and what it looks at."""

    slot: str
    plugin: object
    looks: Looks


def paths(plugin: object, above: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    """Yield the path to a plugin and to everything inside it: the outermost first, the part itself last."""
    here = (*above, plugin)
    yield here
    if isinstance(plugin, tuple | list):
        inside: list[object] = list(plugin)
    elif isinstance(plugin, Mapping):
        inside = list(plugin.values())
    else:
        inside = [getattr(plugin, field.name) for field in fields(plugin)] if is_dataclass(plugin) and not isinstance(plugin, type) else []
    for part in inside:
        yield from paths(part, here)


def parts(plugin: object) -> Iterator[object]:
    """Yield a plugin and everything inside it."""
    yield from (path[-1] for path in paths(plugin))


def needs(plugin: object) -> frozenset[str]:
    """Return what a plugin, or one nested in it, declares with NEEDS.

    "truth": the poison mask, which no real defender has. "trusted": the defender's clean rows. "manifest": the signed list that comes with the rows.
    """
    return frozenset[str]().union(*(getattr(part, "NEEDS", ()) for part in parts(plugin)))


def strangers(plugin: object, form: Form) -> list[object]:
    """Return the parts of a plugin that cannot read inputs of this form.

    A part that declares READS speaks for everything inside it; READS = None is any form.
    """
    if hasattr(plugin, "READS"):
        return [] if plugin.READS is None or form.NAME in plugin.READS else [plugin]
    return [stranger for path in paths(plugin) if len(path) == 2 for stranger in strangers(path[-1], form)]


def check_proofs(train: Step, defense: Defense, learner: Learner) -> None:
    """Refuse a run with a plugin around a proof that the proof does not tolerate.

    Args:
        train: what the attacker does in the training.
        defense: the plugins of the defense.
        learner: the recipe of the defended victim.

    Raises:
        Incompatible: names both, and says what to remove.
    """
    for proof in proofs(defense, learner):
        if train != PlainStep():
            raise Incompatible(f"the attacker runs the training, so {_titled(proof)} proves nothing about it")
        for found in around(proof, defense, learner):
            if found.looks not in ("nothing", *proof.tolerates.get(found.slot, ())):
                raise Incompatible(_reason(proof, found))


def proofs(defense: Defense, learner: Learner) -> Iterator[Proof]:
    """Yield every proof of a run: the certificate, and proofs inside the training.

    Raises:
        Incompatible: a certificate without a training that it could be about.
    """
    if _filled(defense, "certify"):
        proof = Proof("defense.certify", defense.certify, getattr(defense.certify, "TOLERATES", ALONE))
        certified = [path for path in paths(learner) if _certified(path[-1]) and not any(map(_certified, path[:-1]))]
        if not certified:
            raise Incompatible(f"{_titled(proof)} has nothing to prove: no part of the learner {type(learner).__name__} declares MECHANISM")
        yield from (proof._replace(path=path) for path in certified)
    own = list(parts(defense.train))
    for part in own:
        if hasattr(part, "TOLERATES") and not isinstance(part, Step):
            yield Proof("defense.train", part, part.TOLERATES)
    for number, path in enumerate(paths(learner)):
        if hasattr(path[-1], "TOLERATES"):
            place = "defense.train" if any(part is path[-1] for part in own) else "learner"
            yield Proof(place, path[-1], path[-1].TOLERATES, path, number)


def around(proof: Proof, defense: Defense, learner: Learner) -> Iterator[Found]:
    """Yield the plugins around a proof."""
    filter_looks = _looks(defense.sanitize)
    yield Found("sanitize", defense.sanitize, filter_looks)
    yield from (Found("learner", part, _looks(part)) for part in proof.path[:-1] if is_dataclass(part) and not isinstance(part, Step))
    for number, path in enumerate(paths(learner)):
        if isinstance(path[-1], Step) and number != proof.number:
            yield Found("step", path[-1], _looks(path[-1]))
        for name, slot in getattr(type(path[-1]), "INSIDE", {}).items():
            held = getattr(path[-1], name)
            yield from (Found(slot, part, _looks(part)) for part in (held if isinstance(held, tuple) else (held,)))
    # neither receives training rows, but a verdict and the poison mask depend on them
    yield Found("repair", defense.repair, _looks_later(defense.repair, verdict=filter_looks != "nothing"))
    yield Found("screen", defense.screen, _looks_later(defense.screen, verdict=False))


def _certified(plugin: object) -> bool:
    return bool(vars(type(plugin)).get("MECHANISM", False))


def _looks(plugin: object) -> Looks:
    looks: Looks = vars(type(plugin)).get("LOOKS_AT", "all rows")
    return looks


def _looks_later(plugin: object, *, verdict: bool) -> Looks:
    """Return what a repair or a screen looks at; `verdict` says whether it receives one."""
    if _looks(plugin) == "nothing":
        return "nothing"
    return "all rows" if verdict or "truth" in needs(plugin) else "the model"


def _filled(defense: Defense, slot: str) -> bool:
    (default,) = [field.default for field in fields(defense) if field.name == slot]
    return bool(getattr(defense, slot) != default)


def _reason(proof: Proof, found: Found) -> str:
    name, noun = type(found.plugin).__name__, NOUNS[found.slot]
    if found.slot == "step" and isinstance(proof.holder, Step) and hasattr(found.plugin, "TOLERATES"):
        return f"the training has two private steps, {_titled(proof)} and {name}, and no accountant adds up the privacy that both spend; remove one of them"
    place = f"the {noun} {name}" if found.slot in ("step", "learner", "retriever", "reader", "sift") else f"defense.{found.slot} ({name})"
    uses = (SEARCHES if found.slot in ("retriever", "sift") else USES)[found.looks]
    way_out = "; `~defense.certify` removes the certificate" if proof.place == "defense.certify" else ""
    change = CHANGES[found.looks] if found.slot == "retriever" else "Remove one of them"
    return f"{_titled(proof)} is not valid together with {place}, because that {noun} {uses}. {change}{way_out}."


def _titled(proof: Proof) -> str:
    return f"{proof.place} ({type(proof.holder).__name__})"
