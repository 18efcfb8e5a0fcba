"""The slots of a defense: what each receives and returns.

Shape letters: N rows, M test rows, K classes, R contributions, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Step, Unchanged, Victim, Wrap
from poisonbench.core.manifest import NOTHING_SIGNED, Manifest
from poisonbench.core.proof import ALONE, Looks, Tolerance
from poisonbench.core.rng import Key

CHANGED_ROWS = "changed training rows"
NO_EVIDENCE: Mapping[str, Tensor] = MappingProxyType({})
Kind: TypeAlias = Literal["label error", "duplicate", "outlier", "backdoor", "language", "changed", "caption"]


class Fit(Protocol):
    """Train on rows; each `draw` is an independent initialisation."""

    def __call__(self, data: Dataset, *, draw: int = 0) -> Victim:
        """Return the trained victim."""
        ...


class Tune(Protocol):
    """Continue a victim's training for so many epochs, or train from scratch if there is none; each `draw` has other seeds.

    A `step` is added to the training loop.
    """

    def __call__(self, victim: Victim | None, data: Dataset, *, epochs: int, draw: int = 0, step: Step | None = None) -> Victim:
        """Return the tuned victim; the one given stays as it is."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Means:
    """Everything that the defender may use; the counterpart of the attacker's `Known`.

    Args:
        trusted: clean rows; may be empty.
        fit: the undefended recipe.
        tune: the same recipe, continued from a victim.
        truth: (N,) bool, the poison mask, for plugins that declare NEEDS = {"truth"}; empty for all others.
        manifest: the signed list that came with the rows, for plugins that declare NEEDS = {"manifest"}; one that nobody signed for all others.
    """

    trusted: Dataset
    fit: Fit
    tune: Tune
    truth: Tensor
    manifest: Manifest = NOTHING_SIGNED


@dataclass(frozen=True, kw_only=True)
class Finds:
    """What a filter looks for: how an audit groups its rows, and the reason that it states for each.

    Args:
        kind: the kind of row.
        reads: the victim that serves the filter best: "none"; "short", trained for a few epochs, so that it has not memorised wrong labels; or "full".
        because: the reason for one row, such as "labelled {label}, but the model says {guess}". {label} is the name of the row's class, {guess} the
            class and {twin} the other row that the verdict's evidence names. What a row says besides its label has the name of its column, as in {caption}.
        scale: how an audit makes suspicions of different data sets comparable. "given": they already are, such as probabilities. "data": relative to
            the less suspicious rows of the data set; "class": relative to those of the row's class (`poisonbench.report.joint`). "flag": only whether a
            suspicion is above 0 counts, as where two digests differ and the number of different bits says nothing.
        exact: whether a row that the filter removes certainly is what it looks for, such as a picture without the digest of the index. An audit names
            such rows, whatever share of clean rows is like them; not if most rows are.
        settings: fields of the filter that an audit sets which names no filters, such as a cheaper way.
    """

    kind: Kind
    reads: Literal["none", "short", "full"]
    because: str
    scale: Literal["given", "data", "class", "flag"] = "given"
    exact: bool = False
    settings: Mapping[str, object] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False, kw_only=True)
class Verdict:
    """A sanitizer's judgement.

    Args:
        keep: (N,) bool, the rows to train on.
        suspicion: (N,) float32, larger is more suspicious.
        evidence: what the judgement of each row is based on, for people who check it. "guess": (N,) int64, the class that the row looks like. "twin":
            (N,) int64, the position of the row that it resembles, -1 for none.
    """

    keep: Tensor
    suspicion: Tensor
    evidence: Mapping[str, Tensor] = field(default_factory=lambda: NO_EVIDENCE)


def checked(verdict: Verdict | None, data: Dataset, sanitizer: object) -> Verdict | None:
    """Return the verdict if it has the form that `Verdict` states, with a value for every row; None stays None.

    Raises:
        ConfigError: a wrong type, a wrong shape, or a suspicion that is not finite.
    """
    if verdict is None:
        return None
    evidence = [(f"evidence {name}", column, torch.int64) for name, column in verdict.evidence.items()]
    for name, column, dtype in (("keep", verdict.keep, torch.bool), ("suspicion", verdict.suspicion, torch.float32), *evidence):
        if column.shape != (len(data),) or column.dtype != dtype:
            form = f"{column.dtype} of shape {tuple(column.shape)}"
            raise ConfigError(f"{type(sanitizer).__qualname__}.judge returned {name} as {form}; give one {dtype} per row, {len(data)} in all")
    if odd := int((~verdict.suspicion.isfinite()).sum()):
        raise ConfigError(f"{type(sanitizer).__qualname__}.judge returned a suspicion that is not finite for {odd} of {len(data)} rows")
    return verdict


class Sanitizer(Protocol):
    """Judges training rows before the victim is trained, as a frozen dataclass.

    The class attribute LOOKS_AT states what the verdict on a row depends on: "each row alone" (on no other training row) or "all rows",
    the default. Certificates and epsilon tolerate only the first (`poisonbench.core.proof`). The class attribute BY_CLASS is True where
    rows are compared only within their class: `audit` then keeps all rows of classes that are too small to judge (`poisonbench.core.classwise`).
    The class attribute FINDS (`Finds`) makes the filter part of an audit that names no filters, and states what kind of row it looks for.
    """

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict | None:
        """Return a verdict, or None for no judgement."""
        ...


@runtime_checkable
class Demanding(Protocol):
    """A plugin that needs trusted rows of some kind, and can say so before anything is computed."""

    def check_trusted(self, trusted: Dataset) -> None:
        """Refuse trusted rows that it cannot work with, such as too few.

        Raises:
            ConfigError: what to change.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Server:
    """What an aggregator knows besides the contributions.

    Args:
        round: number of the round, from 0.
        state: (P,) the model that the contributions start from.
        malicious: f, the number of malicious contributors to assume among those given.
        reference: returns (P,), the update on trusted rows; computed only when called.
    """

    round: int
    state: Tensor
    malicious: int
    reference: Callable[[], Tensor]


class Aggregator(Protocol):
    """Combines many contributions into one, as a frozen dataclass."""

    def check(self, contributors: int, malicious: int) -> None:
        """Refuse numbers of contributors that break the rule's precondition.

        Raises:
            ConfigError: the rule's precondition, in words.
        """
        ...

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return (P,) from (R, P), finite rows in a new random order each round."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Mended:
    """A victim after repair, and figures about the repair; the victim that was given stays unchanged.

    Args:
        victim: the repaired victim, or the one that was given.
        figures: for the record, such as an anomaly index.
    """

    victim: Victim
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


class Repairer(Protocol):
    """Repairs a trained victim, as a frozen dataclass."""

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the repaired victim."""
        ...


class Screen(Protocol):
    """Judges inputs at test time, as a frozen dataclass."""

    def suspicion(self, victim: Victim, inputs: Tensor, means: Means, rng: Key) -> Tensor | None:
        """Return (M,) float32, larger is more suspicious, or None for no judgement."""
        ...


class Certifier(Protocol):
    """Proves how much poison an answer withstands, as a frozen dataclass.

    The class attribute TOLERATES states, slot by slot, which plugins the proof stays valid with (`poisonbench.core.proof`); by default
    training steps only. A proof that holds with a confidence over its own random draws has the field `alpha`, the probability that it is
    wrong. The specification of the record then contains it, and reports name these draws beside the radius.
    """

    @property
    def unit(self) -> str:
        """What radii count, such as "flipped labels"."""
        ...

    def certify(self, victim: Victim, test: Dataset) -> Tensor | None:
        """Return (M,) int64, the radius for each test row, -1 where the answer is already wrong; None for no proof."""
        ...

    def together(self, victim: Victim, test: Dataset) -> Mapping[int, float]:
        """Return, for some radii, the share of test rows that stay right under any single attack on all of them; empty for no such proof."""
        ...


@runtime_checkable
class Naming(Protocol):
    """A certifier that also proves how many changes it takes before a named wrong answer can be given."""

    def never(self, victim: Victim, test: Dataset) -> Mapping[int, Tensor]:
        """Return by named class the int64 radii against it, those of the test rows of other classes; -1 where it is the answer already."""
        ...


@dataclass(frozen=True, kw_only=True)
class KeepAll:
    """The sanitizer that judges nothing."""

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"

    def judge(self, data: Dataset, means: Means, rng: Key) -> Verdict | None:
        """Return no judgement: every row is kept."""
        return None


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The aggregator that averages all contributions equally; base class of rules without a precondition."""

    VERSION: ClassVar[int] = 1

    def check(self, contributors: int, malicious: int) -> None:
        """Refuse nothing."""

    def __call__(self, rows_RP: Tensor, server: Server) -> Tensor:
        """Return the mean contribution."""
        return rows_RP.mean(0)


@dataclass(frozen=True, kw_only=True)
class AsTrained:
    """The repairer that repairs nothing."""

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"

    def repair(self, victim: Victim, verdict: Verdict | None, means: Means, rng: Key) -> Mended:
        """Return the victim."""
        return Mended(victim=victim)


@dataclass(frozen=True, kw_only=True)
class PassAll:
    """The screen that lets every input pass."""

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"

    def suspicion(self, victim: Victim, inputs: Tensor, means: Means, rng: Key) -> Tensor | None:
        """Return no judgement."""
        return None


@dataclass(frozen=True, kw_only=True)
class NoCertificate:
    """The certifier that proves nothing; base class of certifiers that prove each answer separately."""

    VERSION: ClassVar[int] = 1
    TOLERATES: ClassVar[Tolerance] = ALONE

    @property
    def unit(self) -> str:
        """What radii count."""
        return CHANGED_ROWS

    def certify(self, victim: Victim, test: Dataset) -> Tensor | None:
        """Return no proof."""
        return None

    def together(self, victim: Victim, test: Dataset) -> Mapping[int, float]:
        """Return no proof."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Defense:
    """One defense: a function for each place where it can act, a null object where it does not.

    Args:
        sanitize: removes training rows.
        train: changes the training.
        aggregate: combines contributions.
        repair: repairs the trained victim.
        screen: refuses inputs at test time.
        certify: proves robustness.
    """

    sanitize: Sanitizer = KeepAll()
    train: Wrap = Unchanged()
    aggregate: Aggregator = Mean()
    repair: Repairer = AsTrained()
    screen: Screen = PassAll()
    certify: Certifier = NoCertificate()


def stated(rate: float | None, where: str) -> float:
    """Return a rate that a plugin assumes.

    Raises:
        ConfigError: it is None, and the engine did not insert the threat's rate.
    """
    if rate is None:
        raise ConfigError(f"{where}: no poison rate to assume; give a number, such as 0.05")
    return rate
