import pytest
import torch

from defenses.repair.fine_pruning import idlest
from defenses.repair.neural_cleanse import Inverted, NeuralCleanse, Weight, anomaly_indices
from defenses.screen.strip import Strip, entropy
from defenses.train.adversarial_training import WorstCaseStep
from poisonbench.core.data import Dataset
from poisonbench.core.defense import Means
from poisonbench.core.errors import ConfigError
from poisonbench.core.learner import Batch, Moment, Plan
from poisonbench.core.rng import Key
from poisonbench.runner.pipeline import Line, run

POISONED = ("attack=backdoor", "threat.budget.rate=0.2")


def test_channels_are_pruned_from_the_idlest_until_the_accuracy_falls():
    features = torch.tensor([[0.1, 5.0, 0.3, 2.0]])

    def right(kept):
        return 0.9 if kept[3] and kept[1] else 0.5

    assert idlest(features, right, 0.1).tolist() == [True, False, True, False]
    assert idlest(features, lambda kept: 1.0, 0.1).sum() == 3  # one always stays


def test_silenced_channels_stay_silent_through_tuning(tiny, store):
    line = Line(experiment=tiny(*POISONED), store=store)
    poisoned = line.strike()
    victim = line.fit(line.learner, poisoned.data, line.honest)
    channels = torch.zeros(16, dtype=torch.bool)
    channels[[2, 7]] = True
    tuned = line.means(poisoned, None).tune(victim.silenced(channels), poisoned.data, epochs=2)
    features = tuned.features(poisoned.data.inputs)
    assert features[:, channels].abs().max() == 0
    assert features[:, ~channels].abs().max() > 0
    assert victim.features(poisoned.data.inputs)[:, channels].abs().max() > 0  # the one given stays as it is


def test_the_anomaly_index_is_as_by_hand():
    # median 10, deviations 0 1 1 2 9, MAD 1
    found = anomaly_indices([10.0, 11.0, 9.0, 12.0, 1.0])
    assert found == pytest.approx([0.0, -1 / 1.4826, 1 / 1.4826, -2 / 1.4826, 9 / 1.4826])


def path(*reached: bool) -> list[float]:
    weight, seen = Weight(), list[float]()
    for step in reached:
        weight = weight.after(reached=step, first=8.0)
        seen.append(weight.now)
    return seen


def test_the_weight_starts_at_zero_and_rises_by_one_and_a_half_as_by_hand():
    # the fifth step in a row sets it and counts as the first of the next five; from there every fifth step raises it
    assert path(*[True] * 14) == [0, 0, 0, 0, 8, 8, 8, 8, 12, 12, 12, 12, 12, 18]


def test_the_weight_falls_by_one_and_a_half_to_the_one_and_a_half():
    assert path(*[True] * 9, *[False] * 5)[-2:] == [12, pytest.approx(12 / 1.5**1.5)]
    assert path(*[True] * 9, *[False] * 10)[-1] == pytest.approx(12 / 1.5**3)


def test_one_step_of_the_other_kind_starts_the_count_again():
    assert path(*[True] * 4, False, *[True] * 4) == [0] * 9
    assert path(*[True] * 9, *[False] * 4, True, *[False] * 4)[-1] == 12
    assert path(*[False] * 20) == [0] * 20


class Unreachable(torch.nn.Module):
    """Prefers label 0 whatever is shown; label 1 gains with every bright pixel, never enough."""

    def forward(self, inputs):
        return torch.stack([torch.full((len(inputs),), 9.0), inputs.flatten(1).mean(1) / 255], 1)


def test_where_no_trigger_reaches_the_class_the_last_one_counts_and_not_the_smallest():
    rows = Dataset.of(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), num_classes=2)
    repair = NeuralCleanse(steps=10, lr=0.1, weight=0.001, success=0.99, threshold=2.0, stamped=0.2, epochs=1)
    found = repair.invert(Unreachable(), rows, 1)
    assert found.success == 0
    assert found.size > 10  # it started at 8 of 16 pixels and grew


def test_inversion_finds_a_smaller_trigger_for_the_backdoored_class(tiny, store):
    experiment = tiny(*POISONED, "defense=neural_cleanse", "defense.repair.steps=150", "learner.epochs=8")
    line = Line(experiment=experiment, store=store)
    victim = line.fit(line.learner, line.strike().data, line.honest)
    found = [experiment.defense.repair.invert(victim.module, experiment.task.trusted, label) for label in range(4)]
    assert all(trigger.success >= 0.99 for trigger in found)
    assert min(range(4), key=lambda label: found[label].size) == 0


class Corner(torch.nn.Module):
    """Class 1 where the first pixel is bright; counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = 0

    def forward(self, inputs):
        self.asked += 1
        bright = inputs[:, 0, 0, 0] / 255
        return torch.stack([torch.full_like(bright, 0.5), bright], 1) * 20


def test_a_search_ends_after_so_many_steps_without_a_smaller_mask():
    rows = Dataset.of(torch.zeros(4, 1, 4, 4, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), num_classes=2)

    def found(steps, patience=None):
        module = Corner()
        repair = NeuralCleanse(steps=steps, lr=0.1, weight=0.01, success=0.99, threshold=2.0, stamped=0.2, epochs=1, patience=patience)
        return repair.invert(module, rows, 1), module.asked

    early, asked = found(2000, patience=25)
    assert asked < 1000
    assert found(2000, patience=40)[1] > asked
    whole, all_steps = found(asked)
    assert all_steps == asked
    assert torch.equal(early.mask, whole.mask)
    assert torch.equal(early.mask, found(asked - 25)[0].mask), "the last 25 steps brought no smaller mask"
    assert found(asked - 26)[0].size > early.size, "the step before them did"


def test_a_trigger_is_laid_on_by_its_mask():
    trigger = Inverted(mask=torch.tensor([[[1.0, 0.5]]]), pattern=torch.tensor([[[200.0, 100.0]]]), success=1.0)
    assert trigger.on(torch.zeros(1, 1, 1, 2, dtype=torch.uint8)).flatten().tolist() == [200.0, 50.0]
    assert trigger.size == 1.5


def test_repairs_report_what_they_found(tiny, store):
    record = run(tiny(*POISONED, "defense=fine_pruning"), store)
    assert record.metrics["repair"]["channels"] == 16
    assert 0 <= record.metrics["repair"]["pruned"] < 16
    record = run(tiny(*POISONED, "defense=neural_cleanse", "defense.repair.steps=20"), store)
    assert {"anomaly_index", "flagged"} <= record.metrics["repair"].keys()


@pytest.mark.parametrize("defense", ["fine_tune", "fine_pruning", "neural_cleanse", "strip"])
def test_defenses_without_their_trusted_rows_are_refused_before_any_compute(tiny, store, defense):
    with pytest.raises(ConfigError, match=r"set task\.trusted"):
        run(tiny(f"defense={defense}", "task.trusted=0"), store)
    assert not store.visits


def test_entropy_is_that_of_the_softmax():
    torch.testing.assert_close(entropy(torch.tensor([[0.0, 0.0], [100.0, 0.0]])), torch.tensor([0.6931, 0.0]), atol=1e-4, rtol=0)


class CornerVictim:
    """Sure of bright corners, undecided otherwise."""

    def scores(self, inputs):
        bright = inputs[:, 0, -1, -1].float() > 100
        return torch.stack([bright * 20.0, torch.zeros(len(inputs))], 1)


def test_strip_suspects_what_stays_sure_under_overlays():
    dark = torch.zeros(10, 1, 4, 4, dtype=torch.uint8)
    triggered = dark.clone()
    triggered[:5, 0, -1, -1] = 255
    trusted = Dataset.of(dark, torch.zeros(10, dtype=torch.int64), num_classes=2)
    means = Means(trusted=trusted, fit=None, tune=None, truth=torch.zeros(0, dtype=torch.bool))
    suspicion = Strip(overlays=8, weight=0.5).suspicion(CornerVictim(), triggered, means, Key.root(0))
    assert suspicion[:5].min() > suspicion[5:].max() + 0.5


def test_worst_cases_stay_in_their_ball_and_raise_the_loss(tiny, store):
    line = Line(experiment=tiny(), store=store)
    data = line.experiment.task.train
    module = line.fit(line.learner, data, line.honest).net
    module.train()
    step = WorstCaseStep(limit=8.0, step_size=2.0, ascents=7)
    batch = Batch(inputs=data.inputs.float(), labels=data.labels, ids=data.ids)
    moment = Moment(module=module, plan=Plan(rows=380, epochs=1, steps=1, shape=(1, 8, 8)), epoch=0, step=0, rng=Key.root(0))
    after = step.batch(batch, moment)
    assert module.training
    assert (after.inputs - batch.inputs).abs().max() <= 8
    assert after.inputs.min() >= 0
    assert after.inputs.max() <= 255
    module.eval()

    def loss(inputs):
        return float(torch.nn.functional.cross_entropy(module(inputs), data.labels).detach())

    assert loss(after.inputs) > 1.5 * loss(batch.inputs)


def test_numbers_that_mean_nothing_are_refused():
    for make in (
        lambda: Strip(overlays=0, weight=0.5),
        lambda: WorstCaseStep(limit=0.0, step_size=1.0, ascents=1),
        lambda: NeuralCleanse(steps=0, lr=0.1, weight=0.1, success=0.9, threshold=2.0, stamped=0.2, epochs=1),
        lambda: NeuralCleanse(steps=9, lr=0.1, weight=0.1, success=0.9, threshold=2.0, stamped=0.2, epochs=1, patience=0),
    ):
        with pytest.raises(ConfigError, match="defense"):
            make()
