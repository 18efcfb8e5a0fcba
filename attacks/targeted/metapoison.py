"""MetaPoison: poisons that lead a few steps of training towards the wished label, through models of all ages.

Shape letters: R poisons, B rows of a step, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from attacks.targeted.aims import Bases, Scene, Wish, clean_label, differentiable
from attacks.targeted.noise import Noise, augmented
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable, Victim
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES


@dataclass(frozen=True, kw_only=True)
class MetaPoison:
    """Perturb rows of the wished class so that a few steps of training on them give the target the wished label.

    Source: Huang, Geiping, Fowl, Taylor, Goldstein, "MetaPoison: Practical General-purpose Clean-label Data Poisoning", NeurIPS 2020, Algorithm 1.

    The attacker keeps M models of different ages. In each step, every model takes K steps of SGD on a batch of poisons and clean rows, with the
    graph kept; the loss is that of Carlini and Wagner for the target with the wished label. Its gradient by the pixels, averaged over the models,
    moves the poisons by signed Adam. Then the models train on the poisoned rows for an epoch, and a model that is `ages` epochs old starts again.

    Differences: an epoch of a model is a training of one epoch, so its learning rate rises and falls in it as the recipe says. Models that start
    again share their initial weights, since a training from scratch for the attacker has one seed. The models stay in evaluation mode in the K
    steps, so normalisation uses the statistics of their training. The step size falls at 3/8, 5/8 and 7/8 of the steps, as in `gradient_matching`.

    Not included: the colour perturbation of the paper; the noise within the limit is the whole change.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, the "next" class, or the wrong label that the surrogate finds most
            "likely".
        bases: rows to start from: "random" ones of the wished class, the "nearest" to the target, the "first", or those with the largest "gradient".
        steps: steps of Adam, 1 or more (paper: 60).
        step_size: size of one step, as a share of the budget's limit, above 0.
        models: M, 1 or more (paper: 24).
        ages: largest age of a model in epochs, at least M; the models start at equal distances below it.
        advance_every: steps after which each model trains for an epoch, 1 or more (paper: 1); 0 keeps all models as they are.
        unroll: K, steps of SGD that are looked ahead, 1 or more (paper: 2).
        lr: learning rate of these steps, above 0.
        batch_size: poisons in each of these steps, 1 or more.
        clean_rows: clean rows in each of these steps, 0 or more.
        confidence: the loss of a model stops falling when the wished score is above all others by this much, 0 or more.
        shift: largest random shift in pixels, 0 or more.
        flip: mirror left to right at random.
    """

    VERSION: ClassVar[int] = 1
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = PICTURES
    wish: Wish
    bases: Bases
    steps: int
    step_size: float
    models: int
    ages: int
    advance_every: int
    unroll: int
    lr: float
    batch_size: int
    clean_rows: int
    confidence: float
    shift: float
    flip: bool

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.steps, self.models, self.unroll, self.batch_size) < 1 or not (0 < self.step_size <= 1e3 and 0 < self.lr <= 1e6):
            raise ConfigError("attack.data: steps, models, unroll and batch_size are 1 or more, step_size is above 0, at most 1000, lr above 0, at most 1e6")
        if min(self.advance_every, self.clean_rows) < 0 or not (self.confidence >= 0 and 0 <= self.shift <= 1e3):
            raise ConfigError("attack.data: advance_every, clean_rows, confidence and shift are 0 or more, shift at most 1000")
        if self.ages < self.models:
            raise ConfigError(f"attack.data.ages={self.ages}: {self.models} models of different ages need ages of {self.models} epochs or more")

    @property
    def surrogates(self) -> int:
        """One fully trained surrogate, for the choice of the base rows alone."""
        return 1

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisons as the budget allows.

        Raises:
            ConfigError: as `clean_label` does.
        """
        return clean_label(self, known, rng)

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons."""
        noise = Noise(scene.inputs, limit=scene.limit, step=self.step_size * scene.limit, steps=self.steps, rng=rng.child("start"))
        crew = [Aged(scene.known.tune(None, scene.known.rows, epochs=age), age) for age in self.first_ages()]
        for step in track(self.steps, "steps"):
            modules = differentiable([model.victim for model in crew])
            draw = rng.child(f"step/{step}")
            gradients = [self._gradient(module, noise, scene, draw.child(str(place))) for place, module in enumerate(modules)]
            noise.follow(torch.stack(gradients).mean(0))
            if self.advance_every and (step + 1) % self.advance_every == 0 and step + 1 < self.steps:
                crew = [self._older(model, scene, noise) for model in crew]
        return noise.poisons()

    def first_ages(self) -> list[int]:
        """Return the M ages at which the models start, in epochs: equally spaced, the oldest is the largest age."""
        return [self.ages * (place + 1) // self.models for place in range(self.models)]

    def _older(self, model: Aged, scene: Scene, noise: Noise) -> Aged:
        rows, again = scene.poisoned(noise.poisons()), model.age >= self.ages
        return Aged(scene.known.tune(None if again else model.victim, rows, epochs=1), 1 if again else model.age + 1)

    def _gradient(self, module: Differentiable, noise: Noise, scene: Scene, rng: Key) -> Tensor:
        """Return the (R, C, H, W) gradient of the loss after K steps, each on its own poisons, clean rows and augmentation."""
        batches, rows, generator = list[Shown](), scene.known.rows, rng.torch()
        for _ in range(self.unroll):
            mine = torch.randperm(len(scene.inputs), generator=generator)[: self.batch_size]
            other = torch.randperm(len(rows), generator=generator)
            other = other[~torch.isin(other, scene.chosen)][: self.clean_rows]  # the victim never sees the base rows as they were
            images = torch.cat([noise.images[mine], rows.inputs[other].float()])
            draws = torch.rand(len(images), 3, generator=generator)
            labels = torch.cat([torch.full((len(mine),), scene.label), rows.labels[other]])
            batches.append(Shown(augmented(images, draws, self.shift, flip=self.flip), labels))
        scores = looked_ahead(module, batches, module.lift(scene.target), self.lr)
        return torch.autograd.grad(short_of(scores, scene.label, self.confidence), noise.values)[0]


@dataclass(frozen=True, eq=False)
class Aged:
    """A model and its age in epochs."""

    victim: Victim
    age: int


@dataclass(frozen=True, eq=False)
class Shown:
    """(B, C, H, W) rows of a step and their (B,) labels."""

    inputs: Tensor
    labels: Tensor


def looked_ahead(module: Differentiable, batches: Sequence[Shown], target: Tensor, lr: float) -> Tensor:
    """Return the (1, K) scores of the target after one step of SGD on each batch; differentiable by the inputs of the batches.

    Raises:
        ConfigError: a surrogate that is no torch module.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError("attack=metapoison trains copies of its surrogate, which must be a torch network; choose another threat.surrogate")
    learned = {id(weight) for weight in module.parameters() if weight.requires_grad}
    weights: Mapping[str, Tensor] = {name: weight for name, weight in module.named_parameters() if id(weight) in learned}
    for batch in batches:
        loss = F.cross_entropy(functional_call(module, dict(weights), (batch.inputs,)), batch.labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: weight - lr * slope for (name, weight), slope in zip(weights.items(), slopes, strict=True)}
    scores: Tensor = functional_call(module, dict(weights), (target,))
    return scores


def short_of(scores_1K: Tensor, wish: int, confidence: float) -> Tensor:
    """Return by how much the wished score is below the largest of the others, at least -confidence (Carlini and Wagner, 2017)."""
    others = scores_1K[0].index_fill(0, torch.tensor([wish]), -torch.inf).amax()
    return (others - scores_1K[0, wish]).clamp_min(-confidence)
