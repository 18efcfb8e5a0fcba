"""Crafting poisons by gradient matching, against the plain loop: one restart after the other, each step a double backward pass in float32.

Shape letters: R poisons, C channels, H height, W width.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks._options import Options
from benchmarks._timing import in_turns
from poisonbench.config.compose import tree_of
from poisonbench.core.plugins import adopt_own_packages
from poisonbench.core.rng import Key
from poisonbench.learn.central import NetVictim
from poisonbench.report.benchmarks import Comparison
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store

LIMIT, STEP_SIZE, VIEWS = 16.0, 0.1, 20
SHIFT = {"digits": 1.0, "cifar10": 2.0}  # about what the recipe of the victim does


def measure(options: Options, *, steps: int = 48, restarts: int = 8, repeats: int = 1) -> Iterator[Comparison]:
    """Yield the comparisons for one restart and for all, on digits and, with --data, on CIFAR-10; seed 100."""
    adopt_own_packages()
    tasks: list[tuple[str, ...]] = [("task=digits", "learner=small")]
    if options.data is not None:
        tasks.append(("task=cifar10", "task.limit=10000", f"task.root={options.data / 'cifar10'}", "learner=quick"))
    for words in tasks:
        with tempfile.TemporaryDirectory() as folder:
            for several in (1, restarts):
                yield _compared(words, Store(Path(folder)), steps=steps, restarts=several, repeats=repeats)


def _compared(words: Sequence[str], store: Store, *, steps: int, restarts: int, repeats: int) -> Comparison:
    name, flip = words[0].partition("=")[2], words[0] == "task=cifar10"
    fields = {"steps": steps, "restarts": restarts, "shift": SHIFT[name], "flip": str(flip).lower(), "step_size": STEP_SIZE, "halve_every": steps // 12}
    asked = ["seed=100", f"threads={torch.get_num_threads()}", *words, "attack=gradient_matching", f"threat.budget.limit={LIMIT}"]
    line = Line(experiment=assemble(tree_of([*asked, *(f"attack.data.{field}={value}" for field, value in fields.items())]), store), store=store)
    known, ours = line.known(), line.experiment.attack.data
    assert dataclasses.is_dataclass(ours)
    victim = known.fit(known.rows)  # trained once, before the clock starts
    assert isinstance(victim, NetVictim)
    mask = dataclasses.replace(ours, steps=1, restarts=1).poison(known, Key.root(100)).mask
    plain = PlainLoop(
        net=victim.net,
        images=known.rows.inputs[mask].float(),
        label=int(known.rows.labels[mask][0]),
        target=known.targets.inputs.float(),
        steps=steps,
        restarts=restarts,
        shift=SHIFT[name],
        flip=flip,
    )
    poisons = dict[str, Tensor]()

    def craft() -> None:
        poisoned = ours.poison(known, Key.root(100))
        poisons["ours"] = poisoned.data.inputs[poisoned.mask]

    def craft_plainly() -> None:
        poisons["plain"] = plain.best()

    costs = in_turns(craft, craft_plainly, repeats=repeats, warm_up=False)
    losses = {f"loss_{side}": plain.loss(found) for side, found in poisons.items()}
    return Comparison(
        work=f"gradient matching, {name}, {words[-1]}, {len(plain.images)} poisons, {steps} steps, restarts: {restarts}, one target",
        ours="attack=gradient_matching" if restarts == 1 else f"attack=gradient_matching, the worse half of the restarts dropped every {steps // 12} steps",
        alternative="one restart after the other, double backward pass in float32",
        unit="s",
        ours_cost=costs.ours,
        alternative_cost=costs.alternative,
        note=f"final loss of ours {losses['loss_ours']:.3f}, of the alternative {losses['loss_plain']:.3f}",
        facts={**costs.cpu, **losses},
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class PlainLoop:
    """The attack as its paper describes it.

    Args:
        net: the surrogate.
        images: (R, C, H, W) float32 base rows.
        label: their label, which the target shall get.
        target: (1, C, H, W) float32.
        steps: of each restart.
        restarts: independent starts.
        shift: largest shift in pixels.
        flip: mirror at random.
    """

    net: nn.Module
    images: Tensor
    label: int
    target: Tensor
    steps: int
    restarts: int
    shift: float
    flip: bool

    def best(self) -> Tensor:
        """Return the (R, C, H, W) uint8 poisons of the restart with the lowest final loss."""
        wanted = self._gradient(self.target, graph=False)
        found = [self._restart(wanted, Key.root(101).child(str(number)).torch()) for number in range(self.restarts)]
        return min(found, key=lambda each: each[1])[0]

    def loss(self, poisons: Tensor) -> float:
        """Return the loss of finished poisons, averaged over the same random views for both sides."""
        wanted, generator = self._gradient(self.target, graph=False), Key.root(102).torch()
        return sum(float(self._mismatch(poisons.float(), wanted, generator).detach()) for _ in range(VIEWS)) / VIEWS

    def _restart(self, wanted: Sequence[Tensor], generator: torch.Generator) -> tuple[Tensor, float]:
        noise = (torch.randn(self.images.shape, generator=generator) * LIMIT).clamp(-LIMIT, LIMIT).requires_grad_()
        optimizer = torch.optim.Adam([noise], lr=STEP_SIZE * LIMIT)
        falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, [self.steps * 3 // 8, self.steps * 5 // 8, self.steps * 7 // 8])
        last = 0.0
        for _ in range(self.steps):
            with torch.no_grad():
                noise.copy_((self.images + noise.clamp(-LIMIT, LIMIT)).clamp(0, 255) - self.images)
            loss = self._mismatch(self.images + noise, wanted, generator)
            noise.grad = torch.autograd.grad(loss, noise)[0].sign()
            optimizer.step()
            falls.step()
            last = float(loss.detach())
        noise = noise.detach().round().clamp(-LIMIT, LIMIT)
        return (self.images + noise).clamp(0, 255).to(torch.uint8), last

    def _mismatch(self, images: Tensor, wanted: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        own = self._gradient(self._augmented(images, generator), graph=True)
        dot, size, norm = (sum((one * other).sum() for one, other in zip(*pair, strict=True)) for pair in ((own, wanted), (own, own), (wanted, wanted)))
        return torch.as_tensor(1 - dot / (size * norm) ** 0.5)

    def _gradient(self, images: Tensor, *, graph: bool) -> tuple[Tensor, ...]:
        weights = [weight for weight in self.net.parameters() if weight.requires_grad]
        loss = F.cross_entropy(self.net(images), torch.full((len(images),), self.label))
        return torch.autograd.grad(loss, weights, create_graph=graph)

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        draws = torch.rand(len(images), 3, generator=generator)
        theta = torch.eye(2, 3).repeat(len(images), 1, 1)
        theta[:, :, 2] = (2 * draws[:, :2] - 1) * self.shift * 2 / images.shape[-1]
        theta[:, 0, 0] = torch.where((draws[:, 2] < 0.5) & torch.tensor(self.flip), -1.0, 1.0)
        return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
