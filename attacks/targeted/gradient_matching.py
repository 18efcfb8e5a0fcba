"""Witches' Brew: poisons whose training gradient matches the one that misclassifies the target.

Shape letters: R poisons, B poisons of a batch, C channels, H height, W width, P parameters of a surrogate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attacks.targeted.aims import Bases, Scene, Wish, clean_label, differentiable
from attacks.targeted.noise import Noise, augmented
from poisonbench.core.attack import Poisoned
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Differentiable
from poisonbench.core.precision import full_precision
from poisonbench.core.progress import track
from poisonbench.core.rng import Key
from poisonbench.core.threat import Known
from poisonbench.forms.pixels import PICTURES

REACH = 1e-6  # length of the difference below, as a share of the norm of the weights; max pooling switches on longer ones
LAST = 10  # steps whose mean loss judges a restart: the loss of a single step depends on its augmentation


@dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Perturb rows of the wished class so that their training gradient matches that of the target with the wished label.

    Source: Geiping, Fowl, Huang, Czaja, Taylor, Moeller, Goldstein, "Witches' Brew: Industrial Scale Data Poisoning via Gradient Matching", ICLR
    2021.

    Minimise 1 - cos(grad L(target, wished), grad L(poisons, their label)), gradients with respect to the surrogates' parameters, by signed Adam on
    the perturbation. The step size falls by a factor of ten at 3/8, 5/8 and 7/8 of the steps. Each batch of poisons is augmented differentiably
    (flip, and shift with bilinear interpolation). Of several restarts, the one with the lowest final loss is kept. Base rows are drawn at random from
    the wished class, as in the authors' code; "gradient" and `retrain` are of Souri, Fowl, Chellappa, Goldblum, Goldstein, "Sleeper Agent", NeurIPS
    2022.

    The gradient of the loss by the pixels is a derivative of the input gradient along one direction v of the parameters, so it needs no graph of
    the parameter gradient: it is the difference of the input gradients at theta + h v and at theta, divided by h, in full precision. With
    h |v| = 1e-6 |theta|, 97 % of its signs are those of the double backward pass in float32 on the net of learner=quick. A double backward pass
    in bfloat16, the precision of that recipe, has 96 % of them. The signs that differ are at pixels where max pooling switches.

    Differences: a step there is 0.1 on normalised pixels, about 6 grey levels, for a limit of 16. Here it is a share of the limit, by default a
    tenth. With steps of 6 grey levels the final loss was the same to 0.002 (digits, 3 targets on seed 100). Restarts are compared by the mean loss
    of the last ten steps, there by that of the last step. `halve_every` and `label_smoothing` are our additions.

    A victim that learner=quick trains from scratch on 9,500 rows of CIFAR-10 does not follow these poisons (95 rows, 16 grey levels, seed 100).
    In one victim with the poisons of 8 targets (nearest base rows, one of two surrogates drawn for each step), none flips, and the margin of the
    wished label rises by 0.1; that of targets without poison by 0.2. Copies of targets with the wished label, all in one victim, show what it
    follows: 1, 5 and 20 of them raise the margin by 1.0, 3.4 and 5.3, and flip 1, 7 and 10 of 10 targets (1, 0 and 0 with clean rows).
    Poisons pull as many copies do whose gradients have the same product with the target's, in batches of mostly clean rows, weighted by learning
    rates. After the last epoch, for two targets, one surrogate and random base rows, this is 9.2 and 7.9 copies at that surrogate, 1.1 and -0.6 at
    a model with another seed, and 0.1 and 0.3 at the victim trained on them. The victim learns the noise early: after 3 of 7 epochs its loss on the
    poisons of the first target is 0.3, and on their base rows 1.9.

    Args:
        wish: the label that the target shall get: "random" among the wrong labels, the "next" class, or the wrong label that the surrogate finds most
            "likely".
        bases: rows to start from: "random" ones of the wished class (paper), the "nearest" to the target, the "first", or those with the largest
            "gradient" (Sleeper Agent), of the head's weights here and of all weights there.
        steps: steps of Adam, 1 or more (paper: 250).
        step_size: size of one step, as a share of the budget's limit, above 0.
        batch_size: poisons per batch, 1 or more (paper: 512).
        restarts: independent starts, 1 or more (paper: 8).
        surrogates: number of surrogates with different seeds; their losses are averaged (paper: 1).
        shift: largest random shift in pixels, 0 or more (paper: 4, the padding of its recipe; its code says 8, in units of half a pixel).
        flip: mirror left to right at random.
        halve_every: after so many steps, the half of the restarts with the higher loss is dropped, until one is left; 0 keeps all to the end (paper).
        retrain: every so many steps, train the surrogates again on the poisoned rows, for each restart; 0 is never (Sleeper Agent: every 50 of 250).
        label_smoothing: of both losses, in [0, 1); the paper's recipe has none.
        context: clean rows that stand beside the poisons, and beside the target, in every pass; normalisation then uses the statistics of the batch, as
            in training. 0 is evaluation mode (paper).
    """

    VERSION: ClassVar[int] = 2
    ONE_TARGET: ClassVar[bool] = True
    READS: ClassVar[frozenset[str]] = PICTURES
    wish: Wish
    bases: Bases
    steps: int
    step_size: float
    batch_size: int
    restarts: int
    surrogates: int
    shift: float
    flip: bool
    halve_every: int
    retrain: int
    label_smoothing: float
    context: int

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if min(self.steps, self.batch_size, self.restarts, self.surrogates) < 1 or not (0 < self.step_size <= 1e3 and 0 <= self.shift <= 1e3):
            raise ConfigError("attack.data: steps, batch_size, restarts and surrogates are 1 or more, step_size above 0 and shift 0 or more, both at most 1000")
        if min(self.halve_every, self.retrain, self.context) < 0 or not 0 <= self.label_smoothing < 1:
            raise ConfigError("attack.data: halve_every and retrain are a number of steps, context of rows, or 0; label_smoothing lies in [0, 1)")

    def poison(self, known: Known, rng: Key) -> Poisoned:
        """Return the rows with as many poisons as the budget allows.

        Raises:
            ConfigError: as `clean_label` does.
        """
        return clean_label(self, known, rng)

    def moved(self, scene: Scene, rng: Key) -> Tensor:
        """Return (R, C, H, W) uint8 poisons of the restart with the lowest final loss."""
        with full_precision():
            matches = self._matches(scene, scene.modules, rng)
            restarts = [self._restart(scene, matches, rng.child(f"restart/{number}")) for number in range(self.restarts)]
            for step in track(self.steps, "steps"):
                for restart in restarts:
                    if self.retrain and step and step % self.retrain == 0:
                        restart.matches = self._matches(scene, self._trained_again(scene, restart), rng)
                    self._take_step(restart, step)
                if self.halve_every and (step + 1) % self.halve_every == 0:
                    restarts = sorted(restarts, key=lambda restart: restart.recent(self.halve_every))[: (len(restarts) + 1) // 2]
        return min(restarts, key=lambda restart: restart.recent(LAST)).noise.poisons()

    def _trained_again(self, scene: Scene, restart: Restart) -> list[Differentiable]:
        rows = scene.poisoned(restart.noise.poisons())
        with full_precision(full=False):  # these trainings are stored as those of the recipe
            return differentiable([scene.known.fit(rows, draw=draw) for draw in range(self.surrogates)])

    def _matches(self, scene: Scene, modules: Sequence[Differentiable], rng: Key) -> list[Match]:
        wish, rows = torch.tensor([scene.label]), scene.known.rows
        beside = rows.inputs[rng.child("context").pick(rows.ids, min(self.context, len(rows)))]
        return [Match(module, module.lift(scene.target), wish, self.label_smoothing, module.lift(beside)) for module in modules]

    def _restart(self, scene: Scene, matches: list[Match], rng: Key) -> Restart:
        noise = Noise(scene.inputs, limit=scene.limit, step=self.step_size * scene.limit, steps=self.steps, rng=rng.child("start"))
        return Restart(noise=noise, matches=matches, labels=torch.full((len(scene.inputs),), scene.label), losses=[], rng=rng)

    def _take_step(self, restart: Restart, step: int) -> None:
        noise, losses = restart.noise, list[float]()
        gradient, draws = torch.zeros_like(noise.clean), torch.rand(len(noise.clean), 3, generator=restart.rng.child(f"augment/{step}").torch())
        for part in torch.arange(len(noise.clean)).split(self.batch_size):
            shown = augmented(noise.images[part], draws[part], self.shift, flip=self.flip)
            pulls = [match.pull(shown.detach(), restart.labels[part]) for match in restart.matches]
            gradient += torch.autograd.grad(shown, noise.values, torch.stack([pull.gradient for pull in pulls]).mean(0))[0]
            losses += [pull.loss for pull in pulls]
        noise.follow(gradient)
        restart.losses.append(sum(losses) / len(losses))


@dataclass(eq=False, kw_only=True)
class Restart:
    """One start of the optimisation.

    Args:
        noise: the noise so far.
        matches: one for each surrogate.
        labels: (R,), all the wished class.
        losses: of each step so far.
        rng: of this restart.
    """

    noise: Noise
    matches: list[Match]
    labels: Tensor
    losses: list[float]
    rng: Key

    def recent(self, steps: int) -> float:
        """Return the mean loss of the last steps."""
        last = self.losses[-steps:]
        return sum(last) / len(last)


class Pull(NamedTuple):
    """1 - cosine, and its (B, C, H, W) gradient with respect to the inputs."""

    loss: float
    gradient: Tensor


class Match:
    """The gradient that poisons shall have at one surrogate.

    Args:
        module: the surrogate, in full precision.
        target: (1, C, H, W), lifted.
        wish: (1,), the wished label.
        label_smoothing: of the loss.
        context: (N, C, H, W), lifted clean rows beside the inputs; without any, the surrogate is in evaluation mode.
    """

    def __init__(self, module: Differentiable, target: Tensor, wish: Tensor, label_smoothing: float, context: Tensor) -> None:
        self.module, self.label_smoothing, self.context = (as_in_training(module) if len(context) else module), label_smoothing, context
        module = self.module
        learned = [weight for weight in module.parameters() if weight.requires_grad]
        self.wanted = torch.cat([part.flatten() for part in torch.autograd.grad(self._loss(module, target, wish), learned)])
        self.wanted /= self.wanted.norm().clamp_min(1e-12)
        self._away = copy.deepcopy(module)  # its weights are moved at each step, those of the surrogate never
        self._weights = [weight.detach() for weight in module.parameters() if weight.requires_grad]
        self._moved = [weight.detach() for weight in self._away.parameters() if weight.requires_grad]
        self._size = float(torch.cat([weight.flatten() for weight in self._weights]).norm())
        for weight in self._away.parameters():
            weight.requires_grad_(False)

    def pull(self, inputs: Tensor, labels: Tensor) -> Pull:
        """Return the loss of (B, C, H, W) inputs and its gradient: a difference of input gradients along the gradient of the loss by g.

        With g the parameter gradient of the inputs and w the wanted one, of norm 1, the gradient of 1 - cos(g, w) by g is (cos g/|g| - w) / |g|.
        """
        inputs = inputs.detach().requires_grad_()
        learned = [weight for weight in self.module.parameters() if weight.requires_grad]
        *parts, here = torch.autograd.grad(self._loss(self.module, inputs, labels), [*learned, inputs])
        own = torch.cat([part.flatten() for part in parts])
        size = own.norm().clamp_min(1e-12)
        cosine = own @ self.wanted / size
        direction = (cosine * own / size - self.wanted) / size
        reach = REACH * self._size / float(direction.norm().clamp_min(1e-12))
        for moved, weight, part in zip(self._moved, self._weights, direction.split([weight.numel() for weight in self._weights]), strict=True):
            torch.add(weight, part.view_as(weight), alpha=reach, out=moved)
        (there,) = torch.autograd.grad(self._loss(self._away, inputs, labels), inputs)
        return Pull(loss=1 - float(cosine), gradient=(there - here) / reach)

    def _loss(self, module: Differentiable, inputs: Tensor, labels: Tensor) -> Tensor:
        scores = module(torch.cat([inputs, self.context]))[: len(inputs)] if len(self.context) else module(inputs)
        return F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)


def as_in_training(module: Differentiable) -> Differentiable:
    """Return a copy that normalises with the statistics of the batch; the model stays as it is.

    Raises:
        ConfigError: a surrogate that is no torch module.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError("attack.data.context: this surrogate has no training mode; set attack.data.context=0")
    twin = copy.deepcopy(module).train()
    assert isinstance(twin, nn.Module)
    return twin
