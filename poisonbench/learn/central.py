"""The recipe of a training in one place, and the network that it trains; the loop is in `loop.py`.

Shape letters: N rows, M test rows, K classes, D features.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import (
    Anchored,
    Batch,
    Combine,
    Differentiable,
    Fitted,
    Moment,
    Objective,
    Plan,
    State,
    Step,
    Trained,
    Victim,
    asked_of,
    fit_each,
    score_each,
)
from poisonbench.core.plugins import check_arguments
from poisonbench.core.precision import is_full
from poisonbench.core.proof import Looks
from poisonbench.core.rng import Key, seeded
from poisonbench.learn import device, distributed
from poisonbench.learn.augment import Augmentation
from poisonbench.learn.distributed import Crew, crew
from poisonbench.learn.loop import Training
from poisonbench.learn.objectives import CROSS_ENTROPY
from poisonbench.learn.stacked import fit_stacked
from poisonbench.learn.stacked_layers import How
from poisonbench.nets.net import FeatureNet, Net
from poisonbench.nets.text import TextNet

EVAL_BATCH = 500
NO_ROWS = torch.zeros(0, dtype=torch.int64)
SAYS = {
    "classes": "scores of classes",
    "words": "scores of the next word",
    "pairs": "similarities of pictures and captions",
    "pictures": "pictures",
    "velocities": "velocities of codes",
}
GIVEN_BY = {
    "classes": "another network, such as net=small or net=text_cnn",
    "words": "net=gpt",
    "pairs": "net=towers",
    "pictures": "that of learner=text_to_image",
    "velocities": "that of learner=text_to_image",
}


@dataclass(frozen=True, kw_only=True)
class Central:
    """One model, trained on all rows with SGD and Nesterov momentum; the last epoch counts.

    The learning rate falls to zero over all epochs, unless it is constant: a schedule that is cut short is a common
    reason why published figures cannot be reproduced. Weight decay does not act on biases and normalisation.

    Args:
        net: the network's recipe.
        epochs: passes over the data.
        batch_size: largest number of rows of a step; the steps of an epoch are of nearly equal size.
        lr: largest learning rate.
        momentum: of SGD, with Nesterov's correction.
        weight_decay: of the weights of convolutions and linear layers.
        schedule: "one_cycle" (warm-up over the first `warmup` of the steps, then cosine), "cosine", or "constant".
        warmup: share of the steps, for "one_cycle".
        label_smoothing: in [0, 1).
        crop: largest random shift, in pixels; 0 is off.
        flip: mirror left to right at random.
        cutout: side of the erased square, in pixels; 0 is off.
        precision: "bf16" autocasts where the processor has native bfloat16, "fp32" never.
        steps: the steps that attacks and defenses add to the loop.
        bias_lr: learning rate of biases and of the shift of a normalisation, divided by `lr`.
        alternate: with `flip`, mirror each row in every second epoch instead of at random: half of the rows in the
            first epoch, the others in the next.
        mirror: in evaluation, average the scores of a picture and its mirror image (test-time augmentation).
        stack: how `fit_many` trains: "loop" (one after the other), or in one pass by "grouped", "unfold" or "vmap"
            (`learn/stacked.py`); equal up to rounding.
        stack_members: how many members train in one pass; None is as many as fit into a processor's cache.
        lookahead: steps between two averages of the weights (`learn/averaging.py`); 0 is off.
        objective: what is minimised; stacks minimise the cross-entropy.
        optimizer: "sgd", or "adamw", which has its own constants and ignores `momentum`.
        clip: largest length of the gradient of all weights together; 0 is no limit.
        history_every: epochs from one kept model to the next, counted back from the last; 0 keeps the last one alone. Curves over epochs are computed
            from the kept models.
        ddp: split every batch among the processes that torchrun started; equal to one process up to rounding.
        device: "auto", "cpu" or "cuda".
    """

    VERSION: ClassVar[int] = 1
    LOOKS_AT: ClassVar[Looks] = "nothing"  # its steps declare separately what they look at
    net: Net
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["one_cycle", "cosine", "constant"]
    warmup: float
    label_smoothing: float
    crop: int
    flip: bool
    cutout: int
    precision: Literal["fp32", "bf16"]
    steps: tuple[Step, ...] = ()
    bias_lr: float = field(default=1.0, metadata={"spec": "changed"})
    alternate: bool = field(default=False, metadata={"spec": "changed"})
    mirror: bool = field(default=False, metadata={"spec": "changed"})
    stack: How = field(default="loop", metadata={"spec": "changed"})
    stack_members: int | None = field(default=None, metadata={"spec": "changed"})
    lookahead: int = field(default=0, metadata={"spec": "changed"})
    objective: Objective = field(default=CROSS_ENTROPY, metadata={"spec": "changed"})
    optimizer: Literal["sgd", "adamw"] = field(default="sgd", metadata={"spec": "changed"})
    clip: float = field(default=0.0, metadata={"spec": "changed"})
    history_every: int = field(default=0, metadata={"spec": "changed"})
    ddp: bool = field(default=False, metadata={"spec": "changed"})
    device: str = field(default="auto", metadata={"spec": False})

    def __post_init__(self) -> None:
        """Refuse recipes that cannot be trained."""
        for name, range_, holds in self._ranges():
            if not holds:
                raise ConfigError(f"learner.{name}={getattr(self, name)}: give {range_}")
        if self.stack not in ("loop", "grouped", "unfold", "vmap") or (self.stack_members is not None and self.stack_members < 1):
            raise ConfigError(
                f"learner.stack={self.stack}, learner.stack_members={self.stack_members}: choose loop, grouped, unfold or vmap, and 1 member or more"
            )
        if self.lookahead < 0 or (self.lookahead and self.stack != "loop"):
            raise ConfigError(
                f"learner.lookahead={self.lookahead}, learner.stack={self.stack}: give 0 steps or more, and learner.stack=loop, because stacks do not average"
            )
        if self.history_every < 0 or (self.history_every and self.stack != "loop"):
            asked = f"learner.history_every={self.history_every}, learner.stack={self.stack}"
            raise ConfigError(f"{asked}: give 0 epochs or more, and learner.stack=loop, because stacks keep the last model alone")
        if self.stack != "loop" and (self.objective != CROSS_ENTROPY or self.optimizer != "sgd" or self.clip):
            raise ConfigError(f"learner.stack={self.stack}: a stack minimises the cross-entropy alone, by SGD without clip; set learner.stack=loop")
        if self.ddp and self.steps:
            raise ConfigError("learner.ddp=true: attacks and defenses that act on single training steps need one process; leave learner.ddp=false")

    def _ranges(self) -> Iterator[tuple[str, str, bool]]:
        """Yield each field, its allowed values, and whether its value is allowed."""
        yield from ((name, "a whole number of 1 or more", getattr(self, name) >= 1) for name in ("epochs", "batch_size"))
        yield "lr", "a finite number above 0", 0 < self.lr < math.inf
        yield from ((name, "a number in [0, 1)", 0 <= getattr(self, name) < 1) for name in ("momentum", "label_smoothing"))
        yield "warmup", "a number in (0, 1)", 0 < self.warmup < 1
        finite = ("crop", "cutout", "weight_decay", "bias_lr", "clip")
        yield from ((name, "a finite number of 0 or more", 0 <= getattr(self, name) < math.inf) for name in finite)

    @property
    def stages(self) -> frozenset[str]:
        """All slots except those of federated rounds and of certificates."""
        return frozenset({"attack.data", "attack.train", "defense.sanitize", "defense.train", "defense.repair", "defense.screen"})

    @property
    def runtime(self) -> Mapping[str, str | int]:
        """Device type, threads, versions, and processes if there are several."""
        return {**device.runtime(self.device), **({"processes": self._crew().size} if self.ddp else {})}

    @property
    def augmentation(self) -> Augmentation:
        """The random changes of image rows."""
        return Augmentation(crop=self.crop, flip=self.flip, cutout=self.cutout, alternate=self.alternate, mirror=self.mirror)

    def victim(self) -> type[NetVictim]:
        """Return the class of the victims; another one for networks that answer in another way."""
        return NetVictim

    def _crew(self) -> Crew:
        return crew(self.device) if self.ddp else Crew()

    def with_step(self, step: Step) -> Central:
        """Return this recipe with one more step in its chain."""
        return dataclasses.replace(self, steps=(*self.steps, step))

    def with_epochs(self, epochs: int) -> Central:
        """Return this recipe with another number of epochs."""
        return dataclasses.replace(self, epochs=epochs)

    def with_public(self, public: Dataset, fit: Fitted | None) -> Central:
        """Return this recipe; its steps have the public rows, and it learns nothing else from them."""
        return dataclasses.replace(self, steps=tuple(step.with_public(public) for step in self.steps))

    def check(self, data: Dataset, combine: Combine) -> None:
        """Build the network once, so that it can refuse the inputs; then let each step refuse."""
        check_arguments(self.net, "build", "like")
        with seeded(Key.root(0)):
            module = self.net.build(data)
        plan = self._agreed(data, combine)
        if self.stack in ("grouped", "unfold") and not module.stackable:
            raise ConfigError(f"learner.stack={self.stack}: your own network may mix the members of a stack; use loop or vmap")
        check_says(module, self.objective)
        _fits(module, plan)
        if self.ddp:
            distributed.check(module, self.device, plan.rows // plan.steps)
        objective, first = self.objective, Moment(module=module, plan=plan, epoch=0, step=0, rng=Key.root(0))
        for step in self.steps:
            step.check(module, plan)
            step.begin(module, combine.trusted)
            objective = step.objective(objective, first)
            check_says(module, objective, step)
        self._measured(data)

    def begin(self, data: Dataset, rng: Key) -> NetVictim:
        """Return a victim with initial weights and input statistics; these are of `data` unless a step measures other rows."""
        measured = self._measured(data)
        with seeded(rng.child("init")):
            module = self.net.build(data)
        module.prepare(measured.inputs)
        return self.victim()(built=self._placed(module).eval(), like=data.take(NO_ROWS), facts={}, learner=self)

    def fit(self, data: Dataset, combine: Combine, rng: Key, start: Victim | None = None) -> NetVictim:
        """Train on `data`; there is one contributor, and only the clean rows of `combine` are used.

        Raises:
            Diverged: a loss that is not finite; names the epoch and the step.
        """
        module = (self.begin(data, rng) if start is None else self.restore(Trained.of(start), data, combine)).net
        plan, recipe = self._agreed(data, combine), self._anchored(module)
        facts: dict[str, object] = {"epochs": self.epochs, "steps": self.epochs * plan.steps}
        facts |= {"history_every": self.history_every} if self.history_every else {}
        for step in self.steps:
            step.check(module, plan)
            step.begin(module, combine.trusted)
        _fits(module, plan)
        place = device.resolve(self.device)
        data = data.with_columns({name: column.to(place) for name, column in data.columns.items()})
        history = Training(recipe=recipe, module=module, data=data, plan=plan, rng=rng, crew=self._crew()).run()
        for step in reversed(self.steps):
            facts |= step.finish(module, plan)
        return self.victim()(built=module.eval(), like=data.take(NO_ROWS.to(place)), facts=facts, learner=self, history=history)

    def fit_many(self, parts: Sequence[Dataset], combine: Combine, rngs: Sequence[Key], start: Victim | None = None) -> Sequence[Victim]:
        """Train one victim per part; in a stack if the recipe says so, there are several parts, and no steps of attacks or defenses."""
        if self.stack == "loop" or self.steps or len(parts) == 1:
            return fit_each(self, parts, combine, rngs, start)
        return fit_stacked(self, parts, combine, rngs, start)

    def scores_many(self, victims: Sequence[Victim], inputs: Tensor) -> Iterator[Tensor]:
        """Score with one victim after the other."""
        return score_each(victims, inputs)

    def restore(self, trained: Trained, like: Dataset, combine: Combine) -> NetVictim:
        """Rebuild a victim; its network is built on first use, and never if its scores are in the store."""
        return self.victim()(like=like.take(NO_ROWS), weights=trained.state, facts=trained.facts, learner=self, history=trained.history)

    def untrained(self, like: Dataset) -> FeatureNet:
        """Return a network whose weights will be replaced."""
        with seeded(Key.root(0)):
            module = self.net.build(like)
        return self._placed(module).eval()

    def _placed(self, module: FeatureNet) -> FeatureNet:
        return module.to(device.resolve(self.device)).to(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        """Return the context in which this recipe computes."""
        place = device.resolve(self.device)
        wanted = self.precision == "bf16" and device.has_bf16(place) and not is_full()
        return torch.autocast(place, torch.bfloat16, enabled=wanted)

    def planned(self, data: Dataset) -> Plan:
        """Return how many epochs and steps a training on `data` takes."""
        return self._plan(len(data), tuple(data.inputs.shape[1:]))

    def _plan(self, rows: int, shape: tuple[int, ...]) -> Plan:
        return Plan(rows=rows, epochs=self.epochs, steps=math.ceil(rows / self.batch_size), shape=shape)

    def _anchored(self, module: FeatureNet) -> Central:
        """Return this recipe; if its objective compares with the model before the training, it has a copy of that model, which is not trained."""
        if not isinstance(self.objective, Anchored):
            return self
        start = copy.deepcopy(module).eval().requires_grad_(False)

        def network(inputs: Tensor) -> Tensor:
            with self.autocast():
                outputs: Tensor = start(inputs)
            return outputs

        return dataclasses.replace(self, objective=self.objective.anchored(network))

    def _agreed(self, data: Dataset, combine: Combine) -> Plan:
        """Return the plan, as the steps change it."""
        plan = self.planned(data)
        clean = self._plan(len(combine.clean), plan.shape)
        for step in self.steps:
            plan = step.planned(plan, clean)
        return plan

    def _measured(self, data: Dataset) -> Dataset:
        """Return the rows that input statistics are measured on."""
        for step in self.steps:
            data = step.measured(data)
        return data

    def factor(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, divided by the largest."""
        warm = self.warmup * steps if self.schedule == "one_cycle" else 0.0
        if self.schedule == "constant":
            return 1.0
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1.0, steps - warm)))


@dataclass(frozen=True, eq=False, kw_only=True)
class NetVictim:
    """A trained network.

    Args:
        built: from inputs to scores, in evaluation mode, on the learner's device; None builds one on first use.
        like: no rows of the kind that the network takes.
        facts: facts about the training.
        learner: the recipe, for its device and precision.
        history: states during the training.
        weights: replace those of `built`, on the CPU; a network with them is built on first use, so that a thousand victims
            of one architecture need memory only for their weights.
    """

    built: FeatureNet | None = None
    like: Dataset
    facts: Mapping[str, object]
    learner: Central
    history: Sequence[State] = ()
    weights: State | None = None

    @cached_property
    def net(self) -> FeatureNet:
        """From inputs to scores."""
        if self.weights is None:
            assert self.built is not None
            return self.built
        with torch.inference_mode(False):  # the first caller may be in inference mode, a later one may need gradients
            net = self.learner.untrained(self.like) if self.built is None else copy.deepcopy(self.built)
            net.load_state_dict(dict(self.weights))
        return net

    @property
    def module(self) -> Differentiable:
        """The network for CPU tensors, in the precision of its recipe."""
        return _PortableWords(self.net, self.learner) if isinstance(self.net, TextNet) else _Portable(self.net, self.learner)

    def scores(self, inputs: Tensor) -> Tensor:
        """Return (M, K) float32 scores."""
        return torch.cat([self._asked(batch).float().cpu() for batch in self._batches(inputs)])

    def _asked(self, batch: Tensor) -> Tensor:
        views = [self.net(view) for view in self.learner.augmentation.views(batch, self.like.form)]
        scores: Tensor = views[0] if len(views) == 1 else sum(views) / len(views)
        return scores

    def features(self, inputs: Tensor, layer: str = "penultimate") -> Tensor:
        """Return (M, D) float32, the inputs of the last linear layer.

        Raises:
            ConfigError: another layer.
        """
        if layer != "penultimate":
            raise ConfigError(f"layer={layer}: this network has penultimate features only")
        return torch.cat([self.net.features(batch).float().cpu() for batch in self._batches(inputs)])

    def losses(self, data: Dataset) -> Tensor:
        """Return (N,) float32, the recipe's objective of each row without augmentation and label smoothing; see `RowLosses`."""
        place, found = device.resolve(self.learner.device), [torch.zeros(0)]
        for rows in torch.arange(len(data)).split(EVAL_BATCH):
            columns = {name: column[rows].to(place) for name, column in data.columns.items()}
            inputs = device.laid_out(data.form.ready(columns.pop("inputs")))
            labels, ids, _ = (columns.pop(name) for name in ("labels", "ids", "owners"))
            with torch.inference_mode(), self.learner.autocast():
                found.append(self._each(Batch(inputs=inputs, labels=labels, ids=ids, form=data.form, extra=columns)).float().cpu())
        return torch.cat(found)

    def _each(self, batch: Batch) -> Tensor:
        """Return (B,) losses that do not depend on the other rows of the batch."""
        return self.learner.objective(self.net, batch, 0.0)

    def state(self) -> State:
        """Return parameters and buffers on the CPU."""
        if self.weights is not None:
            return self.weights
        return {name: value.detach().cpu().contiguous() for name, value in self.net.state_dict().items()}

    def become(self, trained: Trained) -> NetVictim:
        """Return a victim of this architecture with other weights."""
        return dataclasses.replace(self, weights=trained.state, facts=trained.facts, history=trained.history)

    def silenced(self, channels_D: Tensor) -> NetVictim:
        """Return a victim without these features."""
        net = copy.deepcopy(self.net)
        net.silence(channels_D)
        return dataclasses.replace(self, built=net, weights=None)

    def _batches(self, inputs: Tensor) -> Iterator[Tensor]:
        place = device.resolve(self.learner.device)
        with torch.inference_mode(), self.learner.autocast():
            for batch in inputs.split(EVAL_BATCH):
                yield device.laid_out(self.like.form.ready(batch.to(place)))


def check_says(net: FeatureNet, objective: Objective, step: Step | None = None) -> None:
    """Refuse a network that does not give what an objective asks for: that of the recipe, or what a step makes of it.

    Raises:
        Incompatible: what to choose.
    """
    name, asked = type(objective).__name__, asked_of(objective)
    if net.says == asked:
        return
    if step is None:
        raise Incompatible(f"this network gives {SAYS[net.says]}, and learner.objective={name} needs {SAYS[asked]}; use {GIVEN_BY[asked]}")
    fault = f"this network gives {SAYS[net.says]}, and {type(step).__name__} minimises {name}, which needs {SAYS[asked]}"
    raise Incompatible(f"{fault}; choose another defense, or use {GIVEN_BY[asked]}")


def _fits(net: FeatureNet, plan: Plan) -> None:
    """Refuse batches of one row for a network that cannot be trained on them.

    Raises:
        ConfigError: says what to change.
    """
    if plan.rows < 2 * plan.steps and not net.alone:
        raise ConfigError(
            f"{plan.rows} rows in {plan.steps} batches: your network cannot train on a batch of one row; raise learner.batch_size, or use another normalisation"
        )


class _Portable(nn.Module):
    def __init__(self, inner: FeatureNet, learner: Central) -> None:
        super().__init__()
        self.inner, self.learner = inner, learner

    def lift(self, inputs: Tensor) -> Tensor:
        return self.inner.lift(inputs.to(device.resolve(self.learner.device))).cpu()

    def features(self, inputs: Tensor) -> Tensor:
        return self._asked(self.inner.features, inputs)

    def activations(self, inputs: Tensor) -> list[Tensor]:
        with self.learner.autocast():
            return [layer.float().cpu() for layer in self.inner.activations(inputs.to(device.resolve(self.learner.device)))]

    def head(self, features: Tensor) -> Tensor:
        return self._asked(self.inner.head, features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self._asked(self.inner, inputs)

    def _asked(self, part: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        with self.learner.autocast():
            return part(inputs.to(device.resolve(self.learner.device))).float().cpu()


class _PortableWords(_Portable):
    inner: TextNet

    @property
    def table(self) -> Tensor:
        return self.inner.vectors.cpu()

    @property
    def known(self) -> Tensor:
        return self.inner.known.cpu()
