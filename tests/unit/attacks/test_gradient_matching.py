import copy
import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional as F

from attacks.targeted.aims import bases, head_gradients
from attacks.targeted.gradient_matching import GradientMatching, Match
from attacks.targeted.noise import Noise, augmented
from poisonbench.config.compose import tree_of
from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError
from poisonbench.core.precision import full_precision
from poisonbench.core.rng import Key
from poisonbench.learn import central
from poisonbench.runner.experiment import assemble
from poisonbench.runner.stages import Line
from poisonbench.storage.store import Store
from tests.unit.attacks.worlds import images, world


class Linear(torch.nn.Module):
    """A linear model of pixels without bias; counts how often it is called."""

    def __init__(self, kinds: int = 2, width: int = 64) -> None:
        super().__init__()
        self.last = torch.nn.Linear(width, kinds, bias=False)
        self.calls = 0
        with torch.no_grad():
            self.last.weight.copy_(torch.linspace(-1, 1, kinds * width).view(kinds, width) / width**2)

    def lift(self, inputs):
        return inputs.float()

    def features(self, inputs):
        return inputs.flatten(1)

    def head(self, features):
        return self.last(features)

    def forward(self, inputs):
        self.calls += 1
        return self.head(self.features(inputs))


@dataclasses.dataclass
class Trained:
    module: Linear | None

    def features(self, inputs):
        return inputs.float().flatten(1)

    def scores(self, inputs):
        return self.module(inputs.float()).detach()


FIELDS = tree_of(["attack=gradient_matching"])["attack"]["data"]
PLAIN = {"wish": "next", "bases": "first", "shift": 0.0, "flip": False, "restarts": 1, "step_size": 0.02}


NONE = torch.zeros(0)


def attack(**changed: object) -> GradientMatching:
    return GradientMatching(**{name: value for name, value in FIELDS.items() if name != "_target_"} | PLAIN | changed)


def smooth() -> torch.nn.Module:
    torch.default_generator.manual_seed(100)
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.GELU(), torch.nn.AvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(16, 3)]
    return torch.nn.Sequential(*layers).double().eval()


def mismatch(module, wanted, inputs, labels, label_smoothing):
    """The loss as the paper writes it, with the whole graph."""
    loss = F.cross_entropy(module(inputs), labels, label_smoothing=label_smoothing)
    own = torch.autograd.grad(loss, list(module.parameters()), create_graph=True)
    dot, size, norm = (sum((a * b).sum() for a, b in zip(left, right, strict=True)) for left, right in ((own, wanted), (own, own), (wanted, wanted)))
    return 1 - dot / (size * norm).sqrt()


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_the_difference_of_input_gradients_is_the_gradient_of_the_loss(label_smoothing):
    with torch.random.fork_rng():
        module, target, inputs, labels = smooth(), torch.rand(1, 1, 6, 6).double(), torch.rand(5, 1, 6, 6).double(), torch.tensor([2, 2, 2, 2, 2])
    wanted = torch.autograd.grad(F.cross_entropy(module(target), torch.tensor([2]), label_smoothing=label_smoothing), list(module.parameters()))
    pixels = inputs.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mismatch(module, wanted, x, labels, label_smoothing), pixels)
    exact = mismatch(module, wanted, pixels, labels, label_smoothing)
    (expected,) = torch.autograd.grad(exact, pixels)
    before = copy.deepcopy(module.state_dict())
    pull = Match(module, target, torch.tensor([2]), label_smoothing, NONE).pull(inputs, labels)
    torch.testing.assert_close(pull.gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert pull.loss == pytest.approx(float(exact.detach()), abs=1e-9)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items()), "the surrogate stays as it is"


def test_the_target_itself_matches_its_own_gradient():
    module, target = smooth(), torch.linspace(0, 1, 36).double().view(1, 1, 6, 6)
    match = Match(module, target, torch.tensor([1]), 0.0, NONE)
    assert match.pull(target, torch.tensor([1])).loss == pytest.approx(0, abs=1e-9)
    match.wanted.neg_()
    assert match.pull(target, torch.tensor([1])).loss == pytest.approx(2, abs=1e-9)


def test_with_context_the_gradient_is_that_of_a_batch_in_training_mode():
    with torch.random.fork_rng():
        module, target, inputs = smooth(), torch.rand(1, 1, 6, 6).double(), torch.rand(2, 1, 6, 6).double()
        beside, labels = torch.rand(3, 1, 6, 6).double(), torch.tensor([2, 2])
    batch = copy.deepcopy(module).train()

    class Beside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = batch

        def forward(self, x):
            return self.inner(torch.cat([x, beside]))[: len(x)]

    wanted = torch.autograd.grad(F.cross_entropy(Beside()(target), torch.tensor([2])), list(batch.parameters()))
    pixels = inputs.clone().requires_grad_()
    exact = mismatch(Beside(), wanted, pixels, labels, 0.0)
    (expected,) = torch.autograd.grad(exact, pixels)
    pull = Match(module, target, torch.tensor([2]), 0.0, beside).pull(inputs, labels)
    assert pull.loss == pytest.approx(float(exact.detach()), abs=1e-9)
    torch.testing.assert_close(pull.gradient, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not module.training
    assert int(module[1].num_batches_tracked) == 0, "the surrogate stays as it is"


def best_cosine(base, target, limit: float) -> float:
    """The largest cosine with the target inside the box: by the KKT conditions the best x is the multiple of the target, cut to the box."""
    low, high = (base - limit).clamp_min(0), (base + limit).clamp_max(255)
    multiples = torch.linspace(0, 4, 4001)[:, None] * target
    return float(F.cosine_similarity(torch.minimum(torch.maximum(multiples, low), high), target[None]).max())


def test_on_a_linear_model_of_two_classes_one_poison_reaches_the_optimum_in_closed_form():
    """Its gradient is (-1, 1) times the pixels, up to a factor, so the loss is 1 - cos(poison, target)."""
    rows = images(kinds=2)
    known = world(rows.take(torch.arange(1, 30)), target=rows.take(torch.arange(1)), fit=fit, count=1, norm="linf", limit=24.0, relabel=False)
    poisoned = attack(steps=300).poison(known, Key.root(0))
    base, poison = (data.inputs[poisoned.mask][0].flatten().float() for data in (known.rows, poisoned.data))
    target, best = known.targets.inputs.flatten().float(), best_cosine(base, known.targets.inputs.flatten().float(), 24.0)
    started = float(F.cosine_similarity(base, target, dim=0))
    reached = float(F.cosine_similarity(poison, target, dim=0))
    assert best - started > 0.02
    assert best - 1e-4 < reached < best + 1e-6


def fit(data, *, draw=0):
    return Trained(Linear())


def aimed(fit=fit, **budget: object):
    rows = images(kinds=2)
    return world(rows.take(torch.arange(1, 30)), target=rows.take(torch.arange(1)), fit=fit, norm="linf", relabel=False, **budget)


def test_the_worse_half_of_the_restarts_is_dropped_and_the_survivor_is_as_it_would_be_alone():
    counted = Linear()
    halved = attack(restarts=4, steps=10, halve_every=2).poison(aimed(lambda data, *, draw=0: Trained(counted), count=3, limit=8.0), Key.root(0))
    wanted, steps = 1, 4 * 2 + 2 * 2 + 1 * 6
    assert counted.calls == wanted + steps
    scene, whole = aimed(count=3, limit=8.0), attack(restarts=4, steps=10)
    each = [one(whole, scene, number) for number in range(4)]
    assert sum(torch.equal(halved.data.inputs[halved.mask], poisons) for poisons in each) == 1


def one(whole: GradientMatching, known, number: int):
    """The poisons of one restart alone."""

    class Only(GradientMatching):
        def _restart(self, scene, matches, rng):
            return GradientMatching._restart(self, scene, matches, Key.root(0).child(f"restart/{number}"))

    poisoned = Only(**{**dataclasses.asdict(whole), "restarts": 1}).poison(known, Key.root(0))
    return poisoned.data.inputs[poisoned.mask]


def test_surrogates_are_trained_again_on_the_poisoned_rows():
    seen = []

    def fitted(data, *, draw=0):
        seen.append((draw, data.inputs))
        return Trained(Linear())

    known = aimed(fitted, count=3, limit=8.0)
    poisoned = attack(steps=10, retrain=4, surrogates=2).poison(known, Key.root(0))
    assert [draw for draw, _ in seen] == [0, 1] * 3, "before the first step, and after 4 and 8 of 10"
    assert torch.equal(seen[0][1], known.rows.inputs)
    changed = (seen[2][1] != known.rows.inputs).flatten(1).any(1)
    assert torch.equal(changed, poisoned.mask)
    assert not torch.equal(seen[2][1], seen[4][1])


def test_base_rows_with_the_largest_gradient_are_those_that_the_surrogate_gets_most_wrong():
    data = Dataset.of(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([0, 0]), num_classes=2)

    class Fixed:
        def scores(self, inputs):
            return torch.tensor([[0.0, 0.0], [0.0, 100.0]])

        def features(self, inputs):
            return inputs

    expected = torch.tensor([0.5 * 2**0.5 * 5, 2**0.5 * 1])
    torch.testing.assert_close(head_gradients(Fixed(), data), expected)
    known = aimed(count=4, limit=8.0)
    chosen, scored = bases(known, 1, "gradient", Key.root(0), fit(None)), head_gradients(fit(None), known.rows)
    pool = (known.rows.labels == 1).nonzero()[:, 0]
    assert sorted(chosen.tolist()) == sorted(pool[scored[pool].argsort(descending=True)[:4]].tolist())


def test_poisons_are_whole_grey_levels_within_a_limit_that_is_not():
    noise = Noise(torch.tensor([[[[0, 100, 255]]]], dtype=torch.uint8), limit=7.5, step=9.0, steps=4, rng=Key.root(0))
    noise.follow(torch.tensor([[[[1.0, -1.0, -1.0]]]]))
    assert noise.values.detach().flatten().tolist() == [0.0, 7.5, 0.0]
    assert noise.poisons().flatten().tolist() == [0, 107, 255]


def test_the_step_size_falls_by_ten_at_three_points():
    noise = Noise(torch.full((1, 1, 1, 1), 100, dtype=torch.uint8), limit=100.0, step=1.0, steps=8, rng=Key.root(0))
    values = [float(noise.values.detach())]
    for _ in range(8):
        noise.follow(torch.ones(1, 1, 1, 1))
        values.append(float(noise.values.detach()))
    moves = [before - after for before, after in itertools.pairwise(values)]
    assert moves == pytest.approx([1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001], rel=0.02)


def test_augmentation_is_differentiable_by_pixels():
    pixels, draws = torch.linspace(0, 1, 32).double().view(2, 1, 4, 4).requires_grad_(), torch.tensor([[0.3, 0.8, 0.2], [0.6, 0.1, 0.9]])
    assert torch.autograd.gradcheck(lambda x: augmented(x, draws.double(), 1.5, flip=True), pixels)


def test_full_precision_turns_bfloat16_off_and_ends_with_its_block(monkeypatch, tmp_path):
    monkeypatch.setattr(central.device, "has_bf16", lambda place: True)
    learner = assemble(tree_of(["learner.precision=bf16", "device=cpu"]), Store(tmp_path)).learner

    def lowered():
        with learner.autocast():
            return torch.is_autocast_enabled("cpu")

    with full_precision():
        assert not lowered()
    assert lowered()


@pytest.mark.parametrize("changed", [{"halve_every": -1}, {"retrain": -1}, {"label_smoothing": 1.0}, {"context": -1}, {"restarts": 0}])
def test_fields_out_of_range_are_refused(changed):
    with pytest.raises(ConfigError, match=r"attack\.data"):
        attack(**changed)


def test_surrogates_without_gradients_are_refused():
    with pytest.raises(ConfigError, match="surrogates with gradients"):
        attack(steps=1).poison(aimed(lambda data, *, draw=0: Trained(None), count=1, limit=8.0), Key.root(0))


@pytest.mark.parametrize("name", ["gradient_matching", "metapoison"])
def test_with_a_frozen_extractor_only_the_weights_of_the_head_count(tiny, store, name):
    line = Line(experiment=tiny(f"attack={name}", "learner=transfer"), store=store)
    known = line.known()
    module = known.fit(known.rows).module
    assert sum(weight.numel() for weight in module.parameters()) < sum(weight.numel() for _, weight in module.named_parameters())
    wanted = Match(module, module.lift(known.targets.inputs), torch.tensor([0]), 0.0, NONE).wanted
    assert len(wanted) == sum(weight.numel() for weight in module.parameters())
    assert line.struck().mask.any()
