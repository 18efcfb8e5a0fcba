"""The protocols of learners, victims and training steps.

Shape letters: N rows, M test rows, B rows of a batch, K classes, D features, R contributions, P parameters, L places of a text, V words of the
vocabulary, E numbers of an embedding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn

from poisonbench.core.data import NO_COLUMNS, PLAIN, Dataset
from poisonbench.core.errors import Diverged
from poisonbench.core.form import Form
from poisonbench.core.rng import Key

if TYPE_CHECKING:
    from poisonbench.core.attack import UpdateAttack
    from poisonbench.core.defense import Aggregator

State: TypeAlias = Mapping[str, Tensor]
Network: TypeAlias = Callable[..., Tensor]  # of the inputs; of pairs also of their captions


class Differentiable(Protocol):
    """A model from inputs to scores; it normalises inside, so gradients are those of the pixels.

    `lift` gives the floats that an attack may follow a gradient in: `module(module.lift(inputs))` are the scores of the inputs, and
    `module.features(module.lift(inputs))` their features, up to rounding. A model of words also takes their ids.

    Inputs and outputs are on the CPU, whatever the model's device; gradients pass through.
    """

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return (M, K) scores of lifted inputs."""
        ...

    def lift(self, inputs: Tensor) -> Tensor:
        """Return inputs as the data set stores them as floats: pixels and numbers as they are, (M, L) words as (M, L, E) embeddings."""
        ...

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D), the inputs of the head."""
        ...

    def activations(self, inputs: Tensor) -> Sequence[Tensor]:
        """Return the (M, ...) outputs of each block of layers, from the inputs to the features, which come last."""
        ...

    def head(self, features: Tensor) -> Tensor:
        """Return (M, K) scores from (M, D) features."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that are trained."""
        ...


@runtime_checkable
class Worded(Protocol):
    """A differentiable model of words: replacing the word at one place of a text replaces one row of the lifted text by a row of the table.

    A place whose lifted row is all zeros is padding, and no word has such a row.
    """

    @property
    def table(self) -> Tensor:
        """(V, E), the lifted row of every word of the vocabulary; that of padding is zero."""
        ...

    @property
    def known(self) -> Tensor:
        """(V,) bool, the words that the model can tell from unknown ones."""
        ...

    def lift(self, inputs: Tensor) -> Tensor:
        """Return (M, L, E) from (M, L) words."""
        ...

    def features(self, inputs: Tensor) -> Tensor:
        """Return (M, D) features of (M, L, E) lifted texts, or of (M, L) words."""
        ...


class Victim(Protocol):
    """A trained model. Inputs and outputs are on the CPU."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Facts about the training (epochs, epsilon, ...), as JSON values."""
        ...

    @property
    def history(self) -> Sequence[State]:
        """States during the training, one per round; empty where only the last state counts."""
        ...

    @property
    def module(self) -> Differentiable | None:
        """The differentiable model, in evaluation mode; None if there is none."""
        ...

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32; the largest is the answer."""
        ...

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D) float32 representations."""
        ...

    def state(self) -> State:
        """Return all that `Learner.restore` needs, as CPU tensors."""
        ...

    def silenced(self, channels_D: Tensor) -> Victim:
        """Return a victim whose features are zero where (D,) bool holds, now and in later training; this one stays as it is.

        Raises:
            Incompatible: a victim whose features cannot be switched off one by one.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """A victim as the store keeps it. Facts whose name starts with an underscore are for the victim and are left out of the record."""

    state: State
    facts: Mapping[str, object]
    history: tuple[State, ...] = ()

    @classmethod
    def of(cls, victim: Victim) -> Trained:
        """Return the parts of a victim."""
        return cls(state=dict(victim.state()), facts=dict(victim.facts), history=tuple(victim.history))


@dataclass(frozen=True, eq=False, kw_only=True)
class Combine:
    """How many contributions become one; learners with a single contributor use only `clean`.

    Args:
        craft: what malicious contributors send.
        aggregate: how the server combines all contributions.
        malicious: (M,) int64, the contributors that the attacker controls.
        rounds: first round of the attack and the one after its last; None is every round.
        omniscient: the attacker sees every update, not only those of the malicious clients.
        clean: the rows before poisoning; malicious contributors train on them outside those rounds.
        trusted: the server's own clean rows; may be empty.
    """

    craft: UpdateAttack
    aggregate: Aggregator
    malicious: Tensor
    rounds: tuple[int, ...] | None
    omniscient: bool
    clean: Dataset
    trusted: Dataset


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Rows of one training step on the learner's device.

    Args:
        inputs: (B, ...) as networks take them (`Form.ready`), such as float32 pixels in 0..255; before augmentation as the data set stores them.
        labels: (B,) int64.
        ids: (B,) int64 row ids.
        form: of the inputs.
        extra: the further columns of the rows, (B, ...) each, such as the responses to prompts.
    """

    inputs: Tensor
    labels: Tensor
    ids: Tensor
    form: Form = PLAIN
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=lambda: NO_COLUMNS)

    def take(self, rows: Tensor) -> Batch:
        """Return some of the rows: their positions, or (B,) bool."""
        extra = {name: column[rows] for name, column in self.extra.items()}
        return dataclasses.replace(self, inputs=self.inputs[rows], labels=self.labels[rows], ids=self.ids[rows], extra=extra)

    def parted(self, rows: Tensor, losses_of: Callable[[Batch], Tensor], of_others: Callable[[Batch], Tensor]) -> Tensor:
        """Return (B,) losses: by one function for the batch of the rows where (B,) bool `rows` holds, by another one for the batch of all others."""
        parts = [(mine, each(self.take(mine))) for mine, each in ((rows, losses_of), (~rows, of_others)) if mine.any()]
        losses = torch.zeros(len(rows), dtype=parts[0][1].dtype, device=rows.device)
        for mine, values in parts:
            losses[mine] = values
        return losses


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The length of a training.

    Args:
        rows: N.
        epochs: passes over the rows.
        steps: steps of one epoch.
        shape: shape of one input.
    """

    rows: int
    epochs: int
    steps: int
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Moment:
    """The position of a step in a training.

    Args:
        module: the model in training.
        plan: how long the training is.
        epoch: passes completed.
        step: steps completed, over all epochs.
        rng: the stream of this step alone.
        allowed: rows of this step that an attacker who runs the training may change.
    """

    module: nn.Module
    plan: Plan
    epoch: int
    step: int
    rng: Key
    allowed: int = 0


class Objective(Protocol):
    """What a training minimises, as a frozen dataclass.

    The class attribute ASKS states what the network has to give: "classes", the default, (B, K) scores; "words", (B, L + 1, V) scores of the word at
    each place of a text and of the one after its last; "pairs", (B, B) similarities of all inputs and all captions of a batch.
    """

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return the (B,) losses of the rows, in float32; their mean is minimised.

        Args:
            network: from inputs to outputs, in the precision of the recipe.
            batch: the rows, as they are trained on.
            label_smoothing: in [0, 1), for objectives with labels.
        """
        ...


def asked_of(objective: Objective) -> str:
    """Return what an objective needs from the network; see `Objective`. An objective around another one passes on what that one needs."""
    asked: str = getattr(objective, "ASKS", "classes")
    return asked


@dataclass(frozen=True, eq=False, kw_only=True)
class ChangedObjective:
    """An objective that changes another one, and needs from the network what that one needs; base class.

    Args:
        inner: the other objective.
    """

    inner: Objective

    @property
    def ASKS(self) -> str:
        """What the other objective needs."""
        return asked_of(self.inner)


@runtime_checkable
class Anchored(Protocol):
    """An objective that compares the model in training with the model that the training started from."""

    def anchored(self, start: Network) -> Objective:
        """Return what is minimised in a training that starts from this model, which does not change."""
        ...


@runtime_checkable
class Tolerant(Protocol):
    """An objective that can allow for a share of wrong rows, such as pairs of responses that somebody swapped."""

    def tolerating(self, noise: float) -> Objective:
        """Return the objective that assumes this share of wrong rows, in [0, 0.5)."""
        ...


@runtime_checkable
class Step(Protocol):
    """The places in the training loop where an attack or a defense may act. Several steps form a chain."""

    def with_public(self, public: Dataset) -> Step:
        """Return this step with the rows that cannot be poisoned; there may be none."""
        ...

    def measured(self, data: Dataset) -> Dataset:
        """Return the rows that the statistics of the inputs are measured on, before the first step; `data` is trained on.

        Raises:
            ConfigError: there are none that this step may use.
        """
        ...

    def planned(self, own: Plan, clean: Plan) -> Plan:
        """Return the plan to follow: `own` counts the rows that are trained on, `clean` those of the task before poisoning."""
        ...

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse a model or a plan that does not fit this step; cheap, and called before anything is computed.

        Raises:
            ConfigError: what to change.
            Incompatible: what makes the run a skipped one.
        """
        ...

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Prepare the model before the first step.

        A step keeps what it must remember between epochs as an attribute of the module. A network that is added as a submodule is trained by the same
        optimiser. `finish` removes both. Before anything is computed, it also gets a model that is not trained afterwards, to see what the step
        minimises.

        Args:
            module: the model; its weights are trained.
            trusted: the defender's clean rows as they are stored; in a transfer their features, which its head sees. May be empty.
        """
        ...

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Return the row positions of each step of one epoch.

        Args:
            batches: the plan so far.
            data: the rows that are trained on, on the learner's device.
            moment: the first step of the epoch; its `rng` is of this method alone.
        """
        ...

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Return the rows of the batch as they are stored, before augmentation: same types, (B, C, H, W) uint8 pixels for images."""
        ...

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Return the batch to train on, after augmentation."""
        ...

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return what is minimised in this step; `objective` is what the recipe and the earlier steps minimise."""
        ...

    def loss(self, losses: Tensor, batch: Batch, moment: Moment) -> Tensor:
        """Return (B,) losses from (B,) losses; their mean is minimised."""
        ...

    def update(self, moment: Moment) -> None:
        """Act between the backward pass and the optimiser, on the gradients of `moment.module`."""
        ...

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Remove from the model what `begin` added, and return facts for the record."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlainStep:
    """The step that changes nothing; base class of steps that act in one place."""

    VERSION: ClassVar[int] = 1

    def with_public(self, public: Dataset) -> Step:
        """Keep the step."""
        return self

    def measured(self, data: Dataset) -> Dataset:
        """Measure on the training rows."""
        return data

    def planned(self, own: Plan, clean: Plan) -> Plan:
        """Follow the plan of the training rows."""
        return own

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse nothing."""

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Prepare nothing."""

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Keep the plan."""
        return batches

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Keep the rows."""
        return batch

    def batch(self, batch: Batch, moment: Moment) -> Batch:
        """Keep the batch."""
        return batch

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Keep the objective."""
        return objective

    def loss(self, losses: Tensor, batch: Batch, moment: Moment) -> Tensor:
        """Keep the losses."""
        return losses

    def update(self, moment: Moment) -> None:
        """Keep the gradients."""

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return no facts."""
        return {}


@runtime_checkable
class Additive(Protocol):
    """A victim that can tell what one more training row would change, without another training."""

    def scores_after(self, added: Dataset, inputs: Tensor) -> Iterator[Tensor]:
        """Yield (c, M, K) float32 for slices of c rows of `added`, in their order: the scores of `inputs` by a victim trained on that row too.

        Each row is added alone, and the scores are those of a new training on the rows of this victim and that one.
        """
        ...


class Learner(Protocol):
    """A training recipe, as a frozen dataclass: the same data, combine and rng give the same victim.

    The class attributes LOOKS_AT and MECHANISM, which are not inherited, state what a certificate or an epsilon may assume (`poisonbench.core.proof`).
    """

    @property
    def stages(self) -> frozenset[str]:
        """The slots that this learner supports, such as "attack.train" or "defense.aggregate"."""
        ...

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads and versions: bits may differ between them, so they are part of every fit key."""
        ...

    def check(self, data: Dataset, combine: Combine) -> None:
        """Raise ConfigError for data that this recipe cannot train on; cheap, and called before anything is computed."""
        ...

    def with_public(self, public: Dataset, fit: Fitted | None) -> Learner:
        """Return this recipe with what it learns from rows that cannot be poisoned, such as an extractor.

        Args:
            public: those rows; may be empty.
            fit: trains another recipe on rows, or loads the victim from the store; None before `check`, where nothing may be trained yet.
        """
        ...

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train from scratch, or continue from `start`."""
        ...

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim per part, all from scratch or all from `start`; no victim sees the rows of another part.

        Raises:
            Diverged: with the position of the part whose training diverged.
        """
        ...

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Yield (m, R, K) float32, the scores of R victims, for each slice of m inputs."""
        ...

    def with_step(self, step: Step) -> Learner:
        """Return this recipe with one more step in its chain."""
        ...

    def with_epochs(self, epochs: int) -> Learner:
        """Return the recipe that continues a victim's training, with this many passes over the data."""
        ...

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild a victim.

        Args:
            trained: its state.
            like: the rows that it was trained on, which also give the shape of inputs and the number of classes.
            combine: as it was trained with.
        """
        ...


Wrap: TypeAlias = Callable[[Learner], Learner]
Fitted: TypeAlias = Callable[[Learner, Dataset], Victim]


@dataclass(frozen=True, kw_only=True)
class WithStep:
    """The wrap that adds one step to every training; most attacks and defenses on trainings need no other.

    Args:
        step: the step that is added.
    """

    VERSION: ClassVar[int] = 1
    step: Step

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner with the step."""
        return learner.with_step(self.step)


@dataclass(frozen=True, kw_only=True)
class Unchanged:
    """The wrap that returns the learner as it is."""

    VERSION: ClassVar[int] = 1

    def __call__(self, learner: Learner) -> Learner:
        """Return the learner."""
        return learner


@dataclass(frozen=True, kw_only=True)
class OneByOne:
    """Base class of learners that train and score their victims one after the other; a derived class writes `fit` and `restore`."""

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> Victim:
        """Train a victim."""
        raise NotImplementedError

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> Victim:
        """Rebuild a victim."""
        raise NotImplementedError

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim per part, one after the other."""
        return fit_each(cast("Learner", self), parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score with one victim after the other."""
        return score_each(victims, inputs)


@dataclass(frozen=True, kw_only=True)
class Around(OneByOne):
    """Base class of learners that wrap another learner, such as ensembles.

    Args:
        member: recipe of the models that are trained.
    """

    VERSION: ClassVar[int] = 1
    member: Learner

    @property
    def stages(self) -> frozenset[str]:
        """The member's slots without those that need a single model, and certificates."""
        return (self.member.stages - {"attack.update", "defense.aggregate", "defense.repair"}) | {"defense.certify"}

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions."""
        return self.member.runtime

    def check(self, data: Dataset, combine: Combine) -> None:
        """Refuse what the member refuses."""
        self.member.check(data, combine)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Self:
        """Return the recipe whose member has the public rows."""
        return dataclasses.replace(self, member=self.member.with_public(public, fit))

    def with_step(self, step: Step) -> Self:
        """Return the recipe whose member has one more step."""
        return dataclasses.replace(self, member=self.member.with_step(step))

    def with_epochs(self, epochs: int) -> Self:
        """Return the recipe whose member has another number of epochs."""
        return dataclasses.replace(self, member=self.member.with_epochs(epochs))


def score_each(victims: Sequence[Victim], inputs: Tensor, rows: int = 500) -> Iterator[Tensor]:
    """Score with one victim after the other, some rows at a time: the default of `Learner.scores_many`."""
    for some in inputs.split(rows):
        yield torch.stack([victim.scores(some) for victim in victims], 1)


def fit_each(learner: Learner, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> list[Victim]:
    """Train one victim per part, one after the other: the default of `Learner.fit_many`."""
    victims = list[Victim]()
    for place, (part, rng) in enumerate(zip(parts, rngs, strict=True)):
        try:
            victims.append(learner.fit(part, combine, rng, start))
        except Diverged as error:
            raise Diverged(str(error), member=place) from error
    return victims
