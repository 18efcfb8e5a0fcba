"""What may stand around a proof: one rule for every certificate and for every epsilon.

A certificate proves something about one mechanism, from training rows to answers; so does an epsilon. A filter before it, a repair
behind it or a screen in front of its answers makes another mechanism. Whether the proof survives depends on two facts, and each
is a class attribute: LOOKS_AT of whatever stands there says what its output depends on, and TOLERATES of whatever holds the proof says what may stand there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from poisonbench.core.errors import Incompatible
from poisonbench.core.learner import Learner, PlainStep, Step

if TYPE_CHECKING:
    from poisonbench.core.defense import Defense

Looks: TypeAlias = Literal["nothing", "each row alone", "the model", "all rows"]
Tolerance: TypeAlias = Mapping[str, tuple[Looks, ...]]  # by slot, what may stand there beside what looks at nothing

ANYTHING: tuple[Looks, ...] = ("each row alone", "the model", "all rows")
# What a certificate proves is about a training, whatever its steps are.
ALONE: Tolerance = MappingProxyType({"step": ANYTHING})
# A filter that looks at each row alone turns an insertion, a deletion or an edit into at most one of these.
ROWS: Tolerance = MappingProxyType({"step": ANYTHING, "sanitize": ("each row alone",)})
# Whatever happens to the training rows, the proof is about the test input.
INPUTS: Tolerance = MappingProxyType({"step": ANYTHING, "sanitize": ANYTHING, "repair": ANYTHING})
# What looks at a private model and at no private row is post-processing.
PRIVATE: Tolerance = MappingProxyType({slot: ("each row alone",) for slot in ("sanitize", "step")} | {slot: ("the model",) for slot in ("repair", "screen")})


def parts(plugin: object) -> Iterator[object]:
    """Yield a plugin and everything inside it."""
    yield plugin
    if isinstance(plugin, tuple):
        inside: list[object] = list(plugin)
    else:
        inside = [getattr(plugin, field.name) for field in fields(plugin)] if is_dataclass(plugin) else []
    for part in inside:
        yield from parts(part)


def needs(plugin: object) -> frozenset[str]:
    """Return what a plugin, or one nested in it, declares with NEEDS.

    "truth": the poison mask, which no real defender has. "trusted": clean rows of the defender's own.
    """
    return frozenset[str]().union(*(getattr(part, "NEEDS", ()) for part in parts(plugin)))


def check_proofs(train: Step, defense: Defense, learner: Learner) -> None:
    """Refuse a run in which something stands around a proof that the proof does not tolerate.

    Args:
        train: what the attacker does in the training.
        defense: what stands where.
        learner: the recipe of the defended victim.

    Raises:
        Incompatible: names both, and says what is tolerated.
    """
    certify = [defense.certify] if _filled(defense, "certify") else []
    for holder in (*certify, *(part for part in parts((defense.train, learner)) if hasattr(part, "TOLERATES"))):
        if train != PlainStep():
            raise Incompatible(f"the attacker runs the training, so {_name(holder)} proves nothing about it")
        tolerance: Tolerance = getattr(holder, "TOLERATES", ALONE)
        for slot, found, looks in around(defense, learner):
            allowed = ("nothing", *tolerance.get(slot, ()))
            if found != holder and looks not in allowed:
                way_out = " (~defense.certify leaves out the proof)" if certify else ""
                raise Incompatible(
                    f"{_name(holder)} proves nothing beside {_name(found)}, which looks at {looks}: the proof speaks of training and answers without it. "
                    f"In the slot {slot} it tolerates what looks at {' or '.join(allowed)}; leave one of the two out{way_out}"
                )


def around(defense: Defense, learner: Learner) -> Iterator[tuple[str, object, Looks]]:
    """Yield the slots in which something may stand around a proof, what stands there, and what it looks at."""
    filter_looks: Looks = getattr(defense.sanitize, "LOOKS_AT", "all rows")
    yield "sanitize", defense.sanitize, filter_looks
    for step in parts((defense.train, learner)):
        if isinstance(step, Step):
            yield "step", step, getattr(step, "LOOKS_AT", "all rows")
    # neither of these is handed training rows; but a verdict and the poison mask speak of them
    yield "repair", defense.repair, _handed(defense.repair, told=filter_looks != "nothing")
    yield "screen", defense.screen, _handed(defense.screen, told=False)


def _handed(plugin: object, *, told: bool) -> Looks:
    if getattr(plugin, "LOOKS_AT", "all rows") == "nothing":
        return "nothing"
    return "all rows" if told or "truth" in needs(plugin) else "the model"


def _filled(defense: Defense, slot: str) -> bool:
    (default,) = [field.default for field in fields(defense) if field.name == slot]
    return bool(getattr(defense, slot) != default)


def _name(plugin: object) -> str:
    return type(plugin).__name__
