"""Models that make pictures from captions."""

import dataclasses

import pytest
import torch

from poisonbench.core.abilities import Coding, RowLosses, features_of, losses_of
from poisonbench.core.ask import Sampling
from poisonbench.core.errors import ConfigError, Incompatible
from poisonbench.core.learner import Batch, Trained
from poisonbench.core.rng import Key, seeded
from poisonbench.forms.shapes import PICTURE
from poisonbench.learn.objectives import FlowMatching, Reconstruction
from poisonbench.nets.generators import CODE
from poisonbench.runner.pipeline import run
from poisonbench.runner.stages import Line
from tests.conftest import assemble, tiny_words, tree_of


@pytest.fixture(scope="module")
def trained(shared):
    """Return the line of an experiment, and its victim on clean rows."""
    line = Line(experiment=assemble(tree_of(tiny_words("task=concepts")), shared), store=shared)
    return line, line.fit(line.learner, line.experiment.task.train, line.honest)


def test_flow_matching_is_zero_for_the_true_velocity_and_one_code_apart_for_none():
    codes = torch.zeros(50, 8)
    batch = Batch(inputs=torch.ones(50, 3, dtype=torch.int64), labels=torch.zeros(50), ids=torch.arange(50), extra={CODE: codes})

    def true(captions, mixed, times):
        return -mixed / (1 - times[:, None])  # with the code 0, the network sees (1 - t) noise

    with seeded(Key.root(100)):
        assert FlowMatching(draws=3)(true, batch, 0.0).max() < 1e-6
        still = FlowMatching(draws=40)(lambda captions, mixed, times: torch.zeros_like(mixed), batch, 0.0)
    assert still.shape == (50,)
    assert abs(float(still.mean()) - 1) < 0.05  # the mean square of normal noise


def test_reconstruction_counts_squares_of_tenths_of_the_range():
    inputs = torch.full((2, 3, 8, 8), 100.0)
    batch = Batch(inputs=inputs, labels=torch.zeros(2), ids=torch.arange(2))
    assert torch.allclose(Reconstruction()(lambda pixels: pixels + 51, batch, 0.0), torch.tensor([4.0, 4.0]))


def test_the_auto_encoder_keeps_most_concepts_and_its_codes_are_those_of_public_rows_alone(trained):
    line, victim = trained
    task = line.experiment.task
    assert isinstance(victim, Coding)
    with torch.no_grad():
        codes = victim.coding.features(task.train.extra[PICTURE].float())
        again = victim.coding.head(codes).round().to(torch.uint8)
    assert (task.test.ask.judge(again).argmax(1) == task.train.labels).double().mean() > 0.6
    assert torch.allclose(codes, features_of(victim, task.train), atol=1e-4)
    other = line.fit(line.learner, task.train.take(torch.arange(200)), line.honest)
    assert all(torch.equal(value, other.extractor.state()[name]) for name, value in victim.extractor.state().items())


def test_most_pictures_show_what_their_caption_says(trained):
    line, victim = trained
    test = line.experiment.task.test
    answers = test.ask(victim, test.inputs, Key.root(100)).argmax(1)
    assert (answers == test.labels).double().mean() > 0.5
    mixed = test.ask(victim, test.inputs.roll(1, 0), Key.root(100)).argmax(1)
    assert (mixed == test.labels.roll(1)).double().mean() > 0.5


def test_a_sample_depends_on_its_place_and_the_key_and_on_no_other_caption(trained):
    line, victim = trained
    inputs = line.experiment.task.test.inputs[:6]
    whole = victim.sample(inputs, Key.root(100))
    assert isinstance(victim, Sampling)
    assert whole.dtype == torch.uint8
    assert whole.shape == (6, 3, 32, 32)
    assert (whole[:3].int() - victim.sample(inputs[:3], Key.root(100)).int()).abs().max() <= 1  # rounding of another batch
    assert not torch.equal(whole, victim.sample(inputs, Key.root(101)))
    assert victim.sample(inputs[:0], Key.root(100)).shape == (0, 3, 32, 32)


def test_a_restored_victim_makes_the_same_pictures(trained):
    line, victim = trained
    again = line.learner.restore(Trained.of(victim), line.experiment.task.train, line.honest)
    inputs = line.experiment.task.test.inputs[:20]
    assert torch.equal(again.sample(inputs, Key.root(100)), victim.sample(inputs, Key.root(100)))


def test_the_loss_of_a_row_is_larger_under_another_caption_and_the_same_in_each_call(trained):
    line, victim = trained
    rows = line.experiment.task.train
    wrong = dataclasses.replace(rows, inputs=rows.inputs.flip(0))
    assert isinstance(victim, RowLosses)
    assert torch.equal(losses_of(victim, rows), losses_of(victim, rows))
    assert losses_of(victim, wrong).mean() > losses_of(victim, rows).mean() + 0.05


def test_pictures_fit_their_own_captions_better_than_those_of_other_concepts_wherever_the_rows_stand(trained):
    line, victim = trained
    rows = line.experiment.task.train
    fit = victim.agreement(rows)
    wrong = victim.agreement(rows.edit(torch.arange(len(rows)), inputs=rows.inputs.roll(50, 0)))
    assert fit.shape == (len(rows),)
    assert (fit > wrong).double().mean() > 0.9
    assert torch.allclose(victim.agreement(rows.take(torch.arange(len(rows)).flip(0))).flip(0), fit, atol=1e-4)


def test_scores_are_refused_and_so_are_rows_without_pictures_and_no_public_rows(trained, tiny, store):
    line, victim = trained
    with pytest.raises(Incompatible, match="makes pictures"):
        victim.scores(line.experiment.task.test.inputs)
    assert victim.module is None
    with pytest.raises(ConfigError, match=r"task\.public"):
        run(tiny("task=concepts", "task.public=0"), store)
    with pytest.raises(ConfigError, match="sampling"):
        dataclasses.replace(line.learner, sampling=0)
    record = run(assemble(tree_of(["task=sentiment", "learner=text_to_image", "task.rows=100", "threads=1"]), store), store)
    assert record.status == "skipped"
    assert "task=concepts" in record.reason
