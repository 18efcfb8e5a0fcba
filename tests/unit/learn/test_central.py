import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from poisonbench.core.data import Dataset
from poisonbench.core.errors import ConfigError, Diverged
from poisonbench.core.learner import Moment, Objective, PlainStep, Trained, Worded
from poisonbench.core.rng import Key
from poisonbench.learn.device import resolve, set_threads
from poisonbench.learn.distributed import Crew
from poisonbench.learn.loop import Training
from poisonbench.nets.small import Linear
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line


@pytest.fixture
def parts(tiny, store):
    experiment = tiny()
    return experiment.learner, experiment.task.train, Line(experiment=experiment, store=store).honest


def weights(victim) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in victim.state().values()])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(parts):
    learner, data, honest = parts
    one, same, other = (learner.fit(data, honest, Key.root(seed)) for seed in (0, 0, 1))
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))


def test_the_module_of_a_victim_lifts_pixels_as_they_are(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    lifted = victim.module.lift(data.inputs[:5])
    assert torch.equal(lifted, data.inputs[:5].float())
    torch.testing.assert_close(victim.module(lifted).detach(), victim.scores(data.inputs[:5]))
    assert not isinstance(victim.module, Worded)


def test_the_module_of_a_victim_of_words_has_their_embeddings(tiny, store):
    experiment = tiny("attack=none", "task=sentiment", "task.rows=60", "learner=text", "learner.epochs=1")
    learner, data, honest = experiment.learner, experiment.task.train, Line(experiment=experiment, store=store).honest
    victim = learner.fit(data, honest, Key.root(0))
    module, inputs = victim.module, data.inputs[:5]
    assert isinstance(module, Worded)
    assert module.known.tolist() == victim.net.known.tolist()
    assert torch.equal(module.table[inputs], module.lift(inputs))
    torch.testing.assert_close(module(module.lift(inputs)).detach(), victim.scores(inputs), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.features(module.lift(inputs)).detach(), victim.features(inputs), rtol=1e-5, atol=1e-5)


def test_training_leaves_its_data_and_the_global_generator_alone(parts):
    learner, data, honest = parts
    columns = {name: column.clone() for name, column in data.columns.items()}
    before = torch.random.get_rng_state()
    learner.fit(data, honest, Key.root(0))
    assert all(torch.equal(columns[name], column) for name, column in data.columns.items())
    assert torch.equal(before, torch.random.get_rng_state())


def test_it_learns_blobs(parts, tiny):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    test = tiny().task.test
    assert (victim.scores(test.inputs).argmax(1) == test.labels).float().mean() > 0.95


def test_one_step_of_a_linear_model_equals_the_closed_form(parts):
    learner, _, honest = parts
    inputs = torch.tensor([[1.0, -2.0], [0.5, 3.0], [-1.5, 0.0]])
    data = Dataset.of(inputs, torch.tensor([0, 1, 1]), num_classes=2)
    plain = dataclasses.replace(
        learner, net=Linear(norm="none"), epochs=1, batch_size=3, lr=0.5, momentum=0.0, weight_decay=0.1, schedule="cosine", label_smoothing=0.0
    )
    start = plain.fit(data, honest, Key.root(0)).state()  # any state serves as a start
    start = {**start, "net.last.weight": torch.tensor([[0.1, 0.2], [0.0, -0.3]]), "net.last.bias": torch.zeros(2)}
    begun = plain.restore(Trained(state=start, facts={}), data, honest)
    after = plain.fit(data, honest, Key.root(0), begun).state()
    standard = (inputs - start["normalized.mean"]) / start["normalized.std"]
    errors = torch.softmax(standard @ start["net.last.weight"].T, 1) - torch.eye(2)[data.labels]
    gradient = errors.T @ standard / 3 + 0.1 * start["net.last.weight"]
    torch.testing.assert_close(after["net.last.weight"], start["net.last.weight"] - 0.5 * gradient)
    torch.testing.assert_close(after["net.last.bias"], -0.5 * errors.mean(0))  # biases do not decay


def test_the_schedule_anneals_to_nearly_zero_whatever_the_number_of_epochs(parts):
    learner, *_ = parts
    for kind in ("one_cycle", "cosine"):
        for steps in (10, 1000):
            recipe = dataclasses.replace(learner, schedule=kind)
            rates = [recipe.factor(step, steps) for step in range(steps)]
            assert max(rates) <= 1
            assert max(rates) > 0.9
            assert rates[-1] < 0.05
            assert recipe.factor(steps, steps) == pytest.approx(0)


def test_a_loss_that_is_not_finite_names_its_step(parts):
    learner, data, honest = parts
    with pytest.raises(Diverged, match=r"epoch \d+, step \d+ of 12"):
        dataclasses.replace(learner, lr=1e9).fit(data, honest, Key.root(0))


def test_a_victim_is_restored_from_its_state(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    again = learner.restore(Trained.of(victim), data, honest)
    assert torch.equal(victim.scores(data.inputs), again.scores(data.inputs))
    assert torch.equal(victim.features(data.inputs), again.features(data.inputs))


def test_a_restored_victim_that_was_asked_for_scores_first_still_has_gradients(parts):
    learner, data, combine = parts
    trained = Trained.of(learner.fit(data, combine, Key.root(1)))
    victim = learner.restore(trained, data, combine)
    victim.scores(data.inputs[:2])
    pixels = data.inputs[:2].float().requires_grad_()
    victim.module(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_the_head_of_the_features_gives_the_scores(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    features = victim.features(data.inputs)
    assert features.shape == (len(data), 16)
    torch.testing.assert_close(victim.module.head(features).detach(), victim.scores(data.inputs))
    with pytest.raises(ConfigError, match="penultimate"):
        victim.features(data.inputs, "first")


def test_gradients_reach_the_pixels_through_the_normalisation(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    pixels = data.inputs[:2].float().requires_grad_()
    victim.module(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_many_fits_equal_single_fits(parts):
    learner, data, honest = parts
    halves, keys = [data.take(torch.arange(0, 100)), data.take(torch.arange(100, 200))], [Key.root(1), Key.root(2)]
    together = learner.fit_many(halves, honest, keys)
    for victim, half, key in zip(together, halves, keys, strict=True):
        assert torch.equal(weights(victim), weights(learner.fit(half, honest, key)))


@dataclass(frozen=True, kw_only=True)
class Halve(PlainStep):
    """Train on the first half of each batch, count what is seen."""

    def sample(self, batches, data, moment):
        return [batch[: len(batch) // 2] for batch in batches]


@dataclass(frozen=True, kw_only=True)
class Freeze(PlainStep):
    """Set every gradient to zero."""

    def update(self, moment):
        for weight in moment.module.parameters():
            weight.grad.zero_()


@dataclass(frozen=True, kw_only=True)
class Scale(PlainStep):
    by: float = 1.0

    def loss(self, losses, batch, moment):
        return losses * self.by


@dataclass(frozen=True, kw_only=True)
class Doubled:
    inner: Objective

    def __call__(self, network, batch, label_smoothing):
        return 2 * self.inner(network, batch, label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Twice(PlainStep):
    """Minimise twice the objective."""

    def objective(self, objective, moment):
        return Doubled(inner=objective)


@dataclass(frozen=True, kw_only=True)
class Look(PlainStep):
    """Note what the places that see rows receive."""

    seen: list

    def begin(self, module, trusted):
        self.seen.append(trusted.digest)
        module.extra = torch.nn.Linear(1, 1)  # trained with the module, since it is a part of it

    def sample(self, batches, data, moment):
        self.seen.append((data.digest, moment.epoch, moment.step))
        return batches

    def finish(self, module, plan):
        del module.extra
        return {}


def test_a_step_sees_the_trusted_rows_and_in_each_epoch_the_rows_that_are_trained_on(parts):
    learner, data, honest = parts
    trusted, seen = data.take(torch.arange(7)), []
    learner.with_epochs(2).with_step(Look(seen=seen)).fit(data, dataclasses.replace(honest, trusted=trusted), Key.root(0))
    steps = learner.planned(data).steps
    assert seen == [trusted.digest, (data.digest, 0, 0), (data.digest, 1, steps)]


@dataclass(frozen=True, kw_only=True)
class Relabel(PlainStep):
    def batch(self, batch, moment):
        return dataclasses.replace(batch, labels=torch.zeros_like(batch.labels))


def test_steps_act_in_their_places_and_chain(parts):
    learner, data, honest = parts
    base = weights(learner.fit(data, honest, Key.root(0)))
    assert torch.equal(base, weights(learner.with_step(PlainStep()).fit(data, honest, Key.root(0))))
    for step in (Halve(), Freeze(), Scale(by=0.5), Relabel()):
        assert not torch.equal(base, weights(learner.with_step(step).fit(data, honest, Key.root(0))))
    for first in (Scale(by=2.0), Twice()):
        undone = learner.with_step(Scale(by=0.5)).with_step(first)
        assert torch.equal(base, weights(undone.fit(data, honest, Key.root(0))))
    relabelled = learner.with_step(Relabel()).fit(data, honest, Key.root(0))
    assert (relabelled.scores(data.inputs).argmax(1) == 0).all()


def test_tuning_starts_from_the_victim(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    barely = dataclasses.replace(learner, lr=1e-12).with_epochs(1).fit(data, honest, Key.root(5), victim)
    parameters = [name for name, _ in victim.net.named_parameters()]
    assert barely.facts["epochs"] == 1
    for name in parameters:
        torch.testing.assert_close(barely.state()[name], victim.state()[name])


@pytest.mark.parametrize("field", [{"epochs": 0}, {"batch_size": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"crop": -1}, {"label_smoothing": 1.0}, {"warmup": 0.0}])
def test_recipes_that_cannot_be_trained_are_refused(parts, field):
    with pytest.raises(ConfigError, match="learner"):
        dataclasses.replace(parts[0], **field)


def test_devices_that_are_unknown_or_absent_are_refused():
    with pytest.raises(ConfigError, match="choose auto, cpu or cuda"):
        resolve("tpu")
    with pytest.raises(ConfigError, match="threads=-1"):
        set_threads(-1)
    if not torch.cuda.is_available():
        assert resolve("auto") == "cpu"
        with pytest.raises(ConfigError, match="sees no CUDA device"):
            resolve("cuda")


def test_biases_may_learn_at_a_rate_of_their_own(parts):
    learner, data, honest = parts
    linear = dataclasses.replace(learner, net=Linear(norm="none"), epochs=1, batch_size=len(data), lr=0.01, momentum=0.0, weight_decay=0.0)
    before = linear.begin(data, Key.root(0)).state()
    plain, boosted = (dataclasses.replace(linear, bias_lr=factor).fit(data, honest, Key.root(0)).state() for factor in (1.0, 7.0))
    torch.testing.assert_close(boosted["net.last.weight"], plain["net.last.weight"])
    torch.testing.assert_close(boosted["net.last.bias"] - before["net.last.bias"], 7 * (plain["net.last.bias"] - before["net.last.bias"]))


def training(learner, data) -> Training:
    return Training(recipe=learner, module=None, data=data, plan=learner.planned(data), rng=Key.root(0), crew=Crew())


def test_an_alternating_flip_mirrors_each_row_in_every_second_epoch(parts):
    learner, data, _ = parts
    learner = dataclasses.replace(learner, flip=True, alternate=True)
    rows = torch.arange(len(data))
    moments = [Moment(module=None, plan=learner.planned(data), epoch=epoch, step=epoch, rng=Key.root(1)) for epoch in range(3)]
    epochs = [training(learner, data).batch(rows, moment).inputs for moment in moments]
    mirrored = [(epoch == data.inputs.flip(3)).flatten(1).all(1) for epoch in epochs]
    assert torch.equal(mirrored[0], ~mirrored[1])
    assert torch.equal(mirrored[0], mirrored[2])
    assert 0.3 < mirrored[0].float().mean() < 0.7


def test_a_mirrored_evaluation_averages_a_picture_and_its_mirror_image(parts):
    learner, data, honest = parts
    victim = learner.fit(data, honest, Key.root(0))
    twice = dataclasses.replace(victim, learner=dataclasses.replace(learner, mirror=True))
    inputs = data.inputs[:20]
    torch.testing.assert_close(twice.scores(inputs), (victim.scores(inputs) + victim.scores(inputs.flip(3))) / 2)
    assert not torch.allclose(twice.scores(inputs), victim.scores(inputs))


@dataclass(frozen=True, kw_only=True)
class Mark(PlainStep):
    """Paint the left column of stored pixels white; `batch` sees it after augmentation."""

    VERSION: ClassVar[int] = 1

    def rows(self, batch, moment):
        assert batch.inputs.dtype == torch.uint8
        marked = batch.inputs.clone()
        marked[..., 0] = 255
        return dataclasses.replace(batch, inputs=marked)


def test_a_step_changes_rows_before_they_are_mirrored(parts):
    """As in WaNet's code, where warping comes first: a mark on the left of the stored rows is on the right of the mirrored ones."""
    learner, data, _ = parts
    dark = data.edit(torch.arange(len(data)), inputs=torch.zeros_like(data.inputs))
    learner = dataclasses.replace(learner, flip=True, crop=0, steps=(Mark(),))
    moment = Moment(module=None, plan=learner.planned(dark), epoch=0, step=0, rng=Key.root(1))
    inputs = training(learner, dark).batch(torch.arange(len(dark)), moment).inputs
    left, right = ((inputs[..., place] == 255).flatten(1).all(1) for place in (0, -1))
    assert torch.equal(left, ~right)
    assert 0.2 < right.double().mean() < 0.8


def test_kept_models_are_those_of_shorter_trainings_at_a_constant_rate(parts):
    """The rate is constant, so the model after 1, 3 and 5 epochs is that of a training that ends there."""
    learner, data, honest = parts
    learner = dataclasses.replace(learner, schedule="constant", history_every=2).with_epochs(5)
    kept = learner.fit(data, honest, Key.root(0))
    assert len(kept.history) == 3
    for epochs, state in zip((1, 3, 5), kept.history, strict=True):
        short = learner.with_epochs(epochs).fit(data, honest, Key.root(0)).state()
        assert all(torch.equal(value, short[name]) for name, value in state.items())
    again = learner.restore(Trained.of(kept), data, honest)
    assert len(again.history) == 3
    assert not dataclasses.replace(learner, history_every=0).fit(data, honest, Key.root(0)).history


def test_the_record_has_the_accuracy_after_kept_epochs(tiny, store):
    record = run(tiny("learner.history_every=2", "learner.epochs=5"), store)
    curve = record.curves["defended"]
    assert curve["epoch"] == [1.0, 3.0, 5.0]
    assert curve["c_acc"][-1] == pytest.approx(record.metrics["c_acc"])
    assert not run(tiny("learner.epochs=5"), store).curves


def test_stacks_keep_no_models(parts):
    with pytest.raises(ConfigError, match=r"learner\.history_every=1, learner\.stack=vmap"):
        dataclasses.replace(parts[0], history_every=1, stack="vmap")
