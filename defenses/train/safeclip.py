"""SafeCLIP: only pairs that fit each other well train the link between pictures and captions.

Shape letters: N rows, B rows of a batch, S safe rows of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from defenses.views import Views
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, ChangedObjective, Moment, Network, Objective, PlainStep, Plan
from poisonbench.core.rng import Key
from poisonbench.forms.pixels import PICTURES
from poisonbench.forms.prompts import CAPTION
from poisonbench.nets.towers import PairNet, pair_net

NAME = "defense=safeclip"
STATE = "_safeclip"  # attribute of the module, a `State`
CHUNK = 500  # rows in one forward pass


class State:
    """What the step remembers.

    Attributes:
        safe: ids of the rows whose pairs are trained on.
        before: the weights before the last step of the slow epoch; empty in other epochs.
        first: safe rows / rows at the first split.
        last: the same in this epoch.
    """

    def __init__(self) -> None:
        self.safe = torch.zeros(0, dtype=torch.int64)
        self.before: list[Tensor] = []
        self.first = self.last = 0.0


@dataclass(frozen=True, kw_only=True)
class SafeStep(PlainStep):
    """Train on safe pairs as usual; the pictures and the captions of all others are only compared with views of themselves.

    Source: Yang, Gao, Mirzasoleiman, "Better Safe than Sorry: Pre-training CLIP against Targeted Data Poisoning and Backdoor Attacks", ICML 2024
    (SafeCLIP). The first `warmup` epochs have losses inside each modality alone, the next one the loss between pictures and captions with a small
    learning rate, on all pairs. Then a mixture of two Gaussians is fitted to the cosines of all pairs. As many pairs are safe as belong to the
    component with the larger mean with a probability above `threshold`: those with the largest cosines. Before each further epoch the safe set is
    chosen anew: the pairs with the largest cosines, as many as before and `grow` of all rows more, up to the share `most`.

    Differences: the losses inside a modality compare a row with a view of itself alone (`defenses.views.Views`). A batch has safe and other rows, each
    compared with its like in the batch; the authors train on one set after the other. The small learning rate shortens each step of that epoch after
    the optimiser made it, and the default does not slow it (`slow=1`), because an epoch of a small data set has few steps.

    Args:
        warmup: epochs with losses inside each modality alone, 0 or more.
        slow: factor of the learning rate in the epoch after these, in (0, 1].
        threshold: probability above which a pair is safe at the first split, in (0, 1).
        grow: share of the rows that join the safe set in each further epoch, in [0, 1] (an early version of the authors' code: 0.05).
        most: largest share of safe rows, in (0, 1] (there: 0.95).
        views: how pictures and captions are changed.
    """

    VERSION: ClassVar[int] = 1
    READS: ClassVar[frozenset[str]] = PICTURES
    COLUMNS: ClassVar[tuple[str, ...]] = (CAPTION,)
    warmup: int
    slow: float
    threshold: float
    grow: float
    most: float
    views: Views

    def __post_init__(self) -> None:
        """Check that the fields are in range."""
        if not (self.warmup >= 0 and 0 < self.slow <= 1 and 0 < self.threshold < 1 and 0 <= self.grow <= 1 and 0 < self.most <= 1):
            asked = f"warmup={self.warmup}, slow={self.slow}, threshold={self.threshold}, grow={self.grow}, most={self.most}"
            raise ConfigError(f"defense.train.step: {asked}; warmup is 0 or more, threshold lies in (0, 1), slow and most in (0, 1], grow in [0, 1]")

    def check(self, module: nn.Module, plan: Plan) -> None:
        """Refuse all but models of pictures and captions, and a training that ends before the first split.

        Raises:
            Incompatible: another model.
            ConfigError: too few epochs.
        """
        pair_net(module, NAME)
        if plan.epochs < self.warmup + 2:
            raise ConfigError(f"defense.train.step.warmup={self.warmup}: the training has {plan.epochs} epochs; give two fewer than that at most")

    def begin(self, module: nn.Module, trusted: Dataset) -> None:
        """Start with no safe pair."""
        setattr(module, STATE, State())

    def sample(self, batches: Iterable[Tensor], data: Dataset, moment: Moment) -> Iterable[Tensor]:
        """Split the pairs, and keep the plan."""
        state, module = state_of(moment.module), moment.module
        self._shorten(state, module)
        state.before = [weight.detach().clone() for weight in module.parameters()] if moment.epoch == self.warmup else []
        state.safe = data.ids if moment.epoch == self.warmup else data.ids[:0]
        if moment.epoch > self.warmup:
            fit = cosines(pair_net(module, NAME), data)
            if moment.epoch == self.warmup + 1:
                state.first = min(float((likely(fit, moment.rng.child("mixture")) > self.threshold).double().mean()), self.most)
            state.last = min(state.first + self.grow * (moment.epoch - self.warmup - 1), self.most)
            state.safe = data.ids[fit.argsort(descending=True, stable=True)[: round(state.last * len(data))]]
        return batches

    def rows(self, batch: Batch, moment: Moment) -> Batch:
        """Shorten the step before this one, and keep the rows."""
        self._shorten(state_of(moment.module), moment.module)
        return batch

    def _shorten(self, state: State, module: nn.Module) -> None:
        with torch.no_grad():
            for old, weight in zip(state.before, module.parameters() if state.before else (), strict=True):
                weight.copy_(old.lerp(weight, self.slow))
                old.copy_(weight)

    def objective(self, objective: Objective, moment: Moment) -> Objective:
        """Return the objective of safe pairs, with losses inside each modality for all others."""
        net, safe = pair_net(moment.module, NAME), state_of(moment.module).safe
        return Divided(inner=objective, net=net, safe=safe, views=self.views, rng=moment.rng.child("views"))

    def finish(self, module: nn.Module, plan: Plan) -> Mapping[str, object]:
        """Return the share of safe pairs at the first and at the last split."""
        state = state_of(module)
        delattr(module, STATE)
        return {"safe_first": state.first, "safe_last": state.last}


def state_of(module: nn.Module) -> State:
    """Return what the step remembers."""
    state = getattr(module, STATE)
    assert isinstance(state, State)
    return state


@dataclass(frozen=True, eq=False, kw_only=True)
class Divided(ChangedObjective):
    """An objective for the safe rows of a batch, and losses inside each modality for all others.

    Args:
        inner: the objective of safe pairs.
        net: the model in training.
        safe: ids of the safe rows.
        views: how pictures and captions are changed.
        rng: of this step.
    """

    VERSION: ClassVar[int] = 1
    net: PairNet
    safe: Tensor
    views: Views
    rng: Key

    def __call__(self, network: Network, batch: Batch, label_smoothing: float) -> Tensor:
        """Return (B,) losses; safe rows are compared with safe rows, and all others with all others."""
        safe = torch.isin(batch.ids, self.safe)
        return batch.parted(safe, lambda some: self.inner(network, some, label_smoothing), lambda some: self.views.unimodal(self.net, some, self.rng))


def cosines(net: PairNet, data: Dataset) -> Tensor:
    """Return (N,), the cosine of each picture and its caption; the model is in training mode before and after."""
    net.eval()
    with torch.no_grad():
        parts = zip(data.inputs.split(CHUNK), data.extra[CAPTION].split(CHUNK), strict=True)
        each = [(net.pictures(data.form.ready(inputs)) * net.captions(captions)).sum(1) for inputs, captions in parts]
    net.train()
    return torch.cat(each)


def likely(cosines_N: Tensor, rng: Key) -> Tensor:
    """Return (N,), the probability of each row to belong to the component with the larger mean of two Gaussians that are fitted to the cosines."""
    from sklearn.mixture import GaussianMixture  # takes a second to import

    points = cosines_N.double().cpu().numpy()[:, None]
    mixture = GaussianMixture(2, random_state=rng.seed % 2**32).fit(points)
    return torch.from_numpy(mixture.predict_proba(points)[:, mixture.means_[:, 0].argmax()]).to(cosines_N.device)
